package upstream

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ambit-mesh/ambit/waypoint/http1"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

// conn1 is a connection of HTTP/1.1. One exchange uses it at a time.
type conn1 struct {
	h       *host
	raw     net.Conn
	r       *http1.Reader
	w       *http1.Writer
	since   time.Time // kept; guarded by cluster.mu
	retired atomic.Bool
	served  int // requests
	most    int // requests; 0: any number

	// Of the current exchange.
	method      string
	resp        message.Response
	began       bool // something of the answer has come
	reused      bool
	interrupted atomic.Bool
}

// open1 gets a connection.
func (e *Endpoint) open1(ctx context.Context, fresh bool) (Exchange, error) {
	c := e.h.c
	for {
		k, err := c.acquire(ctx, e.h, e.Traffic.GetLimits())
		if err != nil {
			return nil, err
		}
		if k == nil {
			break
		}
		if !fresh && k.good() {
			k.reused, k.began = true, false
			return k, nil
		}
		k.discard()
	}
	raw, err := e.dial(ctx)
	if err != nil {
		c.released()
		return nil, err
	}
	return &conn1{
		h: e.h, raw: raw, r: http1.NewReader(raw), w: http1.NewWriter(raw),
		most: int(e.Traffic.GetLimits().GetRequestsPerConnection()),
	}, nil
}

// quiet is a connection that knows whether it can be kept.
type quiet interface{ Quiet() bool }

// good reports whether a kept connection can be used: the endpoint has said
// nothing meanwhile, not even goodbye.
func (k *conn1) good() bool {
	switch c := k.raw.(type) {
	case quiet:
		return c.Quiet()
	case *net.TCPConn:
		return quietTCP(c)
	}
	return true
}

// quietTCP looks without reading.
func quietTCP(c *net.TCPConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	var n int
	var readErr error
	if err := raw.Control(func(fd uintptr) {
		var p [1]byte
		n, _, readErr = syscall.Recvfrom(int(fd), p[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	}); err != nil {
		return false
	}
	return n <= 0 && errors.Is(readErr, syscall.EAGAIN)
}

// discard ends a connection.
func (k *conn1) discard() {
	k.raw.Close()
	k.r.Release()
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
	return &early{Conn: k.raw, first: first}
}

// early is a connection of which some bytes have been read.
type early struct {
	net.Conn
	first []byte
}

// Read gives what was read first.
func (e *early) Read(p []byte) (int, error) {
	if len(e.first) > 0 {
		n := copy(p, e.first)
		e.first = e.first[n:]
		return n, nil
	}
	return e.Conn.Read(p)
}

// CloseWrite ends our side.
func (e *early) CloseWrite() error {
	if c, ok := e.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

// Interrupt implements [Exchange].
func (k *conn1) Interrupt() {
	k.interrupted.Store(true)
	if r, ok := k.raw.(interface{ Reset() }); ok {
		r.Reset()
		return
	}
	k.raw.Close()
}

// Close implements [Exchange].
func (k *conn1) Close(whole bool) {
	k.h.c.requests.Add(-1)
	k.served++
	if !whole || !k.r.KeepsAlive() || k.r.Buffered() > 0 || k.interrupted.Load() || k.most > 0 && k.served >= k.most {
		if !whole {
			k.interrupted.Store(true)
			k.Interrupt() // it may still work for nobody
		}
		k.discard()
		return
	}
	k.r.Release()
	k.resp = message.Response{Fields: k.resp.Fields[:0]}
	k.h.c.keep(k)
}
