package hbone

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// testCerts are a root and one certificate for both roles.
type testCerts struct {
	cert tls.Certificate
	pool *x509.CertPool
}

// newCerts makes a self-signed certificate.
func newCerts(t testing.TB) *testCerts {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().Add(24 * 365 * 100 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{"test"},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return &testCerts{cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool: pool}
}

func (c *testCerts) server(context.Context) (*tls.Config, error) {
	return &tls.Config{
		Certificates: []tls.Certificate{c.cert}, ClientCAs: c.pool, ClientAuth: tls.RequireAndVerifyClientCert,
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, SessionTicketsDisabled: true,
		CurvePreferences: []tls.CurveID{tls.X25519},
	}, nil
}

func (c *testCerts) client(context.Context) (*tls.Config, error) {
	return &tls.Config{
		Certificates: []tls.Certificate{c.cert}, RootCAs: c.pool, ServerName: "test",
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
		CurvePreferences: []tls.CurveID{tls.X25519},
	}, nil
}

// node is a server on loopback, a pool, and what they report.
type node struct {
	t      testing.TB
	certs  *testCerts
	server *Server
	pool   *Pool
	addr   netip.AddrPort
	dials  atomic.Int32
	limits limitCounts
	stop   context.CancelFunc
	served chan error
}

// limitCounts counts LimitHit by name.
type limitCounts struct {
	mu sync.Mutex
	n  map[Limit]int
}

func (l *limitCounts) hit(name Limit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.n == nil {
		l.n = make(map[Limit]int)
	}
	l.n[name]++
}

func (l *limitCounts) get(name Limit) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n[name]
}

// nodeConfig changes what newNode makes.
type nodeConfig struct {
	certs  *testCerts // nil: new ones
	server ServerConfig
	pool   PoolConfig
}

// newNode starts a server with handle, and a pool.
func newNode(t testing.TB, cfg nodeConfig) *node {
	t.Helper()
	n := &node{t: t, certs: cfg.certs, served: make(chan error, 1)}
	if n.certs == nil {
		n.certs = newCerts(t)
	}
	cfg.server.TLS = n.certs.server
	if cfg.server.Handle == nil {
		cfg.server.Handle = echo
	}
	n.server = NewServer(cfg.server, &Trace{LimitHit: n.limits.hit})
	n.pool = NewPool(cfg.pool, nil)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.addr = ln.Addr().(*net.TCPAddr).AddrPort()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	n.stop = cancel
	go func() { n.served <- n.server.Serve(ctx, ln); close(n.served) }()
	t.Cleanup(func() {
		n.pool.Close()
		n.server.Cut(errors.New("test is over"))
		cancel()
		<-n.served
	})
	return n
}

// target is how the node's pool reaches its server.
func (n *node) target() Target {
	return Target{
		Key: Key{Source: "a", Destinations: "b", Address: n.addr},
		Dial: func(ctx context.Context) (net.Conn, error) {
			n.dials.Add(1)
			var d net.Dialer
			return d.DialContext(ctx, "tcp", n.addr.String())
		},
		TLS: n.certs.client,
	}
}

// open opens a stream.
func (n *node) open(to string) *Stream {
	n.t.Helper()
	s, err := n.pool.Open(n.t.Context(), n.target(), request(n.t, to))
	if err != nil {
		n.t.Fatalf("open %s: %v", to, err)
	}
	n.t.Cleanup(func() { s.Close() })
	return s
}

func request(t testing.TB, to string) Request {
	t.Helper()
	a, err := ParseAuthority(to)
	if err != nil {
		t.Fatal(err)
	}
	return Request{Authority: a}
}

// echo answers with what it gets, and ends when the client has.
func echo(_ context.Context, in *Incoming) {
	s, err := in.Accept(nil)
	if err != nil {
		return
	}
	if _, err := io.Copy(s, s); err == nil {
		s.CloseWrite()
	}
}

// appListener is an application: handle gets each connection.
func appListener(t testing.TB, handle func(*net.TCPConn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { defer c.Close(); handle(c.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return ln.Addr().String()
}

// proxyTo is a handler that pipes to the authority.
func proxyTo(ctx context.Context, in *Incoming) {
	var d net.Dialer
	app, err := d.DialContext(ctx, "tcp", in.Authority.String())
	if err != nil {
		in.Refuse(503)
		return
	}
	s, err := in.Accept(nil)
	if err != nil {
		app.Close()
		return
	}
	var sent, received atomic.Uint64
	s.Pipe(ctx, app.(*net.TCPConn), &sent, &received)
}

// entry is a TCP port whose connections go through the node's pool to to: the
// outbound half of a proxy. Pipe errors go to errs if it is not nil.
func (n *node) entry(to string, errs chan<- error) string {
	req := request(n.t, to)
	ctx, cancel := context.WithCancel(context.WithoutCancel(n.t.Context()))
	addr := appListener(n.t, func(app *net.TCPConn) {
		s, err := n.pool.Open(ctx, n.target(), req)
		if err == nil {
			var sent, received atomic.Uint64
			err = s.Pipe(ctx, app, &sent, &received)
		} else {
			app.SetLinger(0)
		}
		if errs != nil {
			errs <- err
		}
	})
	n.t.Cleanup(cancel) // runs before the listener waits
	return addr
}

// dialTCP connects to addr.
func dialTCP(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute))
	return c.(*net.TCPConn)
}

// eventually waits until ok, for at most 10 s.
func eventually(t testing.TB, why string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", why)
		}
		<-tick.C
	}
}
