// Package istiodlite is the control plane: objects in, workloads, services,
// policies and certificates out.
//
// # How things flow
//
//	files ──events──► model ──changes──► discovery ──delta xDS──► proxies
//	                    │                status (conditions, refused files)
//	                    └── pods of a node ──► ca ──certificates──► proxies
//
// [New] wires the parts, [Istiod.Run] runs them on two ports: one with TLS for
// proxies (delta xDS and the certificate RPC), one plain on loopback for people
// (/healthz, /readyz, /status, /metrics). Callers prove who they are before
// anything of what they send is read.
//
// # Not done here
//
// Flags and logs: see cmd/istiod-lite.
package istiodlite
