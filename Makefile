# Two commands do everything on a fresh machine: make demo, make test.
# Needed: Go (see go.mod) and make; root and Linux for what opens network namespaces.

GO      ?= go
BIN     := bin
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
# Without grpc's pages of traces nothing uses text/template, and the linker can
# leave out methods that nobody calls: a fifth of a program.
TAGS    := grpcnotrace
FUZZTIME ?= 20s
ARCHS   ?= amd64,arm64
# Manifests that users have, which cases of e2e apply unchanged. Where this directory
# is not, the copies in the repository are taken, and it is said.
MANIFESTS ?= ../shared/cases

OURS      := ./ambit ./ztunnel/cmd/ztunnel ./waypoint/cmd/waypoint ./istiod-lite/cmd/istiod-lite ./cni/cmd/ambit-cni ./cni/cmd/ambit-cni-agent
REFERENCE := $(addprefix github.com/containernetworking/plugins/plugins/,main/bridge main/loopback ipam/host-local)

.DEFAULT_GOAL := help
.PHONY: help build images demo demo-break test check fuzz bench perf perf-quick interop e2e conformance e2e-deps e2e-programs clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build every program into bin/
	@mkdir -p $(BIN)
	CGO_ENABLED=0 $(GO) build -trimpath -tags $(TAGS) -ldflags '$(LDFLAGS)' -o $(BIN)/ $(OURS)
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o $(BIN)/ $(REFERENCE)

images: ## OCI archives of the components into dist/images; ARCHS=amd64 for one architecture
	CGO_ENABLED=0 $(GO) run ./internal/images/cmd/mkimages --go $(GO) --version $(VERSION) --arch $(ARCHS) \
	  --date $(shell git log -1 --format=%ct 2>/dev/null || echo 0) --out dist/images

demo: build ## a mesh of two nodes on this machine, shown line by line (root)
	$(BIN)/ambit demo

demo-break: build ## each line of the demo against a mesh that was sabotaged: all must turn red (root)
	$(BIN)/ambit demo --break=all

# The programs that tests run are built by the tests, with what the tests are compiled
# from. Without vet (make check has it), without debug information, and with more tests
# at a time than cores, as many of them wait: half the time from empty caches. What is
# compiled into the programs comes first, and the long tests before the short ones.
test: ## every test, with the race detector (root for the namespace tests)
	GORACE="atexit_sleep_ms=0 $$GORACE" $(GO) test -race -vet=off -gcflags=all=-dwarf=false -ldflags=-w -p 4 -timeout 15m \
	  ./ambit/... ./cni/... ./istiod-lite/... ./ztunnel/... ./waypoint/... ./e2e/... ./perf/... ./...

check: ## gofmt, vet, staticcheck, architecture, go.mod, known vulnerabilities
	@bad=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$bad" ] || { echo "gofmt would change:"; echo "$$bad"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) test -count=1 ./internal/archtest
	$(GO) mod tidy -diff
	@out=$$($(GO) tool govulncheck ./... 2>&1); code=$$?; \
	if [ $$code -eq 0 ]; then echo "govulncheck: no known vulnerability is called"; \
	elif echo "$$out" | grep -qE 'fetching vulnerabilities|vuln\.go\.dev|Forbidden|dial tcp|no such host'; then \
	  echo "govulncheck: NOT RUN, its database cannot be reached from here"; \
	else echo "$$out"; exit $$code; fi

fuzz: ## every fuzz test for FUZZTIME (20s) each
	@GO=$(GO) .ci/fuzz $(FUZZTIME)

bench: ## the benchmarks whose figures stand in ARCHITECTURE.md
	$(GO) test -run '^$$' -bench . -benchmem ./internal/hbone ./internal/streamio ./internal/policy ./internal/workload

perf: build ## the mesh measured on this machine, some 15 minutes; ZTUNNEL=/path/to/ztunnel adds a peer (root)
	$(BIN)/ambit perf --plan full --out $(BIN)/perf.json --html $(BIN)/perf.html $(addprefix --ztunnel ,$(ZTUNNEL))

perf-quick: build ## the same in 3 minutes
	$(BIN)/ambit perf --plan quick --out $(BIN)/perf-quick.json --html $(BIN)/perf-quick.html $(addprefix --ztunnel ,$(ZTUNNEL))

interop: build ## parts of Istio in place of ours: ZTUNNEL=/path/to/ztunnel here; PEERS=DIR on a real Kubernetes, with ztunnel, pilot-discovery, istioctl, istio-cni, install-cni in DIR (root)
	@[ -n "$(ZTUNNEL)$(PEERS)" ] || { echo "say where they are: make interop ZTUNNEL=/path/to/ztunnel, or make interop PEERS=DIR with the programs ztunnel, pilot-discovery, istioctl, istio-cni and install-cni in DIR"; exit 2; }
	[ -z "$(ZTUNNEL)" ] || $(BIN)/ambit demo --interop=$(ZTUNNEL)
	[ -z "$(PEERS)" ] || $(MAKE) images ARCHS=$(shell $(GO) env GOARCH)
	[ -z "$(PEERS)" ] || $(GO) run ./e2e/cmd/e2e --images dist/images --ambit $(BIN)/ambit --peers '$(PEERS)' $(if $(ONLY),--only='$(ONLY)')

e2e-deps: ## install the packages of the distribution that a lab's nodes are made of (root, Debian or Ubuntu)
	apt-get install -y --no-install-recommends containerd runc nftables util-linux mount

e2e-programs: ## build etcd and kube-apiserver from their modules, for tests beside a real API server (minutes, once)
	$(GO) run ./e2e/kubetest/cmd/programs

e2e: build images ## every case on a real Kubernetes on this machine; ONLY=regexp, REPEAT=n, MANIFESTS=dir (root, e2e-deps)
	$(GO) run ./e2e/cmd/e2e --images dist/images --ambit $(BIN)/ambit --manifests=$(MANIFESTS) $(if $(ONLY),--only='$(ONLY)') $(addprefix --repeat=,$(REPEAT))

conformance: build images ## the Gateway API's conformance suite for meshes on a real Kubernetes on this machine; ONLY=name of a test (root, e2e-deps)
	$(GO) run ./e2e/cmd/conformance --images dist/images --ambit $(BIN)/ambit --version $(VERSION) $(if $(ONLY),--only='$(ONLY)')

clean: ## remove what the build made, and what a demo left behind
	@[ ! -x $(BIN)/ambit ] || $(BIN)/ambit demo clean
	rm -rf $(BIN)
