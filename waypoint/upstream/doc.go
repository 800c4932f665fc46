// Package upstream chooses an endpoint, keeps connections to it and notices when
// it is ill.
//
// [Upstreams.Pick] finds an [Endpoint] of a service that can take a request; an
// [Endpoint] opens an [Exchange], a request on its way to it, or a stream of
// bytes. Who picked says at the end how it went ([Endpoint.Done]).
//
// Endpoints with a tunnel are reached through it, with our identity, and only if
// they prove to be the one that was picked. Endpoints that have no tunnel are called
// in plain TCP, or in TLS where the users want that; never in plain instead of it.
//
//	upstreams.go all clusters; the sweep of what is not used
//	cluster.go   one service, port and subset: limits
//	pick.go      which endpoint
//	level.go     which come first, by where they are
//	outlier.go   which endpoints are out, and until when
//	dial.go      connections
//	secure.go    TLS to endpoints without a tunnel
//	proxy.go     what endpoints are told of clients
//	exchange.go  what a request on its way can do
//	http1.go     over HTTP/1.1, one at a time on a connection
//	http2.go     over HTTP/2, many
package upstream
