// Package sockowner says whose socket this is: the agent looks in the host
// namespace, ztunnel asks.
//
// # What for
//
// A kubelet probes its pods from the node, in plaintext. Inside a pod nothing
// tells a probe from any other plaintext: marks of the host do not cross a veth,
// and a source address proves nothing. But the other end of a probe is a socket
// of the node, and the kernel knows whose. So ztunnel, which holds the pod's end
// of a connection that policy would refuse, asks the agent about the four numbers
// that name it ([Client.Owner]), and the agent asks the kernel ([Host.Lookup]).
//
// # What counts
//
// [Owner.Found]: a socket of the agent's own network namespace has exactly these
// two ends. [Owner.Kubelet]: the kubelet of this node holds it. Which process is
// the kubelet, and how its sockets are known, says [Host].
//
// # On the wire
//
// A stream socket; each request is a frame of 38 bytes, each answer one of 2, one
// after the other:
//
//	request  version 1, 0, client address and port, server address and port
//	answer   version 1, 0: nobody's  1: the node's  2: the kubelet's  255: cannot say
//
// Addresses have 16 bytes, IPv4 mapped into IPv6; ports 2, big end first.
//
// # Not done here
//
// Making the socket, which lies in a directory that only root can enter: who
// calls [Serve] brings it. Deciding what a probe may do: see ztunnel/inbound.
package sockowner
