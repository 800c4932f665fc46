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
// # While the agent is away
//
// It is started anew within seconds, or a minute when it keeps ending, and a pod
// whose probes fail so long is not ready any more. So the agent hands each ztunnel
// what it needs to look for itself ([Means]): a socket by which the kernel is asked
// about sockets of the node's namespace, opened there by the agent, and the cgroups
// of the kubelet. That is less than the agent has: the way into the namespace and
// the list of processes stay with it. [Client.Run] asks for it at the start and
// every 30 s. Whenever there is an agent its word counts; without one, what the
// means cannot tell is nobody's.
//
// # On the wire
//
// A stream socket; each request is a frame of 38 bytes, one after the other:
//
//	request  version 1, 0, client address and port, server address and port
//	answer   version 1, 0: nobody's  1: the node's  2: the kubelet's  255: cannot say
//
//	request  version 1, 1, and zeros
//	answer   version 1, 3: by cgroup  4: every socket  255: cannot say; how many
//	         cgroups, and room for 4 of 8 bytes; beside it a descriptor (SCM_RIGHTS)
//
// Addresses have 16 bytes, IPv4 mapped into IPv6; ports 2, big end first.
//
// # Not done here
//
// Making the socket, which lies in a directory that only root can enter: who
// calls [Serve] brings it. Deciding what a probe may do: see ztunnel/inbound.
package sockowner
