package waypoint

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// A host outside of the mesh is called in TLS where a rule wants it: verified as the
// rule says, or not at all. Nothing is sent in plain that was to be secured, although
// the server would take it.
func TestTLSToTheOutside(t *testing.T) {
	pki, stranger := newPKI(t), newPKI(t)
	cert := pki.issue("bank.example", nil)
	pki.issue("client", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
	simple := func(more string) string {
		return "trafficPolicy: {tls: {mode: SIMPLE, caCertificates: " + pki.file("roots.pem") + more + "}}"
	}
	for i, tt := range []struct {
		name, spec string
		h2         bool
		spoken     string // as the server heard it; "": the request is refused
		details    string // of the record, where it is refused
		client     string // who the server takes the waypoint for
		status     string // part of what the rule's status says
	}{
		{"in plain without TLS", "trafficPolicy: {tls: {mode: DISABLE}}", false, "plain", "", "", "have no tunnel"},
		{"verified", simple(""), false, "bank.example", "", "", "have no tunnel"},
		{"verified, over HTTP/2", simple(""), true, "bank.example", "", "", "status:true"},
		{"another server name", simple(", sni: other.example, subjectAltNames: [bank.example]"), false, "other.example", "", "", "status:true"},
		{"a server that is not who was expected", simple(", subjectAltNames: [web.example]"), false, "", "want one of", "", "status:true"},
		{"an authority that nobody knows", "trafficPolicy: {tls: {mode: SIMPLE, caCertificates: " + stranger.file("roots.pem") + "}}", false, "", "unknown authority", "", "status:true"},
		{"roots of the system", "trafficPolicy: {tls: {mode: SIMPLE}}", false, "", "x509", "", "status:true"},
		{"unverified", "trafficPolicy: {tls: {mode: SIMPLE, insecureSkipVerify: true, subjectAltNames: [web.example]}}", false, "bank.example", "", "", "whoever answers"},
		{"mutual", "trafficPolicy: {tls: {mode: MUTUAL, caCertificates: " + pki.file("roots.pem") + ", clientCertificate: " + pki.file("client.pem") + ", privateKey: " + pki.file("client.key") + "}}",
			false, "bank.example", "", "client", "alone"},
		{"a Secret", "trafficPolicy: {tls: {mode: SIMPLE, credentialName: bank}}", false, "", "credentialName", "", "have the waypoint mount the files"},
		{"a file that is not there", "trafficPolicy: {tls: {mode: SIMPLE, caCertificates: /nowhere/ca.pem}}", false, "", "/nowhere/ca.pem", "", "status:true"},
		{"TLS of the mesh", "trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}", false, "", "not in the mesh", "", "have no tunnel"},
		{"of the port", "trafficPolicy: {tls: {mode: DISABLE}, portLevelSettings: [{port: {number: 80}, tls: {mode: SIMPLE, insecureSkipVerify: true}}]}", false, "bank.example", "", "", "status:true"},
		{"of another port", "trafficPolicy: {portLevelSettings: [{port: {number: 81}, tls: {mode: SIMPLE}}]}", false, "plain", "", "", "status:true"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			s := w.outside("bank", "{number: 80, name: http, targetPort: 8080}", "")
			w.serveEither(s.pods[0].ip, &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequestClientCert}, echo)
			c := w.client("web").http(s, 80, tt.h2)
			w.eventually("the host is served in plain", func() bool { return get(t.Context(), c, "GET", "/").header.Get("X-Spoken") == "plain" })
			if said := w.rule("bank.example", fmt.Sprintf("rule-%d", i), tt.spec); !strings.Contains(said, tt.status) {
				t.Errorf("status %s, want %q", said, tt.status)
			}
			if tt.spoken == "" {
				w.eventually("requests are refused", func() bool { return get(t.Context(), c, "GET", "/").status == 503 })
				w.wantRecord(map[string]string{"status": "503", "details": tt.details})
			} else {
				w.eventually("the host is called as the rule says", func() bool { return get(t.Context(), c, "GET", "/").header.Get("X-Spoken") == tt.spoken })
			}
			for range 20 { // and from then on, whatever connections were kept
				a := get(t.Context(), c, "GET", "/")
				if got := a.header.Get("X-Spoken"); got != tt.spoken || tt.spoken == "" && a.status != 503 || a.header.Get("X-Client") != tt.client {
					t.Fatalf("spoken %q, by client %q: %+v", got, a.header.Get("X-Client"), a)
				}
				if tt.h2 && a.header.Get("X-Version") != "HTTP/2.0" {
					t.Fatalf("version %s", a.header.Get("X-Version"))
				}
			}
		})
	}
}

// Pods of the mesh keep their tunnels and identities, whatever a rule says of TLS.
func TestTLSLeavesTheMeshAlone(t *testing.T) {
	w := newWorld(t)
	s := w.service("orders", "{name: http, port: 80, targetPort: 8080}", 1, echo)
	c := w.client("web").http(s, 80, false)
	w.eventually("the service is served", func() bool { return get(t.Context(), c, "GET", "/").status == 200 })
	w.rule("orders.shop.svc.cluster.local", "tls", "trafficPolicy: {tls: {mode: SIMPLE}, connectionPool: {http: {maxRequestsPerConnection: 1}}}")
	for range 10 {
		if a := get(t.Context(), c, "GET", "/"); a.status != 200 {
			t.Fatalf("%+v", a)
		}
	}
	p := s.pods[0]
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := p.callers["cluster.local/ns/shop/sa/waypoint"]; n == 0 {
		t.Errorf("callers %v", p.callers)
	}
}

// Bytes that are no HTTP are carried in TLS as well, with their ends.
func TestTLSForBytes(t *testing.T) {
	pki := newPKI(t)
	cert := pki.issue("db.example", nil)
	w := newWorld(t)
	s := w.outside("db", "{number: 5432, name: tcp, targetPort: 8080}", "")
	ln, err := tls.Listen("tcp", netip.AddrPortFrom(s.pods[0].ip, 8080).String(), &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	w.background("database", func(ctx context.Context) {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			w.group.Go(ctx, "database connection", func(context.Context) {
				defer c.Close()
				c.SetDeadline(time.Now().Add(patience))
				all, err := io.ReadAll(c) // until the client's end
				if err == nil {
					c.Write(append(all, " is all"...))
				}
			})
		}
	})
	w.rule("db.example", "tls", "trafficPolicy: {tls: {mode: SIMPLE, caCertificates: "+pki.file("roots.pem")+"}}")
	c := w.client("web")
	ask := func() (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		st, err := c.open(ctx, fmt.Sprintf("%s:5432", s.vip))
		if err != nil {
			return "", err
		}
		defer st.Close()
		if _, err := st.Write([]byte("select")); err != nil {
			return "", err
		}
		if err := st.CloseWrite(); err != nil {
			return "", err
		}
		text, err := io.ReadAll(st)
		return string(text), err
	}
	w.eventually("the database is served", func() bool { text, err := ask(); return err == nil && text == "select is all" })
	w.rule("db.example", "tls2", "trafficPolicy: {tls: {mode: SIMPLE, caCertificates: "+pki.file("roots.pem")+", subjectAltNames: [web.example]}}")
	w.eventually("another server is refused", func() bool { text, err := ask(); return err != nil && text == "" })
	w.wantRecord(map[string]string{"details": "want one of"})
}

// A server that ends while it answers is not taken for one that has answered.
func TestTLSThatBreaks(t *testing.T) {
	pki := newPKI(t)
	cert := pki.issue("bank.example", nil)
	w := newWorld(t)
	s := w.outside("bank", "{number: 80, name: http, targetPort: 8080}", "")
	w.serveEither(s.pods[0].ip, &tls.Config{Certificates: []tls.Certificate{cert}}, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/break" {
			return
		}
		c, out, err := rw.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		out.WriteString("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf of it")
		out.Flush()
		raw := c.(*tls.Conn).NetConn()
		raw.(*begun).Conn.(*net.TCPConn).CloseWrite() // without the goodbye of TLS
		io.Copy(io.Discard, raw)
		c.Close()
	}))
	w.rule("bank.example", "tls", "trafficPolicy: {tls: {mode: SIMPLE, caCertificates: "+pki.file("roots.pem")+"}}")
	c := w.client("web").http(s, 80, false)
	w.eventually("the host is served", func() bool { return get(t.Context(), c, "GET", "/").status == 200 })
	if a := get(t.Context(), c, "GET", "/break"); a.err == nil || errors.Is(a.err, context.DeadlineExceeded) {
		t.Errorf("half of an answer is taken for all: %+v", a)
	}
}
