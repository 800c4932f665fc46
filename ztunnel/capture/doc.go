// Package capture takes a connection from a pod and learns where it was going.
//
// The rules in a pod's namespace lead what the pod sends to port 15001 and the
// plaintext it gets to port 15006. [Listener.Accept] takes such a connection,
// asks the kernel for the original destination, and refuses what was not
// redirected: whoever calls one of our ports by its number would make us call
// ourselves.
//
// When the process or the kernel has run out of something (descriptors,
// memory), Accept waits a little and goes on. What it has not taken stays in
// the queue of the kernel, so nobody is refused who can be served a moment
// later. So that one pod cannot take all there is, [Listener.Serve] keeps it to
// its [Share].
//
// # Not done here
//
// Making the sockets (internal/netns), and deciding about a connection.
package capture
