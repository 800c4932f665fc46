// Package zds says how the CNI agent hands a pod to ztunnel: messages and
// namespace descriptors over a Unix socket.
//
// # The conversation
//
// The agent listens ([Server]), ztunnel connects ([Client]) and says hello. The
// agent sends the pods it knows, one message per packet of a SOCK_SEQPACKET
// socket, each with the descriptor of the pod's namespace beside it, and waits
// for an answer to each before it sends the next. After the last of them it says
// that the snapshot is complete, and from then on sends pods as they come and
// go. A connection that breaks any of this is closed; ztunnel comes back and
// gets a snapshot again, so no state survives a connection.
//
// # Ownership
//
// A server borrows the namespaces it sends. A client owns each namespace it
// receives until it hands it to [Handler.Add], which owns it from then on.
// Descriptors that come with a packet that is refused are closed here.
//
// # Not done here
//
// What a pod is, and trying again what failed: see cni/agent and ztunnel/pods.
// The messages themselves are in meshapi/zdsapi.
package zds
