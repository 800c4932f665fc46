// Package outbound is the straight path from a pod to the mesh.
//
// # The path of a connection
//
// [Outbound.Serve] is all of it: who is calling, a permit, the way, the pipe.
// The way is found by route.Resolve from one picture and made by one of:
//
//	tunnel  a stream in an HBONE tunnel of the pod's own pool
//	local   socket to socket, to a pod that the same process serves
//	direct  plain TCP inside the pod's namespace
//
// Nothing of the client is read before there is a way, so a failed try can be
// made again with another endpoint. When no way could be made, the client sees
// a reset: never an end of stream, which would mean "all is said".
//
// # The local path
//
// Two pods of one node need no TLS between two ends of one process. To stay as
// safe as the wire, it is taken only when the client's address is one that the
// agent handed over with the pod, the destination's address is in the other
// pod's namespace, both certificates are valid, and a tunnel between the two is
// alive as a witness: what keeps the tunnel from coming about (a NetworkPolicy,
// a missing root) keeps the local path from coming about too. The other pod's
// inbound path decides as for any CONNECT.
//
// # Files, in the order of travel
//
//	outbound.go  who we are, and what we work with
//	serve.go     the whole path on one screen
//	open.go      tries: resolve, then tunnel, local or direct
//	ways.go      the three ways to carry bytes
//	local.go     the conditions of the local path
//	witness.go   tunnels that vouch for local paths
//	peers.go     whom our tunnels lead to, and what a change of roots ends
//	explain.go   errors, and hints for operators
package outbound
