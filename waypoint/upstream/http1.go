package upstream

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/ambit-mesh/ambit/waypoint/http1"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

// conn1 is a connection of HTTP/1.1. One exchange uses it at a time.
type conn1 struct {
	h      *host
	way    way       // it was made in
	until  time.Time // it is not kept any more; zero: never
	raw    link
	r      *http1.Reader
	w      *http1.Writer
	since  time.Time // kept; guarded by cluster.mu until it is taken
	epoch  int       // of the cluster when it was opened
	served int       // requests
	most   int       // requests; 0: any number

	// Of the current exchange.
	method      string
	resp        message.Response
	began       bool // something of the answer has come
	reused      bool
	interrupted atomic.Bool
	hijacked    bool
}

// open1 makes a connection on a place that is taken already, or else gets one: a kept
// one if it was used less than age ago.
func (e *Endpoint) open1(ctx context.Context, age time.Duration, got place, taken bool) (Exchange, error) {
	c := e.h.c
	if !taken {
		var err error
		if got, err = c.acquire(ctx, e, false); err != nil {
			return nil, err
		}
		if x := e.use(got, age); x != nil {
			return x, nil
		}
	}
	raw, err := e.dial(ctx, alpnHTTP1)
	if err != nil {
		c.released()
		return nil, err
	}
	return &conn1{
		h: e.h, way: e.way(), until: e.until(), raw: raw, r: http1.NewReader(raw), w: http1.NewWriter(raw), epoch: got.epoch,
		most: int(e.Traffic.GetLimits().GetRequestsPerConnection()),
	}, nil
}

// shut ends a connection whose place is still taken.
func (k *conn1) shut() {
	k.raw.Close()
	k.r.Release()
}

// discard ends a connection and gives its place back.
func (k *conn1) discard() {
	k.shut()
	k.h.c.released()
}

// Send implements [Exchange].
func (k *conn1) Send(req *message.Request, _ bool) error {
	k.method = req.Method
	return k.w.Request(req)
}

// Body implements [Exchange].
func (k *conn1) Body(p []byte) error { return k.w.Body(p) }

// End implements [Exchange].
func (k *conn1) End(tail message.Fields) error { return k.w.End(tail) }

// Flush implements [Exchange].
func (k *conn1) Flush() error { return k.w.Flush() }

// Response implements [Exchange].
func (k *conn1) Response(context.Context) (*message.Response, error) {
	err := k.r.ReadResponse(k.method, &k.resp)
	if err != nil {
		if k.reused && !k.began && k.r.Buffered() == 0 && !k.interrupted.Load() && closedByPeer(err) {
			return nil, ErrReused
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	k.began = true
	return &k.resp, nil
}

// closedByPeer reports whether a connection ended rather than broke a rule.
func closedByPeer(err error) bool {
	_, refused := errors.AsType[*message.Error](err)
	return !refused
}

// Hijack implements [Exchange].
func (k *conn1) Hijack() net.Conn {
	first := append([]byte(nil), k.r.Take()...)
	k.r.Release()
	k.hijacked = true
	return &early{link: k.raw, first: first}
}

// early is a connection of which some bytes have been read.
type early struct {
	link
	first []byte
}

// Read gives what was read first.
func (e *early) Read(p []byte) (int, error) {
	if len(e.first) > 0 {
		n := copy(p, e.first)
		e.first = e.first[n:]
		return n, nil
	}
	return e.link.Read(p)
}

// Room implements [Exchange].
func (k *conn1) Room(want int) int {
	if r, ok := k.raw.(interface{ Room(want int) int }); ok {
		return r.Room(want)
	}
	return 0
}

// Interrupt implements [Exchange].
func (k *conn1) Interrupt() {
	k.interrupted.Store(true)
	k.raw.Reset()
}

// Close implements [Exchange].
func (k *conn1) Close(whole bool) {
	k.h.c.requests.Add(-1)
	k.served++
	switch {
	case k.hijacked: // who has it has ended it
		k.discard()
	case !whole:
		k.Interrupt() // it may still work for nobody
		k.discard()
	case !k.r.KeepsAlive() || k.r.Buffered() > 0 || k.interrupted.Load() || k.most > 0 && k.served >= k.most, passed(k.until, time.Now()):
		k.discard()
	default:
		k.r.Release()
		k.resp = message.Response{Fields: k.resp.Fields[:0]}
		k.h.c.keep(k)
	}
}
