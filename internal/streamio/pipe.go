package streamio

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
)

// Counters count the application's bytes of one connection. Any goroutine may
// read them while the connection lives. The zero value is ready.
type Counters struct {
	// Sent counts bytes from the client to the server, as the server's side
	// took them.
	Sent atomic.Uint64
	// Received counts bytes from the server to the client, as the client's
	// side took them.
	Received atomic.Uint64
}

// Side names one end of a connection.
type Side uint8

const (
	// Client is the side that connected.
	Client Side = iota
	// Server is the side that was connected to.
	Server
)

// String returns "client" or "server".
func (s Side) String() string {
	if s == Client {
		return "client"
	}
	return "server"
}

// CopyError says at which side of a connection bytes stopped moving.
type CopyError struct {
	Side Side   // whose socket broke
	Op   string // what we were doing: read, write, or end
	Err  error  // the cause, of the kernel; never nil
}

// Error returns the act, the side and the cause.
func (e *CopyError) Error() string { return e.Op + " " + e.Side.String() + ": " + e.Err.Error() }

// Unwrap makes errors.Is and errors.As see the cause.
func (e *CopyError) Unwrap() error { return e.Err }

// Pipe carries bytes both ways between client and server until both directions
// have ended, one of them breaks, or ctx ends. It adds to c what it has moved.
//
// The end of one direction is passed on by CloseWrite, and the other goes on.
// After nil both sending sides are shut and the caller closes the sockets. In
// every other case Pipe has closed both, with RST. No goroutine is left when it
// returns.
//
// Errors: the cause of ctx when it ended; else a [*CopyError] of the first
// break.
//
// Source for half-close: RFC 9293, section 3.6.
func Pipe(ctx context.Context, client, server *net.TCPConn, c *Counters) error {
	return pipeWith(ctx, client, server, c, false)
}

// pipeWith is Pipe; with copies it does without splice.
func pipeWith(ctx context.Context, client, server *net.TCPConn, c *Counters, copies bool) error {
	f := &flow{client: client, server: server}
	f.sent.load.copies, f.received.load.copies = copies, copies
	if err := f.wire(c); err != nil {
		f.breakBoth(err)
		return err
	}
	var cut sync.WaitGroup
	cut.Add(1)
	stop := context.AfterFunc(ctx, func() {
		defer cut.Done()
		f.breakBoth(context.Cause(ctx))
	})

	var back sync.WaitGroup
	back.Go(f.received.run)
	f.sent.run()
	back.Wait()

	if !stop() {
		cut.Wait()
	}
	return f.cause()
}

// flow is one connection: two halves that share their fate.
type flow struct {
	client, server *net.TCPConn
	sent, received half

	// ended counts the directions that have ended cleanly.
	ended atomic.Int32

	mu    sync.Mutex
	first error // why the flow broke; nil while it has not
}

// wire connects the halves to their sockets.
func (f *flow) wire(c *Counters) error {
	rawClient, err := f.client.SyscallConn()
	if err != nil {
		return &CopyError{Side: Client, Op: "use", Err: err}
	}
	rawServer, err := f.server.SyscallConn()
	if err != nil {
		return &CopyError{Side: Server, Op: "use", Err: err}
	}
	f.sent.init(f, end{f.client, rawClient, Client}, end{f.server, rawServer, Server}, &c.Sent)
	f.received.init(f, end{f.server, rawServer, Server}, end{f.client, rawClient, Client}, &c.Received)
	return nil
}

// breakBoth resets both sockets because of err, unless that has happened.
func (f *flow) breakBoth(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.first != nil {
		return
	}
	f.first = err
	reset(f.client)
	reset(f.server)
}

// cause returns why the flow broke, or nil when both directions have ended.
func (f *flow) cause() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.first
}

// reset closes conn so that its peer sees RST, not FIN, and drops what waits to
// be sent. Source: socket(7), SO_LINGER; RFC 9293, section 3.6.
func reset(conn *net.TCPConn) {
	// Both fail only on a socket that is closed already.
	err := errors.Join(conn.SetLinger(0), conn.Close())
	_ = err
}
