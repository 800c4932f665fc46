package hbone

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ambit-mesh/ambit/internal/memnet"
)

// memNode is a server and a pool on a network in memory, for fake time.
type memNode struct {
	t     *testing.T
	net   memnet.Network
	certs *testCerts
	pool  *Pool

	mu    sync.Mutex
	conns []*memnet.Conn // dialled
	held  chan struct{}  // dials wait for it; nil: they do not
}

var memAddr = netip.MustParseAddrPort("10.0.0.2:15008")

// inBubble runs f with a server that answers with handle.
func inBubble(t *testing.T, cfg nodeConfig, f func(*memNode)) {
	t.Helper()
	certs := newCerts(t)
	synctest.Test(t, func(t *testing.T) {
		n := &memNode{t: t, certs: certs, pool: NewPool(cfg.pool, nil)}
		stop := n.serve(memAddr, cfg.server)
		defer func() {
			n.pool.Close()
			stop(errors.New("test is over"))
		}()
		f(n)
	})
}

// serve starts one more server; the returned function cuts it, or drains it for
// a nil cause.
func (n *memNode) serve(addr netip.AddrPort, cfg ServerConfig) (stop func(cause error)) {
	n.t.Helper()
	cfg.TLS = n.certs.server
	if cfg.Handle == nil {
		cfg.Handle = echo
	}
	ln, err := n.net.Listen(addr)
	if err != nil {
		n.t.Fatal(err)
	}
	s := NewServer(cfg, nil)
	ctx, cancel := context.WithCancel(n.t.Context())
	done := make(chan struct{})
	go func() { s.Serve(ctx, ln); close(done) }()
	return func(cause error) {
		if cause != nil {
			s.Cut(cause)
		}
		cancel()
		<-done
	}
}

// key makes targets differ.
func (n *memNode) target(key Key) Target {
	key.Address = memAddr
	return Target{Key: key, TLS: n.certs.client, Dial: func(ctx context.Context) (net.Conn, error) {
		n.mu.Lock()
		held := n.held
		n.mu.Unlock()
		if held != nil {
			<-held
		}
		c, err := n.net.Dial(ctx, netip.MustParseAddr("10.0.0.1"), memAddr)
		if err != nil {
			return nil, err
		}
		n.mu.Lock()
		n.conns = append(n.conns, c)
		n.mu.Unlock()
		return c, nil
	}}
}

// dials is how many connections were made.
func (n *memNode) dials() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.conns)
}

func (n *memNode) open(key Key) *Stream {
	n.t.Helper()
	s, err := n.pool.Open(n.t.Context(), n.target(key), request(n.t, "10.0.0.2:80"))
	if err != nil {
		n.t.Fatalf("open: %v", err)
	}
	return s
}

// wantEcho checks that s carries bytes both ways.
func wantEcho(t testing.TB, s *Stream) {
	t.Helper()
	if _, err := s.Write([]byte("ping")); err != nil {
		t.Fatalf("write: %v", err)
	}
	var got [4]byte
	if n, err := s.Read(got[:]); err != nil || string(got[:n]) != "ping" {
		t.Fatalf("echo = %q, %v", got[:n], err)
	}
}

// pass lets fake time pass.
func pass(d time.Duration) { <-time.After(d) }
