// Package streamio copies a byte stream both ways between two TCP sockets,
// half-close included, and counts.
//
// # How bytes move
//
// Large steps the kernel makes: splice takes bytes from one socket into a pipe
// and from the pipe into the other socket, and they never enter this process.
// Small ones go through a buffer, which costs less than two splices. Each step
// is judged by the one before it. A direction borrows its pipe or buffer only
// while bytes are under way, so an idle connection holds neither. Where splice
// is not to be had, and where no pipe can be made (out of descriptors), all
// goes through the buffer: slower, but it goes.
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
