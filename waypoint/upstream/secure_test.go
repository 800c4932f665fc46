package upstream

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/waypoint/config"
)

// authority is who vouches for the certificates of a test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // with its certificate
}

// newAuthority makes one.
func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, file: filepath.Join(t.TempDir(), "roots.pem")}
	c := a.issue(func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
	})
	a.cert, a.key = c.Leaf, c.PrivateKey.(*ecdsa.PrivateKey)
	writePEM(t, a.file, "CERTIFICATE", a.cert.Raw)
	return a
}

// writePEM writes one block into a file.
func writePEM(t *testing.T, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// issue makes a certificate of fill's choice; before there is an authority, one that
// vouches for itself.
func (a *authority) issue(fill func(c *x509.Certificate)) tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	fill(c)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// named makes a certificate for a DNS name.
func (a *authority) named(name string) tls.Certificate {
	return a.issue(func(c *x509.Certificate) { c.DNSNames = []string{name} })
}

// dialTLS connects to a server of TLS with cfg, which does fn with the connection, and
// secures the connection.
func dialTLS(t *testing.T, v *vault, s config.Security, alpn string, cfg *tls.Config, fn func(c *tls.Conn)) (link, error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait)
	t.Cleanup(func() { ln.Close() })
	serving.Go(func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		server := tls.Server(c, cfg)
		if server.Handshake() == nil {
			fn(server)
		}
	})
	settings, err := v.settings(s, time.Now())
	if err != nil {
		return nil, err
	}
	raw, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	l, err := secure(t.Context(), raw.(*net.TCPConn), settings, alpn)
	if err == nil {
		t.Cleanup(func() { l.Close() })
	}
	return l, err
}

// A server is believed only with a certificate that leads to the roots and has one of
// the names; who asks for TLS gets it or nothing.
func TestSecure(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	const host = "server.example"
	byName := config.Security{TLS: true, ServerName: host, Names: host + "\n", Roots: a.file}
	with := func(fn func(s *config.Security)) config.Security { s := byName; fn(&s); return s }
	names := func(n string) config.Security { return with(func(s *config.Security) { s.Names = n }) }
	uri, err := url.Parse("spiffe://outside/db")
	if err != nil {
		t.Fatal(err)
	}
	byURI := a.issue(func(c *x509.Certificate) {
		c.URIs, c.IPAddresses, c.EmailAddresses = []*url.URL{uri}, []net.IP{net.IPv4(127, 0, 0, 1)}, []string{"db@outside"}
	})
	clientFile, keyFile := filepath.Join(t.TempDir(), "c.pem"), filepath.Join(t.TempDir(), "k.pem")
	client := a.named("client")
	writePEM(t, clientFile, "CERTIFICATE", client.Certificate[0])
	der, err := x509.MarshalPKCS8PrivateKey(client.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, keyFile, "PRIVATE KEY", der)
	clients := x509.NewCertPool()
	clients.AddCert(a.cert)
	for _, tt := range []struct {
		name   string
		s      config.Security
		server tls.Certificate
		change func(*tls.Config) // of the server; nil: none
		alpn   string
		want   string // part of the error; "": none
	}{
		{"the host's name", byName, a.named(host), nil, alpnHTTP1, ""},
		{"bytes need no protocol", byName, a.named(host), nil, alpnBytes, ""},
		{"another name", byName, a.named("evil.example"), nil, alpnHTTP1, `it is for ["evil.example"], want one of ["server.example"]`},
		{"one of several names", names("x.example\nevil.example\n"), a.named("evil.example"), nil, alpnHTTP1, ""},
		{"none of several names", names("x.example\ny.example\n"), a.named(host), nil, alpnHTTP1, "want one of"},
		{"a URI", names("spiffe://outside/db\n"), byURI, nil, alpnHTTP1, ""},
		{"another URI", names("spiffe://outside/web\n"), byURI, nil, alpnHTTP1, "want one of"},
		{"an address", names("127.0.0.1\n"), byURI, nil, alpnHTTP1, ""},
		{"a mailbox", names("db@outside\n"), byURI, nil, alpnHTTP1, ""},
		{"a wildcard of the certificate", names("a.example\n"), a.named("*.example"), nil, alpnHTTP1, ""},
		{"no name is not any name", names("\n"), byURI, nil, alpnHTTP1, "want one of"},
		{"another authority", byName, other.named(host), nil, alpnHTTP1, "unknown authority"},
		{"the system's roots", with(func(s *config.Security) { s.Roots = "" }), a.named(host), nil, alpnHTTP1, "x509"},
		{"expired", byName, a.issue(func(c *x509.Certificate) {
			c.DNSNames, c.NotAfter = []string{host}, time.Now().Add(-time.Minute)
		}), nil, alpnHTTP1, "expired"},
		{"for clients only", byName, a.issue(func(c *x509.Certificate) {
			c.DNSNames, c.ExtKeyUsage = []string{host}, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}), nil, alpnHTTP1, "usage"},
		{"whoever answers", with(func(s *config.Security) { s.Unverified = true }), other.named("evil.example"), nil, alpnHTTP1, ""},
		{"TLS 1.2", byName, a.named(host), func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, alpnHTTP1, ""},
		{"TLS 1.1", byName, a.named(host), func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, alpnHTTP1, "version"},
		{"HTTP/2", byName, a.named(host), func(c *tls.Config) { c.NextProtos = []string{"h2", "http/1.1"} }, alpnHTTP2, ""},
		{"HTTP/2 of a server that says nothing", byName, a.named(host), nil, alpnHTTP2, "HTTP/2"},
		{"HTTP/2 of a server that speaks another", byName, a.named(host), func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} }, alpnHTTP2, "protocol"},
		{"who we are", with(func(s *config.Security) { s.Certificate, s.Key = clientFile, keyFile }), a.named(host), func(c *tls.Config) {
			// By TLS 1.2, where the server's no is a part of the handshake.
			c.ClientAuth, c.ClientCAs, c.MaxVersion = tls.RequireAndVerifyClientCert, clients, tls.VersionTLS12
		}, alpnHTTP1, ""},
		{"nobody, where the server asks", byName, a.named(host), func(c *tls.Config) {
			c.ClientAuth, c.ClientCAs, c.MaxVersion = tls.RequireAndVerifyClientCert, clients, tls.VersionTLS12
		}, alpnHTTP1, "tls"},
		{"a file that is not there", with(func(s *config.Security) { s.Roots = "/nowhere/roots.pem" }), a.named(host), nil, alpnHTTP1, "/nowhere/roots.pem"},
		{"a file without certificates", with(func(s *config.Security) { s.Roots = keyFile }), a.named(host), nil, alpnHTTP1, "no certificate in"},
		{"a key that is none", with(func(s *config.Security) { s.Certificate, s.Key = clientFile, clientFile }), a.named(host), nil, alpnHTTP1, "TLS settings cannot be met"},
		{"what cannot be done", config.Security{Broken: "no way"}, a.named(host), nil, alpnHTTP1, "no way"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := &tls.Config{Certificates: []tls.Certificate{tt.server}}
			if tt.change != nil {
				tt.change(cfg)
			}
			asked := make(chan string, 1)
			l, err := dialTLS(t, &vault{}, tt.s, tt.alpn, cfg, func(c *tls.Conn) {
				asked <- c.ConnectionState().ServerName
				io.Copy(c, c)
			})
			switch {
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Fatalf("error %v, want %q", err, tt.want)
			case tt.want == "" && err != nil:
				t.Fatal(err)
			case tt.want != "":
				return
			}
			if name := <-asked; name != host {
				t.Errorf("asked for %q", name)
			}
			if _, err := l.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(l, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// Files that change are read again, and what nobody uses is forgotten.
func TestVault(t *testing.T) {
	first, second := newAuthority(t), newAuthority(t)
	file := filepath.Join(t.TempDir(), "roots.pem")
	writePEM(t, file, "CERTIFICATE", first.cert.Raw)
	var v vault
	s := config.Security{TLS: true, ServerName: "a", Names: "a\n", Roots: file}
	try := func(a *authority) error {
		_, err := dialTLS(t, &v, s, alpnBytes, &tls.Config{Certificates: []tls.Certificate{a.named("a")}}, func(c *tls.Conn) { io.Copy(io.Discard, c) })
		return err
	}
	if err := try(first); err != nil {
		t.Fatal(err)
	}
	before, _ := v.settings(s, time.Now())
	if again, _ := v.settings(s, time.Now()); again != before {
		t.Error("files that have not changed are read again")
	}
	next := filepath.Join(t.TempDir(), "next.pem")
	writePEM(t, next, "CERTIFICATE", second.cert.Raw)
	if err := os.Rename(next, file); err != nil {
		t.Fatal(err)
	}
	if err := try(second); err != nil {
		t.Errorf("the new root: %v", err)
	}
	if try(first) == nil {
		t.Error("the old root still counts")
	}
	if v.sweep(time.Now().Add(forgetTime / 2)); len(v.all) != 1 {
		t.Error("forgotten too early")
	}
	if v.sweep(time.Now().Add(2 * forgetTime)); len(v.all) != 0 {
		t.Error("not forgotten")
	}
}

// A kept connection counts as quiet only when nothing came that was not read: neither
// in the socket, nor in a record of which a part was read.
func TestSecuredQuiet(t *testing.T) {
	a := newAuthority(t)
	s := config.Security{TLS: true, ServerName: "a", Names: "a\n", Roots: a.file}
	say := make(chan string)
	l, err := dialTLS(t, &vault{}, s, alpnBytes, &tls.Config{Certificates: []tls.Certificate{a.named("a")}}, func(c *tls.Conn) {
		for text := range say {
			c.Write([]byte(text))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer close(say)
	read := func(n int) {
		t.Helper()
		if _, err := io.ReadFull(l, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
	}
	wantQuiet := func(want bool, when string) {
		t.Helper()
		deadline, tick := time.NewTimer(5*time.Second), time.NewTicker(time.Millisecond)
		defer deadline.Stop()
		defer tick.Stop()
		for l.Quiet() != want {
			select {
			case <-tick.C:
			case <-deadline.C:
				t.Fatalf("%s: quiet is not %v", when, want)
			}
		}
	}
	say <- "ab"
	read(1)
	if l.Quiet() {
		t.Fatal("quiet with half of a record unread")
	}
	// Looking has taken what was left.
	say <- "cd"
	read(2)
	wantQuiet(true, "all is read")
	say <- "e"
	wantQuiet(false, "something is in the socket")
	read(1)
	wantQuiet(true, "all is read again, by a connection that still works")
}

// An end is an end on the other side, and a reset is none; what is said last before a
// connection is closed does not wait for the endpoint.
func TestSecuredEnds(t *testing.T) {
	a := newAuthority(t)
	s := config.Security{TLS: true, ServerName: "a", Names: "a\n", Roots: a.file}
	for _, tt := range []struct {
		name string
		end  func(l link)
		want error
	}{
		{"an end of one direction", func(l link) { l.CloseWrite() }, nil},
		{"closed", func(l link) { l.Close() }, nil},
		{"reset", func(l link) { l.Reset() }, errors.New("any")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := make(chan error, 1)
			l, err := dialTLS(t, &vault{}, s, alpnBytes, &tls.Config{Certificates: []tls.Certificate{a.named("a")}}, func(c *tls.Conn) {
				_, err := io.Copy(io.Discard, c)
				got <- err
			})
			if err != nil {
				t.Fatal(err)
			}
			tt.end(l)
			if err := <-got; (err == nil) != (tt.want == nil) {
				t.Errorf("the endpoint sees %v", err)
			}
		})
	}
	t.Run("an endpoint that is cut off", func(t *testing.T) {
		l, err := dialTLS(t, &vault{}, s, alpnBytes, &tls.Config{Certificates: []tls.Certificate{a.named("a")}}, func(c *tls.Conn) {
			c.Write([]byte("x"))
			c.NetConn().Close()
		})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(l); string(got) != "x" || !errors.Is(err, errNoGoodbye) {
			t.Errorf("read %q, error %v", got, err)
		}
	})
	t.Run("an endpoint that does not read", func(t *testing.T) {
		done := make(chan struct{})
		l, err := dialTLS(t, &vault{}, s, alpnBytes, &tls.Config{Certificates: []tls.Certificate{a.named("a")}}, func(*tls.Conn) { <-done })
		if err != nil {
			t.Fatal(err)
		}
		defer close(done)
		var writing sync.WaitGroup
		defer writing.Wait()
		wrote := make(chan struct{})
		writing.Go(func() {
			defer close(wrote)
			for err := error(nil); err == nil; wrote <- struct{}{} {
				_, err = l.Write(make([]byte, 1<<20))
			}
		})
		for full := false; !full; {
			select {
			case <-wrote:
			case <-time.After(100 * time.Millisecond):
				full = true
			}
		}
		writing.Go(func() {
			for range wrote {
			}
		})
		start := time.Now()
		l.Close()
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("closing took %v", took)
		}
	})
}

// A handshake takes no longer than its context allows, and says why it ended.
func TestSecureOfASilentServer(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	raw, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, errConnectTimeout)
	defer cancel()
	if _, err := secure(ctx, raw.(*net.TCPConn), &tls.Config{ServerName: "a", MinVersion: tls.VersionTLS12}, alpnHTTP1); !errors.Is(err, errConnectTimeout) {
		t.Errorf("error %v", err)
	}
}

// A connection that was made in one way is not used in another.
func TestWaysAreNotMixed(t *testing.T) {
	c := newCluster(nil, Key{})
	h := c.host("a")
	of := func(s config.Security) *Endpoint {
		return &Endpoint{h: h, Traffic: &config.Traffic{Security: s}}
	}
	inPlain, secured, otherwise := of(config.Security{}), of(config.Security{TLS: true, ServerName: "a"}), of(config.Security{TLS: true, ServerName: "b"})
	kept := &conn1{h: h, way: inPlain.way()}
	h.idle = append(h.idle, kept)
	for _, e := range []*Endpoint{secured, otherwise} {
		got, err := c.acquire(t.Context(), e, false)
		if err != nil || got.one != nil {
			t.Fatalf("%+v got a connection that is in plain, error %v", e.Traffic.Security, err)
		}
	}
	mine := &conn1{h: h, way: secured.way()}
	h.idle = append(h.idle, mine)
	if got, _ := c.acquire(t.Context(), otherwise, false); got.one != nil {
		t.Error("a connection to another server name is used")
	}
	if got, _ := c.acquire(t.Context(), secured, false); got.one != mine {
		t.Error("a connection of the same way is not used")
	}
	if got, _ := c.acquire(t.Context(), inPlain, false); got.one != kept {
		t.Error("a connection in plain is not used in plain")
	}
}
