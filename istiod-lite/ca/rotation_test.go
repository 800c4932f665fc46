package ca

import (
	"context"
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/internal/caclient"
	"github.com/ambit-mesh/ambit/internal/identity"
)

// proxy is the certificate side of a node: a manager that asks by the client
// over TLS, and the newest certificate of its one workload.
type proxy struct {
	*identity.Manager
	t       *testing.T
	id      identity.ID
	changes chan *identity.Certificate
}

// newProxy runs a proxy until the test ends and waits for its first certificate.
func newProxy(t *testing.T, p *port, token string, id identity.ID) *proxy {
	t.Helper()
	m, err := identity.NewManager(identity.ManagerConfig{}, caclient.New(p.dial(token), caclient.Config{Impersonate: true, TTL: time.Hour}))
	if err != nil {
		t.Fatal(err)
	}
	px := &proxy{Manager: m, t: t, id: id, changes: make(chan *identity.Certificate, 16)}
	m.OnChange(func(_ identity.ID, c *identity.Certificate) { px.changes <- c })
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := m.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	m.Retain(id)
	px.next()
	return px
}

// next waits for the next certificate.
func (px *proxy) next() *identity.Certificate {
	px.t.Helper()
	select {
	case c := <-px.changes:
		return c
	case <-time.After(10 * time.Second):
		px.t.Fatalf("no certificate of %v", px.id)
		return nil
	}
}

// renew asks for a new certificate and waits for it.
func (px *proxy) renew() *identity.Certificate {
	px.t.Helper()
	px.Refresh(func(identity.ID) bool { return true })
	return px.next()
}

// now is the certificate in force.
func (px *proxy) now() *identity.Certificate {
	px.t.Helper()
	c, ok := px.Peek(px.id)
	if !ok {
		px.t.Fatalf("no valid certificate of %v", px.id)
	}
	return c
}

// link is a live connection between two proxies.
type link struct {
	server, client *tls.Conn
	seen           identity.Peer // the client, as the server knows it
}

// connect makes a link with the certificates in force.
func connect(t *testing.T, server, client *proxy) *link {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	accepted := make(chan net.Conn, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		raw, err := ln.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- raw
	})
	raw, err := net.Dial("tcp", ln.Addr().String())
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	l := &link{
		server: tls.Server(<-accepted, identity.ServerTLS(server.now())),
		client: tls.Client(raw, identity.ClientTLS(client.now(), []identity.ID{server.id})),
	}
	t.Cleanup(func() { l.client.Close(); l.server.Close() })
	wg.Go(func() {
		if err := l.client.HandshakeContext(t.Context()); err != nil {
			t.Errorf("client: %v", err)
		}
	})
	err = l.server.HandshakeContext(t.Context())
	wg.Wait()
	if err != nil {
		t.Fatalf("server: %v", err)
	}
	state := l.server.ConnectionState()
	if l.seen, err = identity.PeerOf(&state); err != nil || l.seen.ID != client.id {
		t.Fatalf("the server sees %v, %v", l.seen.ID, err)
	}
	return l
}

// exchange sends a byte each way.
func (l *link) exchange(t *testing.T, why string) {
	t.Helper()
	for _, way := range [][2]*tls.Conn{{l.client, l.server}, {l.server, l.client}} {
		var buf [1]byte
		if _, err := way[0].Write([]byte{'x'}); err != nil {
			t.Errorf("%s: %v", why, err)
		}
		way[1].SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := way[1].Read(buf[:]); err != nil || buf[0] != 'x' {
			t.Errorf("%s: read %q, %v", why, buf, err)
		}
	}
}

// The root of the mesh is replaced under two workloads that exchange data: their
// connection goes on, new ones can be made at every moment, and in the end the
// ones that still rest on the old root are known.
func TestRootIsReplacedUnderLiveConnections(t *testing.T) {
	dir := t.TempDir()
	p := serve(t, dir)
	p.world.source = []Pod{{Name: "web-1", Namespace: "shop", ServiceAccount: "web", Node: "one", Phase: "Running"}, {Name: "cart-1", Namespace: "shop", ServiceAccount: "cart", Node: "two", Phase: "Running"}}
	web, cart := newProxy(t, p, tokenOne, account("web")), newProxy(t, p, tokenTwo, account("cart"))
	oldRoot, next := p.authority.Roots(), newPair(t, "next", nil)

	var links []*link
	step := func(why string, change func()) {
		t.Helper()
		change()
		if err := p.authority.Reload(); err != nil {
			t.Fatalf("%s: %v", why, err)
		}
		for _, renew := range []*proxy{web, cart} { // one after the other, as nodes do
			links = append(links, connect(t, web, cart))
			renew.renew()
		}
		links = append(links, connect(t, web, cart))
		for _, l := range links {
			l.exchange(t, why)
		}
	}
	step("the new root is trusted too", func() { put(t, dir, extraRootsFile, next.certPEM()) })
	step("the new root signs", func() {
		put(t, dir, keyFile, next.keyPEM(t))
		put(t, dir, certFile, next.certPEM())
		put(t, dir, extraRootsFile, oldRoot)
	})
	signedByOld := len(links) - 1 // all but the last, which was made after cart's renewal
	for _, l := range links {
		if err := l.seen.TrustedBy(web.now(), time.Now()); err != nil {
			t.Errorf("both roots are trusted, and yet: %v", err)
		}
	}
	step("the old root is removed", func() {
		if err := os.Remove(filepath.Join(dir, extraRootsFile)); err != nil {
			t.Fatal(err)
		}
	})
	for i, l := range links {
		err := l.seen.TrustedBy(web.now(), time.Now())
		if lost := i < signedByOld; (err != nil) != lost {
			t.Errorf("connection %d of %d: %v, want lost: %v", i, len(links), err, lost)
		}
	}
}

// What node authorization refuses reaches the proxy as an error that says so.
func TestAProxyGetsNothingForPodsOfOthers(t *testing.T) {
	p := serve(t, t.TempDir())
	p.world.source = []Pod{{Name: "web-1", Namespace: "shop", ServiceAccount: "web", Node: "one", Phase: "Running"}, {Name: "cart-1", Namespace: "shop", ServiceAccount: "cart", Node: "two", Phase: "Running"}}
	one := newProxy(t, p, tokenOne, account("web"))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if c, err := one.Get(ctx, account("cart")); err == nil || !strings.Contains(err.Error(), "not permitted") {
		t.Errorf("node one gets %v for a pod of node two: %v", c, err)
	}
	p.world.mu.Lock()
	defer p.world.mu.Unlock()
	if p.world.reads < 2 {
		t.Errorf("%d live reads: it was not tried again", p.world.reads)
	}
}
