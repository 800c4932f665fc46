package capture

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/netns"
)

// Trace holds optional hooks. They must not block.
type Trace struct {
	// Refused: a connection was turned away before anybody was asked.
	Refused func(client, target netip.AddrPort, err error)
	// Short: accept failed because something has run out; the next try comes
	// after wait. It is called at each failure.
	Short func(err error, wait time.Duration)
}

// Waits between tries of accept when something has run out. The longest one is
// our choice: descriptors come free when connections end, and a client should
// not wait much longer than that takes.
const (
	firstWait   = 5 * time.Millisecond
	longestWait = 250 * time.Millisecond
)

// Listener hands out captured connections. One goroutine uses it.
type Listener struct {
	// Set by NewListener, then only read.
	ln       net.Listener
	original func(*net.TCPConn) (netip.AddrPort, error)
	trace    Trace
	most     int // connections at once

	// Owned by the goroutine that accepts.
	backoff lifecycle.Backoff
}

// NewListener takes connections from ln, a TCP listener in the namespace of
// the pod. Closing ln stays with the caller.
func NewListener(ln net.Listener, trace Trace) *Listener {
	return &Listener{
		ln:       ln,
		original: netns.OriginalDst,
		trace:    trace,
		most:     Share(),
		backoff:  lifecycle.Backoff{Initial: firstWait, Max: longestWait},
	}
}

// Accept waits for the next connection that was redirected to us. Those that
// were not are reset and reported. A self-test of the agent has its answer when
// it is accepted.
//
// Errors: net.ErrClosed when the listener was closed; the cause of ctx when it
// ended during a wait; another error when the listener is broken for good.
func (l *Listener) Accept(ctx context.Context) (*Conn, error) {
	for {
		nc, err := l.ln.Accept()
		if err != nil {
			if err := l.recover(ctx, err); err != nil {
				return nil, err
			}
			continue
		}
		l.backoff.Reset()
		tc, ok := nc.(*net.TCPConn)
		if !ok {
			nc.Close()
			return nil, errors.New("listener of a pod is not TCP")
		}
		c, err := l.describe(tc)
		if netns.IsSelfTest(c.Target) {
			tc.Close() // that is the answer
			continue
		}
		if err == nil {
			return c, nil
		}
		l.refuse(c, err)
	}
}

// refuse resets c and reports it.
func (l *Listener) refuse(c *Conn, err error) {
	c.Abort()
	if l.trace.Refused != nil {
		l.trace.Refused(c.Client, c.Target, err)
	}
}

// describe learns both ends of tc and where it was going. The Conn is never
// nil.
func (l *Listener) describe(tc *net.TCPConn) (*Conn, error) {
	c := &Conn{TCP: tc, Client: addrPort(tc.RemoteAddr()), Local: addrPort(tc.LocalAddr())}
	target, err := l.original(tc)
	if err != nil {
		return c, err
	}
	c.Target = netip.AddrPortFrom(target.Addr().Unmap().WithZone(""), target.Port())
	return c, c.guard()
}

// recover decides about a failed accept: nil means try again, after a wait when
// something has run out.
func (l *Listener) recover(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, net.ErrClosed):
		return net.ErrClosed
	case errors.Is(err, syscall.ECONNABORTED), errors.Is(err, syscall.EPROTO):
		return nil // the client went away before we looked
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE),
		errors.Is(err, syscall.ENOBUFS), errors.Is(err, syscall.ENOMEM):
		wait := l.backoff.Next()
		if l.trace.Short != nil {
			l.trace.Short(err, wait)
		}
		return lifecycle.Sleep(ctx, wait)
	}
	return err
}

// addrPort is a as a typed value, unmapped and without a zone, which no rule and
// no original destination has; invalid when it is not TCP.
func addrPort(a net.Addr) netip.AddrPort {
	ta, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := ta.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}
