package hbone

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// ServerConfig says what a [Server] does. TLS and Handle are required.
type ServerConfig struct {
	Tuning
	Limits Limits
	// TLS is the server configuration, fetched anew for each connection. It
	// must offer "h2".
	TLS func(ctx context.Context) (*tls.Config, error)
	// Authenticate says who the peer is; an error ends the connection. Nil
	// means that TLS has said enough.
	Authenticate func(tls.ConnectionState) (any, error)
	// Handle serves one stream. ctx ends when the stream is reset, its
	// connection is lost or the server cuts. When Handle returns, the stream is
	// closed; a request that was not answered gets 503.
	Handle func(ctx context.Context, in *Incoming)
	// DrainTimeout is how long Serve waits for streams after its context has
	// ended. Zero means 5 s, negative "do not wait".
	DrainTimeout time.Duration
	// Budget is shared by the pools and servers of a process. Nil means one of
	// its own.
	Budget *Budget
}

// withDefaults returns the configuration in force.
func (c ServerConfig) withDefaults() ServerConfig {
	c.Tuning, c.Limits = c.Tuning.withDefaults(), c.Limits.withDefaults()
	c.DrainTimeout = max(0, cmp.Or(c.DrainTimeout, 5*time.Second))
	if c.Budget == nil {
		c.Budget = NewBudget(0)
	}
	return c
}

// A Server accepts tunnels.
type Server struct {
	cfg   ServerConfig
	trace *Trace
	group group
	door  door

	mu       sync.Mutex
	cause    error // of Cut; nil before
	draining bool
	conns    map[*conn]struct{}
	idle     chan struct{} // closed when draining and no connection is left
	cuts     map[*context.CancelCauseFunc]struct{}
}

// NewServer returns a server that Serve starts.
func NewServer(cfg ServerConfig, trace *Trace) *Server {
	cfg = cfg.withDefaults()
	s := &Server{
		cfg: cfg, trace: trace,
		conns: make(map[*conn]struct{}), idle: make(chan struct{}),
		cuts: make(map[*context.CancelCauseFunc]struct{}),
	}
	s.door.init(cfg.Limits, trace)
	return s
}

// Serve serves connections from ln until ctx ends or Cut is called. At the end
// of ctx the peers are told to go elsewhere, open streams get DrainTimeout, and
// what is left is cut. When Serve has returned nothing of the server is left.
// A server serves once.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	life, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(nil)
	if !s.register(&cut) {
		ln.Close()
		return s.cutCause()
	}
	stopListen := context.AfterFunc(ctx, func() { ln.Close() })
	defer stopListen()
	stopCut := context.AfterFunc(life, func() { ln.Close() })
	defer stopCut()

	awaitFirstByte(ln, s.cfg.Limits.SilentTime)
	err := s.accept(ctx, life, ln)
	ln.Close()
	s.door.close()
	s.drain(ctx, life)
	cause := context.Cause(life)
	switch {
	case cause != nil:
	case ctx.Err() != nil:
		cause = ErrDrainTimeout
	default:
		cause = err
	}
	s.Cut(cause)
	s.group.wait()
	if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// accept takes connections until ln is closed.
func (s *Server) accept(ctx, life context.Context, ln net.Listener) error {
	var pause time.Duration
	for {
		raw, err := ln.Accept()
		if err == nil {
			pause = 0
			rest(ctx, life, s.admit(life, raw))
			continue
		}
		var ne net.Error
		if ctx.Err() != nil || life.Err() != nil || !errors.As(err, &ne) || errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("accept on %v: %w", ln.Addr(), err)
		}
		// Out of descriptors or memory: it may get better.
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		rest(ctx, life, pause)
	}
}

// rest waits for d, or until one of the contexts ends.
func rest(ctx, life context.Context, d time.Duration) {
	if d == 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-life.Done():
	}
}

// admit starts to serve raw, and says how long to wait before the next.
func (s *Server) admit(life context.Context, raw net.Conn) (pause time.Duration) {
	if hasLeft(raw) {
		s.trace.handshakeFailed(addrPort(raw.RemoteAddr()), errLeft)
		raw.Close()
		return s.door.noted()
	}
	g, pause := s.door.enter(raw)
	if g == nil {
		raw.Close()
		return pause
	}
	started := s.group.run(func() {
		defer g.leave()
		defer raw.Close()
		c, err := s.handshake(life, raw, g)
		if err != nil {
			s.trace.handshakeFailed(addrPort(raw.RemoteAddr()), err)
			return
		}
		if s.add(c) {
			c.run(life)
		} else {
			c.discard()
		}
	})
	if !started {
		raw.Close()
		g.leave()
	}
	return pause
}

// handshake waits for the first byte and for its turn, then does TLS and asks who
// the peer is.
func (s *Server) handshake(life context.Context, raw net.Conn, g *guest) (*conn, error) {
	rec := newRecordConn(raw, s.cfg.Budget)
	raw.SetDeadline(time.Now().Add(s.cfg.Limits.SilentTime))
	if err := rec.wait(); err != nil {
		return nil, g.why(err, LimitSilent)
	}
	fail := func(err error) (*conn, error) {
		rec.drop()
		return nil, err
	}
	if err := g.takeTurn(life); err != nil {
		return fail(g.why(err, LimitHandshakes))
	}
	raw.SetDeadline(time.Now().Add(s.cfg.Limits.HandshakeTime))
	ctx, stop := context.WithTimeoutCause(life, s.cfg.Limits.HandshakeTime, ErrHandshakeTimeout)
	defer stop()
	conf, err := s.cfg.TLS(ctx)
	if err != nil {
		return fail(err)
	}
	keys, conf := s.cfg.prepare(conf)
	defer keys.Wipe()
	tc := tls.Server(rec, conf)
	if err := tc.HandshakeContext(ctx); err != nil {
		return fail(g.why(causeOf(ctx, err), LimitHandshakeTime))
	}
	state := tc.ConnectionState()
	if state.NegotiatedProtocol != "h2" {
		return fail(errNotH2)
	}
	var peer any
	if s.cfg.Authenticate != nil {
		if peer, err = s.cfg.Authenticate(state); err != nil {
			return fail(err)
		}
	}
	raw.SetDeadline(time.Time{})
	raw.SetReadDeadline(time.Now().Add(s.cfg.Limits.PrefaceTime))
	cfg := connConfig{
		Tuning: s.cfg.Tuning, server: true, headerBytes: s.cfg.Limits.HeaderBytes, streams: s.cfg.Limits.Streams,
		budget: s.cfg.Budget, trace: s.trace, group: &s.group, handle: s.cfg.Handle, peer: peer, onGone: s.gone,
		begun: g.settle, punish: g.punish, keys: keys,
	}
	info := ConnInfo{Local: addrPort(raw.LocalAddr()), Remote: addrPort(raw.RemoteAddr()), Server: true, TLS: &state}
	return newConn(cfg, rec, tc, info), nil
}

// add registers a connection; false when the server is ending.
func (s *Server) add(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining || s.cause != nil {
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

// gone removes a connection.
func (s *Server) gone(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if s.draining && len(s.conns) == 0 {
		s.closeIdle()
	}
}

// closeIdle says that no connection is left. The caller holds s.mu.
func (s *Server) closeIdle() {
	select {
	case <-s.idle:
	default:
		close(s.idle)
	}
}

// drain tells all peers to go elsewhere and waits for their streams.
func (s *Server) drain(ctx, life context.Context) {
	s.mu.Lock()
	s.draining = true
	all := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		all = append(all, c)
	}
	if len(all) == 0 {
		s.closeIdle()
	}
	s.mu.Unlock()
	if ctx.Err() == nil || life.Err() != nil {
		return // the listener failed, or all is cut
	}
	for _, c := range all {
		c.drain()
	}
	timer := time.NewTimer(s.cfg.DrainTimeout)
	defer timer.Stop()
	select {
	case <-s.idle:
	case <-timer.C:
	case <-life.Done():
	}
}

// register makes Cut end what cut ends.
func (s *Server) register(cut *context.CancelCauseFunc) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cause != nil {
		return false
	}
	s.cuts[cut] = struct{}{}
	return true
}

// cutCause is why Cut was called.
func (s *Server) cutCause() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cause
}

// Cut ends all connections and streams at once, for cause. Serve then returns.
func (s *Server) Cut(cause error) {
	if cause == nil {
		cause = io.ErrClosedPipe
	}
	s.mu.Lock()
	if s.cause == nil {
		s.cause = cause
	}
	cuts := make([]context.CancelCauseFunc, 0, len(s.cuts))
	for cut := range s.cuts {
		cuts = append(cuts, *cut)
	}
	all := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		all = append(all, c)
	}
	s.mu.Unlock()
	s.door.close()
	for _, cut := range cuts {
		cut(cause)
	}
	for _, c := range all {
		c.fail(cause)
	}
	s.group.cutTails(cause)
}
