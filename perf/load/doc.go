// Package load is what runs in a pod while a mesh is measured: servers that do
// as little as a server can, and the generators of load. To the mesh they are
// ordinary programs.
//
// # What there is
//
//	bulk    as many bytes as go through, in one direction or both
//	rate    requests at fixed times (open loop), timed from the intended start
//	most    the next request as soon as the answer is there (closed loop)
//	churn   a connection per request
//	unary   calls of gRPC, many at a time on a connection (closed loop)
//	hold    connections that have done one request and then do nothing
//
// The requests of rate and most may go through a chain of servers, each of which
// asks the next.
//
// [Run] serves and takes orders on a Unix socket; a [Client] gives them.
// Counters say what has happened so far, so that whoever measures can take them
// at the same moments as processor time.
//
// # Why not a generator that exists
//
// At a fixed rate the known library (fortio) counts from the moment at which a
// request was sent, not at which it was due: a proxy that stalls for a while
// then looks better than it is. It also acts on its whole process: flags,
// signals, exits. What it would leave for us is less than what it would bring.
//
// # Not done here
//
// Judging. Processor time, and what to compare with what: see the packages
// measure, scenario and report.
package load
