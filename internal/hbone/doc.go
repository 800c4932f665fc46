// Package hbone says how bytes travel: TCP streams in HTTP/2 CONNECT tunnels
// over mutual TLS.
//
// # The path of a stream
//
// A caller asks a [Pool] for a stream to a target. The pool finds or makes a
// connection to the peer, which sends HEADERS with :method CONNECT. At the
// peer a [Server] hands the request to its Handle function as an [Incoming];
// Handle reaches the application and only then calls [Incoming.Accept], which
// answers 200 (RFC 9113, section 8.5). Both ends then hold a [Stream] and
// usually call [Stream.Pipe], the fast path between an application's socket
// and the tunnel.
//
// # How bytes move
//
// Towards the tunnel, the goroutine in Pipe reads the application's socket
// into a buffer with room for a frame header in front, and queues the frame.
// Whoever finds the connection free writes what is queued, its own frames and
// those of others, as one batch of TLS records in one system call.
//
// From the tunnel, one goroutine per connection reads many records at once,
// opens them into the buffer in which it parses frames, and tries one
// non-blocking write to the application's socket. What does not fit is copied to
// the stream's backlog and left to a helper goroutine that lives as long as the
// backlog does.
//
// A stream that is idle holds no buffer, and no goroutine but the one in Pipe.
// An idle connection holds none either.
//
// crypto/tls does the handshake and all verification, then its keys are taken
// over by package tls13: records are opened and sealed from buffer to buffer,
// without a copy. In FIPS mode and with Tuning.StdRecords crypto/tls does the
// records too.
//
// # Ownership
//
// The goroutine in conn.run owns the parser. conn.mu guards streams and send
// windows; writer.mu guards the queue; Stream.mu guards the backlog. Lock
// order: Pool.mu, Stream.mu, conn.mu, writer.mu. Every goroutine started here
// is waited for by Pool.Close or Server.Serve.
//
// # What a peer can make us hold
//
// See limits.go: each limit has a name, a reason and a test that attacks it.
// Beyond them, bytes are held only against flow-control credit, which is given
// back when the application has taken them, and against a [Budget].
//
// # Not done here
//
// Authorization, logging and metrics: see [Trace]. Who the peer is: the TLS
// configuration and ServerConfig.Authenticate. Server push, priorities,
// HTTP/1.1 and requests other than CONNECT: never.
package hbone
