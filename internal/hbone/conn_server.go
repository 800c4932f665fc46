package hbone

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/netip"
	"sync"

	"golang.org/x/net/http2"
)

// onRequest takes the header that a client sends on a stream.
func (c *conn) onRequest(id uint32, f fields, end bool) error {
	if id%2 == 0 {
		return protocolError(http2.ErrCodeProtocol, "HEADERS on stream %d", id)
	}
	c.mu.Lock()
	l := &c.life
	if id <= l.lastPeer {
		s := c.streams[id]
		c.mu.Unlock()
		return c.onTrailers(s, end)
	}
	l.lastPeer = id
	c.in.changed = true
	switch {
	case id > l.acceptUpTo || l.leaving:
		defer c.mu.Unlock()
		c.enqueueReset(id, http2.ErrCodeRefusedStream)
		return c.enqueueAnswer(4)
	case len(c.streams) >= c.cfg.streams || l.handlers >= 2*c.cfg.streams:
		defer c.mu.Unlock()
		c.enqueueReset(id, http2.ErrCodeRefusedStream)
		if !c.in.abuse.refused.take(refusedRate, 1, c.in.now()) {
			limit := LimitStreams
			if len(c.streams) < c.cfg.streams {
				limit = LimitRapidReset // handlers of streams that were reset
			}
			return calm(limit, "streams beyond the limit of %d", c.cfg.streams)
		}
		return c.enqueueAnswer(4)
	}
	authority, err := f.target()
	if err != nil {
		defer c.mu.Unlock()
		if !c.in.abuse.badRequest.take(badRequestRate, 1, c.in.now()) {
			return calm(LimitBadRequests, "too many requests that are no CONNECT to an authority")
		}
		block := appendStatus(nil, http.StatusBadRequest, nil)
		c.enqueueHeaders(id, block, true)
		return c.enqueueAnswer(len(block))
	}
	s := c.newStream(id)
	s.recving.ended, s.recving.done, s.end = end, end, end
	c.streams[id] = s
	l.handlers++
	ctx, cancel := context.WithCancelCause(c.in.ctx)
	s.cancel = cancel
	c.mu.Unlock()

	in := &Incoming{
		Authority: authority, Header: f.header, Peer: c.cfg.peer,
		Local: c.info.Local, Remote: c.info.Remote, TLS: c.info.TLS, s: s,
	}
	if !c.cfg.group.runDeep(func() { c.serve(ctx, in) }) {
		c.serveDone(in)
	}
	return nil
}

// onTrailers takes a second header of a stream; nil is one that is over.
func (c *conn) onTrailers(s *Stream, end bool) error {
	if s == nil {
		return c.countControl()
	}
	c.mu.Lock()
	ended := s.recving.ended
	c.mu.Unlock()
	switch {
	case ended:
		s.abort(http2.ErrCodeStreamClosed, &ResetError{Code: http2.ErrCodeStreamClosed, Local: true})
	case end:
		s.receiveEnd()
	default:
		s.abort(http2.ErrCodeProtocol, &ResetError{Code: http2.ErrCodeProtocol, Local: true})
	}
	return nil
}

// serve runs the handler of one request.
func (c *conn) serve(ctx context.Context, in *Incoming) {
	c.cfg.handle(ctx, in)
	if in.rest == nil {
		c.serveDone(in)
		return
	}
	rest := func() {
		defer c.serveDone(in)
		in.rest()
	}
	if !c.cfg.group.run(rest) {
		rest()
	}
}

// serveDone closes what the handler left open.
func (c *conn) serveDone(in *Incoming) {
	in.Refuse(http.StatusServiceUnavailable)
	in.s.Close()
	in.s.cancel(nil)
	c.mu.Lock()
	c.life.handlers--
	c.mu.Unlock()
	c.leaveIfUnused()
}

// Incoming is a CONNECT that waits for its answer.
type Incoming struct {
	Authority     Authority
	Header        Header
	Peer          any                  // what ServerConfig.Authenticate returned
	Local, Remote netip.AddrPort       // of the tunnel's TCP connection
	TLS           *tls.ConnectionState // of the tunnel

	s    *Stream
	rest func() // of Later
	mu   sync.Mutex
	done bool // answered
}

// Later runs fn when Handle has returned, as if it were its end, on a goroutine
// of its own: what waits for long should not keep the stack that deciding has
// taken. Handle calls it at most once.
func (in *Incoming) Later(fn func()) { in.rest = fn }

// Accept answers 200 with h and returns the stream. Call it only once the
// application is connected.
func (in *Incoming) Accept(h Header) (*Stream, error) {
	if err := checkHeader(h); err != nil {
		return nil, err
	}
	if err := in.answer(http.StatusOK, h); err != nil {
		return nil, err
	}
	return in.s, nil
}

// Refuse answers status, which should be 400, 401 or 503.
func (in *Incoming) Refuse(status int) error { return in.answer(status, nil) }

// Retire says GOAWAY on the tunnel of this request: its peer must come again by
// a new connection. Streams that are open live on.
func (in *Incoming) Retire() { in.s.c.drain() }

// answer sends the header of the answer, once. After anything but 200 the
// stream is over.
func (in *Incoming) answer(status int, h Header) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.done {
		return errHandled
	}
	in.done = true
	s, c := in.s, in.s.c
	block := appendStatus(make([]byte, 0, 256), status, h)
	c.mu.Lock()
	if err := s.sending.err; err != nil {
		c.mu.Unlock()
		return err
	}
	ok := status == http.StatusOK
	c.enqueueHeaders(s.id, block, !ok)
	s.answered = true
	if !ok {
		s.sending.ended, s.sending.err = true, errHandled
		c.removeLocked(s)
	}
	c.mu.Unlock()
	c.kick()
	return nil
}
