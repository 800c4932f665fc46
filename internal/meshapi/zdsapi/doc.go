// Package zdsapi is how the CNI agent hands pods to ztunnel over a unix socket. It is
// generated from zds.proto; package zds has the framing.
package zdsapi
