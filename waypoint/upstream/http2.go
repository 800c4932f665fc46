package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync/atomic"

	xhttp2 "golang.org/x/net/http2"

	"github.com/ambit-mesh/ambit/waypoint/http2"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

// streamsPerConn is how many requests share a connection: our choice.
const streamsPerConn = 100

// conn2 is a connection of HTTP/2.
type conn2 struct {
	h    *host
	conn *http2.Conn
}

// exchange2 is a request on one.
type exchange2 struct {
	h *host
	k *conn2                       // nil when it took the request no more
	s atomic.Pointer[http2.Stream] // nil until Send; Interrupt looks at any time
}

// open2 gets a place on a connection.
func (e *Endpoint) open2(ctx context.Context) (Exchange, error) {
	c := e.h.c
	for {
		if k := e.h.reserve(); k != nil {
			return &exchange2{h: e.h, k: k}, nil
		}
		kept, err := c.acquire(ctx, e.h, e.Traffic.GetLimits())
		if err != nil {
			return nil, err
		}
		if kept != nil { // of HTTP/1.1: its place is free now
			kept.raw.Close()
			kept.r.Release()
		}
		if k := e.h.reserve(); k != nil { // somebody else was faster
			c.released()
			return &exchange2{h: e.h, k: k}, nil
		}
		raw, err := e.dial(ctx)
		if err != nil {
			c.released()
			return nil, err
		}
		e.h.serve2(ctx, raw)
	}
}

// reserve takes a place on a connection that has one.
func (h *host) reserve() *conn2 {
	h.c.mu.Lock()
	list := slices.Clone(h.two)
	h.c.mu.Unlock()
	for _, k := range list {
		if k.conn.Reserve(streamsPerConn) {
			return k
		}
	}
	return nil
}

// serve2 starts a connection, which outlives the request that it was made for.
func (h *host) serve2(ctx context.Context, raw net.Conn) {
	k := &conn2{h: h, conn: http2.NewClient(raw)}
	h.c.mu.Lock()
	h.two = append(h.two, k)
	closed := h.c.closed
	h.c.mu.Unlock()
	if closed {
		raw.Close()
	}
	h.c.u.tasks.Go(context.WithoutCancel(ctx), "upstream-http2", func(context.Context) {
		k.conn.Serve(nil)
		h.c.mu.Lock()
		h.two = slices.DeleteFunc(h.two, func(other *conn2) bool { return other == k })
		h.c.mu.Unlock()
		h.c.released()
	})
}

// Send implements [Exchange].
func (x *exchange2) Send(req *message.Request, end bool) error {
	s, err := x.k.conn.Open(req, end)
	if err != nil {
		x.k = nil
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	x.s.Store(s)
	return nil
}

// Body implements [Exchange].
func (x *exchange2) Body(p []byte) error { return x.s.Load().Write(p, false) }

// End implements [Exchange].
func (x *exchange2) End(tail message.Fields) error {
	if len(tail) > 0 {
		return x.s.Load().Trailers(tail)
	}
	return x.s.Load().Write(nil, true)
}

// Flush implements [Exchange].
func (x *exchange2) Flush() error {
	x.s.Load().Flush()
	return nil
}

// Response implements [Exchange].
func (x *exchange2) Response(ctx context.Context) (*message.Response, error) {
	resp, err := x.s.Load().Response(ctx)
	if errors.Is(err, http2.ErrUnprocessed) {
		err = fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return resp, err
}

// Hijack implements [Exchange].
func (x *exchange2) Hijack() net.Conn { return nil }

// Interrupt implements [Exchange].
func (x *exchange2) Interrupt() {
	if s := x.s.Load(); s != nil {
		s.Reset(xhttp2.ErrCodeCancel)
	}
}

// Close implements [Exchange].
func (x *exchange2) Close(bool) {
	x.h.c.requests.Add(-1)
	if s := x.s.Load(); s != nil {
		s.Reset(xhttp2.ErrCodeCancel) // unless both sides are done
	} else if x.k != nil {
		x.k.conn.Unreserve()
	}
}
