// Package entry turns HBONE streams into HTTP requests with a verified caller.
//
// [Serve] takes one stream that a tunnel has brought, finds out what it carries
// (by what the users say of the port, or by its first bytes, for which it waits
// a bounded time), and calls its [Handlers]: for each request an [Exchange], for
// anything else the stream itself.
//
//	serve.go   what a stream carries
//	sniff.go   by its first bytes
//	http1.go   requests of HTTP/1.1, one after the other
//	http2.go   requests of HTTP/2
//	farewell.go the polite end of all connections
//	raw.go     streams of bytes, and how two of them are joined
package entry
