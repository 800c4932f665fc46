// Package ztunnel assembles the node proxy: it takes a Config and the Deps,
// wires the stages of both straight paths and runs them.
//
// # What is wired to what
//
//	zds.Client ──► pods.Manager ──► per pod: capture ─► outbound ─► hbone.Pool
//	                                         hbone.Server ─► inbound ─► the application
//	xds.Client ──► workload.Store ──► route, policy.Gate
//	caclient   ──► identity.Manager ──► TLS of every tunnel
//	everything ──► telemetry, admin
//
// With Config.Dedicated there is no agent: enrol.go hands the manager the one
// workload in whose network namespace we run. Else it hands over our own pod, so
// that the metrics can be scraped through the mesh.
//
// # Order of life
//
// New wires and starts nothing. Run starts the control plane's clients first,
// then the pods. When its context ends, the pods drain while certificates and
// policies still arrive; then the clients stop, and last the admin listeners,
// so that one can watch the drain.
package ztunnel
