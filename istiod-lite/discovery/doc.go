// Package discovery serves delta xDS: workloads and services (istio.workload.Address)
// and policies (istio.security.Authorization), to every proxy that proves who it is.
//
// # How things flow
//
// [Server.Push] takes the changes of the model into one picture and notes, for
// each stream, which names the client has not seen. That set is all that is kept
// per client: it is bounded by the number of names, a name that changes twice
// stands in it once, and what is sent is the state at the time of sending. A slow
// client so gets less often what others get, and costs nothing more.
//
// One goroutine per stream receives, another sends. What a response holds is
// decided when it is its turn: endpoints that went, then policies, then endpoints
// that take no new connections, then other addresses, those of the client's own
// node first, then policies that went. So a workload never names a policy that has
// not been sent, and what ends overtakes all else. Changes wait a few milliseconds
// for company; what ends does not.
//
// A client that comes back tells the versions it holds; only what differs is
// sent. Nothing is sent before the first picture stands: a control plane that has
// just started must not look like an empty mesh.
//
// # Who sees what
//
// The proxy of a node sees the whole mesh. A waypoint sees what is bound to it and
// what that needs (see [model.Need]): its [scope] is found anew when a change touches
// it, and what comes into it or leaves it by that is sent as if it had just come or
// gone. Whose proxy a pod is says [Proxies].
//
// # Ownership
//
// [Server.Close] ends all streams and waits for their goroutines.
//
// # Metrics
//
//	ambit_xds_streams                  clients connected now
//	ambit_xds_refused_total            streams of clients that could not prove who they are
//	ambit_xds_responses_total{type}    responses sent
//	ambit_xds_resources_total{type}    resources and removals sent
//	ambit_xds_nacks_total{type}        responses that clients rejected
//	ambit_xds_lag_seconds              time from a change to its being sent
//
// # Not done here
//
// State-of-the-world xDS, other types, TLS, and who is let in.
package discovery
