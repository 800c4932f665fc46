// Package streamio copies a byte stream both ways between two TCP sockets,
// half-close included, and counts.
//
// # How bytes move
//
// The kernel moves them: splice takes bytes from one socket into a pipe and
// from the pipe into the other socket, and they never enter this process. A
// direction borrows a pipe only while bytes are under way, so an idle
// connection holds no pipe and no buffer. Where splice is not to be had, and
// where no pipe can be made (out of descriptors), bytes go through a buffer
// instead: slower, but they go.
//
// [Counters] are live: each step adds what the receiving socket took.
//
// # How it ends
//
// An end stays an end: when one side ends its sending, the sending side
// towards the other is ended, and the other direction goes on. A reset stays a
// reset: when one side breaks, or the context ends, both sockets are closed
// with RST, since a FIN would tell the application that all is complete.
//
// # Not done here
//
// Tunnels: a stream of HTTP/2 has a pipe of its own. Dialing, policy, records:
// never.
package streamio
