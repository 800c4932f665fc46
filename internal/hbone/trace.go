package hbone

import (
	"crypto/tls"
	"net/netip"
)

// Trace is what a pool or a server reports while it works. Every hook may be
// nil. Hooks are called from many goroutines and must not block.
type Trace struct {
	// ConnOpened: the handshakes with a peer are done.
	ConnOpened func(ConnInfo)
	// ConnClosed: the connection is gone; err says why and is never nil.
	ConnClosed func(ConnInfo, error)
	// HandshakeFailed: a connection to the server ended before it was one.
	HandshakeFailed func(remote netip.AddrPort, err error)
	// LimitHit: a peer reached a limit of limits.go.
	LimitHit func(Limit)
}

// ConnInfo names a connection in a Trace.
type ConnInfo struct {
	Local, Remote netip.AddrPort
	Server        bool                 // we are the server
	Key           Key                  // of the pool; zero at a server
	TLS           *tls.ConnectionState // never nil
}

func (t *Trace) connOpened(i ConnInfo) {
	if t != nil && t.ConnOpened != nil {
		t.ConnOpened(i)
	}
}

func (t *Trace) connClosed(i ConnInfo, err error) {
	if t != nil && t.ConnClosed != nil {
		t.ConnClosed(i, err)
	}
}

func (t *Trace) handshakeFailed(remote netip.AddrPort, err error) {
	if t != nil && t.HandshakeFailed != nil {
		t.HandshakeFailed(remote, err)
	}
}

func (t *Trace) limitHit(l Limit) {
	if t != nil && t.LimitHit != nil && l != "" {
		t.LimitHit(l)
	}
}
