// Package http2 carries HTTP/2 messages on a connection that something else has
// made secure: both roles, with prior knowledge, as services of a mesh speak it.
//
// A [Conn] is one connection. Its reader runs in [Conn.Serve]; each request of a
// peer gets a goroutine of its own, and each of ours uses the caller's. A
// [Stream] is one request with its answer, whichever side asked.
//
// Frames are gathered: who finds the connection free writes what all have
// queued. What a peer sends is held against flow-control credit that is given
// back when it has been read, so that a slow receiver slows its sender and
// nobody else.
//
//	conn.go    a connection, its life and its end
//	read.go    frames that come in
//	headers.go header blocks to messages
//	write.go   frames that go out
//	stream.go  one request and its answer
//	client.go  requests of ours
//	limits.go  what a peer can make us hold or do
//
// One mutex guards a connection and its streams. Nothing waits for the network
// under it.
//
// Not done here: server push, priorities, extended CONNECT.
//
// Source: RFC 9113, RFC 7541.
package http2
