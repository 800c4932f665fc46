// Package waypoint is the HTTP proxy of a namespace or a service: it terminates
// the tunnel of a client, decides about each request with the identity that the
// tunnel has proven, and sends it through a tunnel of its own to an endpoint.
//
// # The way of a request
//
// handle (serve.go) takes a stream of a tunnel: who calls, and which service or
// workload is asked for; only what is bound to this waypoint is served.
// entry.Serve finds out what the stream carries. [Waypoint.serveRequest]
// (request.go) is the rest, top to bottom: route, policies of the service,
// endpoint, policies of the workload, filters, and then exchange.go: send, try
// again where the route says so, and carry the answer. Every request leaves one
// record.
//
//	config.go   who we are
//	waypoint.go the assembly
//	status.go   metrics and readiness
//	caller.go   who calls
//	target.go   what for
//	serve.go    a stream of a tunnel
//	request.go  a request: route, policies, filters
//	exchange.go a request: endpoints, tries, the answer
//	mirror.go   copies of a request
//	session.go  requests of one client that stay at one endpoint
//	hash.go     what equal requests have in common
//	pump.go     the body of a request, which may be sent more than once
//	bytes.go    what is not HTTP
//	live.go     what is under way, and decided again when a policy changes
//
// # Why an engine of our own
//
// Measured over memory, one request and its answer, parsed and written (two
// cores, medians of three, see waypoint/http1): this codec takes 0.9 of fasthttp
// 1.70's time and 0.25 of net/http's, with 2 allocations against 0 and 35. Speed
// would not have decided against fasthttp; safety does. Its parser repairs and
// accepts what we refuse (bare line feeds, several lengths, chunk extensions),
// it renames fields, and it has no way to send informational answers and
// trailers on as they come. HTTP/2 is internal/h2's wire format with a
// connection loop of its own, for the same reasons for which the tunnels have
// one.
package waypoint
