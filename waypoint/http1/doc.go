// Package http1 reads and writes HTTP/1.1 messages on a connection.
//
// [Reader] parses what a peer sends, strictly: a message that two programs could
// take for different ones is refused, never repaired. [Writer] writes messages
// that have been parsed, from their parts and not from the peer's bytes, so that
// what goes on is what was decided about.
//
//	reader.go   lines and buffers
//	request.go  the head of a request
//	response.go the head of an answer
//	fields.go   header fields, and how a body is framed
//	body.go     bodies: of a known length, in chunks, until the end
//	writer.go   the same way out
//	limits.go   what a peer can make us hold
//
// Source: RFC 9110, RFC 9112.
package http1
