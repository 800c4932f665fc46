package hbone

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

// PoolConfig tunes a [Pool]. The zero PoolConfig is ready for use.
type PoolConfig struct {
	Tuning
	// StreamsPerConn is how many streams one connection carries, at most what
	// the peer allows. Zero means 100.
	StreamsPerConn int
	// BulkConns is how many connections one key may have because others are
	// busy with bulk. Zero means 3.
	BulkConns int
	// IdleTimeout is how long a connection without streams is kept. Zero means 300 s.
	IdleTimeout time.Duration
	// DialTimeout bounds a new connection: TCP, TLS and SETTINGS. Zero means 10 s.
	DialTimeout time.Duration
	// OpenTimeout bounds the wait for the answer to a CONNECT. Zero means 20 s.
	OpenTimeout time.Duration
	// GoAwayTimeout bounds the same wait once the peer has said GOAWAY. Zero means 2 s.
	GoAwayTimeout time.Duration
	// Budget is shared by the pools and servers of a process. Nil means one of its own.
	Budget *Budget
}

// A Pool opens streams to peers.
type Pool struct{}

func NewPool(cfg PoolConfig, trace *Trace) *Pool { return &Pool{} }
func (p *Pool) Open(ctx context.Context, t Target, r Request) (*Stream, error) {
	return nil, ErrDraining
}
func (p *Pool) Ensure(ctx context.Context, t Target) (alive <-chan struct{}, err error) {
	return nil, ErrDraining
}
func (p *Pool) Retire(match func(Key) bool) {}
func (p *Pool) Close()                      {}

// ServerConfig says what a [Server] does.
type ServerConfig struct {
	Tuning
	Limits Limits
	// TLS is the server configuration, fetched anew for each connection.
	TLS func(ctx context.Context) (*tls.Config, error)
	// Authenticate says who the peer is; an error ends the connection. Nil
	// means that TLS has said enough.
	Authenticate func(tls.ConnectionState) (any, error)
	// Handle serves one stream. ctx ends when the stream or the server does.
	// When Handle returns, the stream is closed; a request that was not
	// answered gets 503.
	Handle func(ctx context.Context, in *Incoming)
	// DrainTimeout is how long Serve waits for streams after its context has
	// ended. Zero means 5 s, negative "do not wait".
	DrainTimeout time.Duration
	Budget       *Budget
}

// A Server accepts tunnels.
type Server struct{}

func NewServer(cfg ServerConfig, trace *Trace) *Server             { return &Server{} }
func (s *Server) Serve(ctx context.Context, ln net.Listener) error { return ErrDraining }
func (s *Server) Cut(cause error)                                  {}

// Incoming is a CONNECT that waits for its answer.
type Incoming struct {
	Authority     Authority
	Header        Header
	Peer          any // what Authenticate returned
	Local, Remote netip.AddrPort
	TLS           *tls.ConnectionState
}

func (in *Incoming) Accept(h Header) (*Stream, error) { return nil, ErrDraining }
func (in *Incoming) Refuse(status int) error          { return ErrDraining }

// A Stream is one TCP stream in a tunnel.
type Stream struct{}

var _ net.Conn = (*Stream)(nil)

func (s *Stream) Header() Header                     { return nil }
func (s *Stream) Read(p []byte) (int, error)         { return 0, ErrDraining }
func (s *Stream) Write(p []byte) (int, error)        { return 0, ErrDraining }
func (s *Stream) CloseWrite() error                  { return nil }
func (s *Stream) Close() error                       { return nil }
func (s *Stream) Reset()                             {}
func (s *Stream) LocalAddr() net.Addr                { return nil }
func (s *Stream) RemoteAddr() net.Addr               { return nil }
func (s *Stream) SetDeadline(t time.Time) error      { return nil }
func (s *Stream) SetReadDeadline(t time.Time) error  { return nil }
func (s *Stream) SetWriteDeadline(t time.Time) error { return nil }

// Pipe is the fast path between app and the tunnel.
func (s *Stream) Pipe(ctx context.Context, app *net.TCPConn, sent, received *atomic.Uint64) error {
	return ErrDraining
}
