package upstream

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/ambit-mesh/ambit/internal/hbone"
	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/internal/tracing"
	"github.com/ambit-mesh/ambit/waypoint/config"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

// sourceHeader says to gateways of the ecosystem that a request has been through
// a waypoint.
var sourceHeader = hbone.Header{hpack.HeaderField{Name: "x-istio-source", Value: "waypoint"}}

// errConnectTimeout is why a connection did not come about in time.
var errConnectTimeout = errors.New("no connection in time")

// connectTime is how long a connection may take.
func (e *Endpoint) connectTime() time.Duration {
	if d := e.Traffic.GetLimits().GetConnectTimeout(); d != nil {
		return d.AsDuration()
	}
	return e.h.c.u.cfg.ConnectTimeout
}

// link is a connection to an endpoint: a stream of a tunnel, plain TCP or TLS.
type link interface {
	net.Conn
	CloseWrite() error
	// Reset ends both directions at once, and the endpoint sees that it was no end.
	Reset()
	// Quiet reports whether the connection stands and nothing has come on it that was
	// not read.
	Quiet() bool
	// WriteNow writes what can be written without waiting.
	WriteNow(p []byte) (n int, err error)
}

var (
	_ link = (*hbone.Stream)(nil)
	_ link = plain{}
	_ link = secured{}
)

// way is how an endpoint is reached. A connection that was made in one way is not used
// by who has to go another: it may be in plain where that is no longer wanted.
type way struct {
	tunnel   bool
	security config.Security // of those without
	proxy    waypointapi.ProxyProtocol
	from     netip.AddrPort // the client that proxy tells of
}

// way is how e is reached.
func (e *Endpoint) way() way {
	if e.Tunnel.IsValid() {
		return way{tunnel: true}
	}
	return way{security: e.Traffic.Security, proxy: e.Traffic.GetProxyProtocol(), from: e.from}
}

// until is when a connection that is made now is not used any more; zero: never.
func (e *Endpoint) until() (t time.Time) {
	if d := e.Traffic.MaxDuration; d > 0 {
		t = time.Now().Add(d)
	}
	return t
}

// passed reports whether a connection is not used any more.
func passed(until, now time.Time) bool { return !until.IsZero() && now.After(until) }

// dial makes a stream of bytes to the application: through its tunnel, or when it has
// none as the users want it. alpn is what is going to be spoken on it.
func (e *Endpoint) dial(ctx context.Context, alpn string) (conn link, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, e.connectTime(), errConnectTimeout)
	defer cancel()
	if e.Tunnel.IsValid() {
		conn, err = e.connect(ctx)
	} else {
		conn, err = e.connectOutside(ctx, alpn)
	}
	if err != nil {
		return nil, &ConnectError{Endpoint: e.App.String(), Err: err}
	}
	return conn, nil
}

// connectOutside reaches an endpoint that has no tunnel.
func (e *Endpoint) connectOutside(ctx context.Context, alpn string) (link, error) {
	var settings *tls.Config
	if s := e.Traffic.Security; s != (config.Security{}) {
		var err error
		if settings, err = e.h.c.u.vault.settings(s, time.Now()); err != nil {
			return nil, err
		}
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", e.App.String())
	if version := e.Traffic.GetProxyProtocol(); err == nil && version != waypointapi.ProxyProtocol_NO_PROXY_PROTOCOL {
		if _, err = conn.Write(proxyHeader(version, e.from, e.App)); err != nil {
			conn.Close()
		}
	}
	switch {
	case err == nil && settings == nil:
		return plain{conn.(*net.TCPConn)}, nil
	case err == nil:
		return secure(ctx, conn.(*net.TCPConn), settings, alpn)
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	}
	return nil, err
}

// connect opens a stream of the endpoint's tunnel.
func (e *Endpoint) connect(ctx context.Context) (link, error) {
	var dialer net.Dialer
	u, header := e.h.c.u, sourceHeader
	if e.Trace.Sampled() {
		header = hbone.Header{sourceHeader[0], {Name: tracing.Header, Value: e.Trace.String()}}
	}
	s, err := u.pool.Open(ctx, hbone.Target{
		Key: hbone.Key{Source: u.cfg.Identity.String(), Destinations: joinIDs(e.accept), Address: e.Tunnel},
		Dial: func(ctx context.Context) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", e.Tunnel.String())
		},
		TLS: u.tls(e.accept),
	}, hbone.Request{Authority: hbone.AuthorityFrom(e.App), Header: header})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// joinIDs is one text for a list of identities.
func joinIDs(ids []identity.ID) string {
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = id.String()
	}
	return strings.Join(texts, " ")
}

// OpenBytes makes a stream of bytes to the endpoint. It counts as one of its
// connections until release is called.
func (e *Endpoint) OpenBytes(ctx context.Context) (c net.Conn, release func(), err error) {
	ctx, cancel := e.connecting(ctx)
	defer cancel()
	cl := e.h.c
	got, err := cl.acquire(ctx, e, false)
	if err != nil {
		return nil, nil, err
	}
	if got.one != nil { // of HTTP: not for this
		got.one.shut()
	}
	if c, err = e.dial(ctx, alpnBytes); err != nil {
		cl.released()
		return nil, nil, err
	}
	return c, cl.released, nil
}

// connecting is ctx for as long as a connection may take, the wait for a place
// included.
func (e *Endpoint) connecting(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, cmp.Or(e.connectTime(), time.Minute), errConnectTimeout)
}

// How long ago a kept connection was used, for [Endpoint.Open].
const (
	// AnyAge is for requests that may be sent again when the endpoint closed the
	// connection in the same moment.
	AnyAge = time.Duration(1<<63 - 1)
	// JustUsed is for others: servers close connections that nobody has used for a few
	// seconds, five at the least by default, and this one is not among those. Our choice.
	JustUsed = time.Second
)

// Open gets a connection for a request: a kept one that was used less than age ago, or
// a new one.
func (e *Endpoint) Open(ctx context.Context, version message.Version, age time.Duration) (Exchange, error) {
	limits := e.Traffic.GetLimits()
	if !e.h.c.enter(limits) {
		return nil, ErrOverflow
	}
	got, taken := e.h.c.standing(e, version == message.HTTP2)
	if x := e.use(got, age); x != nil {
		return x, nil // most often: nothing has to be waited for, so there is no deadline
	}
	ctx, cancel := e.connecting(ctx)
	defer cancel()
	var x Exchange
	var err error
	if version == message.HTTP2 {
		x, err = e.open2(ctx)
	} else {
		x, err = e.open1(ctx, age, got, taken)
	}
	if err != nil {
		e.h.c.requests.Add(-1)
		if !errors.Is(err, ErrOverflow) {
			if _, ok := errors.AsType[*ConnectError](err); !ok {
				err = &ConnectError{Endpoint: e.App.String(), Err: err}
			}
		}
		return nil, err
	}
	return x, nil
}

// use goes on with a connection that stands. It is nil when there is none, or when it is
// not good for this request; then it has been closed, and its place is still taken.
func (e *Endpoint) use(got place, age time.Duration) Exchange {
	if got.two != nil {
		return &exchange2{h: e.h, k: got.two}
	}
	k := got.one
	if k == nil {
		return nil
	}
	if time.Since(k.since) < age && k.raw.Quiet() {
		k.reused, k.began = true, false
		return k
	}
	k.shut()
	return nil
}

// Address is where the endpoint is, for records.
func (e *Endpoint) Address() netip.AddrPort { return e.App }
