package waypoint

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// told is a connection whose beginning says who its client is.
type told struct {
	begun
	from net.Addr
}

// RemoteAddr is what was said.
func (c *told) RemoteAddr() net.Addr { return c.from }

// whoIs reads a header of the PROXY protocol for IPv4, of either version.
func whoIs(r *bufio.Reader) (net.Addr, error) {
	first, err := r.Peek(6)
	if err != nil {
		return nil, err
	}
	if string(first) == "PROXY " {
		line, err := r.ReadString('\n')
		if err != nil {
			return nil, err
		}
		var src, dst string
		var from, to uint16
		if _, err := fmt.Sscanf(line, "PROXY TCP4 %s %s %d %d\r\n", &src, &dst, &from, &to); err != nil {
			return nil, err
		}
		return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(src), from)), nil
	}
	head := make([]byte, 16+12)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	if head[12] != 0x21 || head[13] != 0x11 || binary.BigEndian.Uint16(head[14:]) != 12 {
		return nil, fmt.Errorf("header %x", head)
	}
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.AddrFrom4([4]byte(head[16:20])), binary.BigEndian.Uint16(head[24:]))), nil
}

// serveTold runs a server outside of the mesh on port 8080 that wants to be told who its
// client is, and answers with that.
func (w *world) serveTold(ip netip.Addr, cfg *tls.Config) {
	w.t.Helper()
	ln, err := net.Listen("tcp", netip.AddrPortFrom(ip, 8080).String())
	if err != nil {
		w.t.Fatal(err)
	}
	done := make(chan struct{})
	q := &queue{ln, make(chan net.Conn), done}
	server := &http.Server{ReadHeaderTimeout: time.Minute, TLSConfig: cfg, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		io.WriteString(rw, r.RemoteAddr)
	})}
	w.t.Cleanup(func() { close(done); ln.Close(); server.Close() })
	w.background("told", func(context.Context) {
		if cfg != nil {
			server.ServeTLS(q, "", "")
			return
		}
		server.Serve(q)
	})
	w.background("telling", func(context.Context) {
		var conns sync.WaitGroup
		defer conns.Wait()
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				c.SetReadDeadline(time.Now().Add(patience))
				r := bufio.NewReader(c)
				from, err := whoIs(r)
				if err != nil {
					c.Close()
					return
				}
				c.SetReadDeadline(time.Time{})
				select {
				case q.conns <- &told{begun{c, r}, from}:
				case <-done:
					c.Close()
				}
			})
		}
	})
}

// A server outside of the mesh is told the address of each client, also where
// connections to it are kept.
func TestProxyProtocol(t *testing.T) {
	pki := newPKI(t)
	cert := &tls.Config{Certificates: []tls.Certificate{pki.issue("bank.example", nil)}}
	for _, tt := range []struct {
		name, policy string
		cfg          *tls.Config
	}{
		{"version 1", "proxyProtocol: {}", nil},
		{"version 2", "proxyProtocol: {version: V2}", nil},
		{"before TLS", "proxyProtocol: {version: V2}, tls: {mode: SIMPLE, caCertificates: " + pki.file("roots.pem") + "}", cert},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			s := w.outside("bank", "{number: 80, name: http, targetPort: 8080}", "")
			w.serveTold(s.pods[0].ip, tt.cfg)
			w.rule("bank.example", "proxied", "trafficPolicy: {"+tt.policy+"}")
			one, other := w.client("one").http(s, 80, false), w.client("other").http(s, 80, false)
			w.eventually("the host is served", func() bool { return get(t.Context(), one, "GET", "/").status == 200 })
			said := map[*http.Client]string{}
			for range 10 {
				for _, c := range []*http.Client{one, other} {
					a := get(t.Context(), c, "GET", "/")
					if a.status != 200 || said[c] != "" && said[c] != a.body {
						t.Fatalf("%+v, before it was %q", a, said[c])
					}
					said[c] = a.body
				}
			}
			if said[one] == said[other] {
				t.Errorf("two clients are told to be %q", said[one])
			}
			w.wantRecord(map[string]string{"src.addr": said[one], "src.identity": "sa/one"})
			w.wantRecord(map[string]string{"src.addr": said[other], "src.identity": "sa/other"})
		})
	}
}

// A connection of bytes ends when it has lasted as long as it may.
func TestMaxConnectionDuration(t *testing.T) {
	w := newWorld(t)
	s := w.service("db", "{name: tcp, port: 5432, targetPort: 8080}", 1, nil)
	c := w.client("web")
	talk := func() (lasted time.Duration, err error) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		st, err := c.open(ctx, fmt.Sprintf("%s:5432", s.vip))
		if err != nil {
			return 0, err
		}
		defer st.Close()
		if _, err := st.Write([]byte("x")); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(st, make([]byte, 1)); err != nil {
			return 0, err
		}
		start := time.Now()
		st.SetReadDeadline(start.Add(2 * time.Second))
		_, err = st.Read(make([]byte, 1))
		return time.Since(start), err
	}
	w.eventually("the database is served", func() bool {
		_, err := talk()
		netErr, ok := errors.AsType[net.Error](err)
		return ok && netErr.Timeout()
	})
	w.rule("db.shop.svc.cluster.local", "short", "trafficPolicy: {connectionPool: {tcp: {maxConnectionDuration: 0.3s}}}")
	w.eventually("connections end", func() bool {
		lasted, err := talk()
		return err != nil && lasted < 1500*time.Millisecond
	})
	w.wantRecord(map[string]string{"flags": "DT", "details": "longest time"})
}

// So many requests are tried again at once; another one keeps the answer it got.
func TestMaxRetries(t *testing.T) {
	w := newWorld(t)
	var again atomic.Int64
	held, release := make(chan struct{}), make(chan struct{})
	s := w.service("orders", "{name: http, port: 80, targetPort: 8080}", 1, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/":
			return
		case r.URL.Path == "/first" && again.Add(1) == 2:
			close(held)
			<-release
			return
		}
		rw.WriteHeader(503)
	}))
	w.apply("routes", `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: orders, namespace: shop}
spec: {hosts: [orders.shop.svc.cluster.local], http: [{route: [{destination: {host: orders.shop.svc.cluster.local}}], retries: {attempts: 1, retryOn: 5xx}}]}
`)
	w.rule("orders.shop.svc.cluster.local", "retries", "trafficPolicy: {connectionPool: {http: {maxRetries: 1}}}")
	c := w.client("web")
	w.eventually("the route and the rule are in force", func() bool {
		get(t.Context(), c.http(s, 80, false), "GET", "/second")
		for _, rec := range w.records() {
			if fmt.Sprint(rec["tries"]) == "2" {
				return strings.Contains(w.condition("DestinationRule", "retries "), "map[")
			}
		}
		return false
	})
	var first sync.WaitGroup
	first.Go(func() {
		if a := get(t.Context(), c.http(s, 80, false), "GET", "/first"); a.status != 200 {
			t.Errorf("the first: %+v", a)
		}
	})
	<-held
	w.eventually("another request is not tried again", func() bool {
		if a := get(t.Context(), c.http(s, 80, false), "GET", "/second"); a.status != 503 {
			t.Fatalf("%+v", a)
		}
		for _, rec := range w.records() {
			if rec["path"] == "/second" && rec["flags"] == "URX" {
				return true
			}
		}
		return false
	})
	close(release)
	first.Wait()
}
