#!/usr/bin/env bash
# Writes the .pb.go files beside the .proto files. Needs protoc (Debian: protobuf-compiler).
set -euo pipefail
cd "$(dirname "$0")/../.."
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
go build -o "$bin" google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc
PATH="$bin:$PATH" protoc -I . \
  --go_out=. --go_opt=paths=source_relative \
  --go-grpc_out=. --go-grpc_opt=paths=source_relative \
  internal/meshapi/workloadapi/workload.proto \
  internal/meshapi/securityapi/authorization.proto \
  internal/meshapi/caapi/citadel.proto \
  internal/meshapi/waypointapi/waypoint.proto \
  internal/meshapi/waypointapi/authentication.proto \
  internal/meshapi/zdsapi/zds.proto
