// Package inbound is the straight path from the mesh to a pod, and for
// plaintext.
//
// # The path of a connection
//
// [Inbound.Receive] is all of it: wait until the control plane knows the pod,
// find the target, ask for a permit, connect to the application with the
// caller's address as source. Three doors lead to it, with the same [Request]:
//
//	Handle          a CONNECT that came over the wire
//	Receive         the same from a pod of this node, without a wire
//	ServePlaintext  what was redirected to port 15006, without an identity
//
// Each door answers "connected" only after Receive has returned, because then
// TCP to the application is connected, and closes the [Visit] with the reason
// why it ended.
//
// # What ends a visit
//
// Its permit (policy or workload changed), its pod ([Inbound.Cut]), and a
// change of the roots under which the caller was believed ([Inbound.Renewed]).
// Never a mere renewal, and never the expiry of the caller's certificate: that
// only keeps its connection from starting new visits.
//
// # Files, in the order of travel
//
//	inbound.go    who we are; TLS; the doors
//	receive.go    the whole path on one screen
//	probe.go      the kubelet, which no policy keeps from its pods
//	visit.go      one visit, and the list of those that live
//	proxyheader.go  the PROXY header that some applications want
//	explain.go    errors, statuses, and hints for operators
package inbound
