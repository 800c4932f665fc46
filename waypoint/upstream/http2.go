package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"github.com/ambit-mesh/ambit/waypoint/http2"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

// conn2 is a connection of HTTP/2.
type conn2 struct {
	h       *host
	way     way       // it was made in
	until   time.Time // it takes no more requests; zero: never
	conn    *http2.Conn
	leaving bool // it makes room for others; guarded by cluster.mu
}

// exchange2 is a request on one.
type exchange2 struct {
	h *host
	k *conn2                       // nil when it took the request no more
	s atomic.Pointer[http2.Stream] // nil until Send; Interrupt looks at any time
	// interrupted is set before s is looked at, and looked at after s is set.
	interrupted atomic.Bool
}

// open2 gets a place on a connection.
func (e *Endpoint) open2(ctx context.Context) (Exchange, error) {
	c := e.h.c
	got, err := c.acquire(ctx, e, true)
	if err != nil {
		return nil, err
	}
	if got.two == nil {
		raw, err := e.dial(ctx, alpnHTTP2)
		if err != nil {
			c.released()
			return nil, err
		}
		got.two = e.serve2(ctx, raw)
	}
	return &exchange2{h: e.h, k: got.two}, nil
}

// reserveLocked takes a place on a connection that has one, and was made in that way.
// The caller holds cluster.mu.
func (h *host) reserveLocked(by *way) *conn2 {
	for _, k := range h.two {
		if k.way == *by && !passed(k.until, time.Now()) && k.conn.Reserve(http2.SharedRequests) {
			return k
		}
	}
	return nil
}

// unused reports whether a connection has no requests, and could have. The caller holds
// cluster.mu.
func (k *conn2) unused() bool {
	_, idle := k.conn.IdleSince()
	return idle && !k.leaving
}

// serve2 starts a connection, which outlives the request that it was made for, and
// takes a place on it.
func (e *Endpoint) serve2(ctx context.Context, raw link) *conn2 {
	h := e.h
	k := &conn2{h: h, way: e.way(), until: e.until(), conn: http2.NewClient(raw)}
	k.conn.Reserve(http2.SharedRequests) // nobody was faster
	h.c.mu.Lock()
	h.two = append(h.two, k)
	closed := h.c.closed
	var old *conn2
	if k.way.from.IsValid() && len(h.two) > maxTold {
		if i := slices.IndexFunc(h.two, (*conn2).unused); i >= 0 {
			old = h.two[i]
			old.leaving = true
		}
	}
	h.c.mu.Unlock()
	if old != nil {
		old.conn.Drain()
	}
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
	return k
}

// Send implements [Exchange].
func (x *exchange2) Send(req *message.Request, end bool) error {
	s, err := x.k.conn.Open(req, end)
	if err != nil {
		x.k = nil
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	x.s.Store(s)
	if x.interrupted.Load() {
		s.Reset(xhttp2.ErrCodeCancel)
	}
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
func (x *exchange2) Response(context.Context) (*message.Response, error) {
	resp, err := x.s.Load().Answer()
	if errors.Is(err, http2.ErrUnprocessed) {
		err = fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return resp, err
}

// Room implements [Exchange].
func (x *exchange2) Room(want int) int { return x.s.Load().Room(want) }

// Hijack implements [Exchange].
func (x *exchange2) Hijack() net.Conn { return nil }

// Interrupt implements [Exchange].
func (x *exchange2) Interrupt() {
	x.interrupted.Store(true)
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
	x.h.c.left(x.h)
}
