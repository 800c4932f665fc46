package waypoint

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// pki is an authority outside of the mesh, with its files.
type pki struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	dir  string
}

// newPKI makes one. Its root is in roots.pem.
func newPKI(t *testing.T) *pki {
	t.Helper()
	p := &pki{t: t, dir: t.TempDir()}
	c := p.issue("roots", func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true })
	p.cert, p.key = c.Leaf, c.PrivateKey.(*ecdsa.PrivateKey)
	return p
}

// file is the path of one of its files.
func (p *pki) file(name string) string { return filepath.Join(p.dir, name) }

// issue makes a certificate, and writes NAME.pem and NAME.key.
func (p *pki) issue(name string, fill func(*x509.Certificate)) tls.Certificate {
	p.t.Helper()
	must := func(err error) {
		if err != nil {
			p.t.Helper()
			p.t.Fatal(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	if fill != nil {
		fill(c)
	}
	parent, signer := p.cert, p.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	must(err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	must(err)
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	must(os.WriteFile(p.file(name+".pem"), certPEM, 0o600))
	must(os.WriteFile(p.file(name+".key"), keyPEM, 0o600))
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	must(err)
	return pair
}

// queue is a listener that is fed.
type queue struct {
	net.Listener
	conns chan net.Conn
	done  chan struct{}
}

// Accept implements [net.Listener].
func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

// begun is a connection of which something was read.
type begun struct {
	net.Conn
	r io.Reader
}

// Read gives what was read first.
func (b *begun) Read(p []byte) (int, error) { return b.r.Read(p) }

// serveEither runs the server of an address outside of the mesh on port 8080, which
// speaks HTTP in plain and in TLS, as its clients do. An answer says how it was asked,
// in X-Spoken: "plain", or the server name that TLS asked for.
func (w *world) serveEither(ip netip.Addr, cfg *tls.Config, app http.Handler) {
	w.t.Helper()
	ln, err := net.Listen("tcp", netip.AddrPortFrom(ip, 8080).String())
	if err != nil {
		w.t.Fatal(err)
	}
	done := make(chan struct{})
	inPlain, inTLS := &queue{ln, make(chan net.Conn), done}, &queue{ln, make(chan net.Conn), done}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{ErrorLog: log.New(io.Discard, "", 0), Protocols: protocols, TLSConfig: cfg, ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("X-Spoken", "plain")
		rw.Header().Set("X-Version", r.Proto)
		rw.Header().Set("X-Peer", r.RemoteAddr)
		if r.TLS != nil {
			rw.Header().Set("X-Spoken", r.TLS.ServerName)
			if len(r.TLS.PeerCertificates) > 0 {
				rw.Header().Set("X-Client", r.TLS.PeerCertificates[0].Subject.CommonName)
			}
		}
		app.ServeHTTP(rw, r)
	})}
	w.t.Cleanup(func() { close(done); ln.Close(); server.Close() })
	w.background("outside in plain", func(context.Context) { server.Serve(inPlain) })
	w.background("outside in TLS", func(context.Context) { server.ServeTLS(inTLS, "", "") })
	w.background("outside", func(context.Context) {
		var conns sync.WaitGroup
		defer conns.Wait()
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				first := make([]byte, 1)
				c.SetReadDeadline(time.Now().Add(patience))
				if _, err := io.ReadFull(c, first); err != nil {
					c.Close()
					return
				}
				c.SetReadDeadline(time.Time{})
				to := inPlain
				if first[0] == 22 { // a handshake of TLS
					to = inTLS
				}
				select {
				case to.conns <- &begun{c, io.MultiReader(bytes.NewReader(first), c)}:
				case <-done:
					c.Close()
				}
			})
		}
	})
}

// outside is a ServiceEntry with an endpoint for each of endpoints, which says what is
// to be known of it beside its address; nobody serves them yet. ports is how its
// manifest describes them.
func (w *world) outside(name, ports string, endpoints ...string) *service {
	w.t.Helper()
	s := &service{w: w, name: name, vip: w.ip()}
	list := ""
	for i, more := range endpoints {
		p := &pod{name: fmt.Sprintf("%s-%d", name, i), ip: w.ip(), callers: map[string]int{}}
		list += fmt.Sprintf("{address: %s, %s}, ", p.ip, more)
		s.pods = append(s.pods, p)
	}
	w.apply(name, fmt.Sprintf(`
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: %s, namespace: shop}
spec: {hosts: [%s.example], addresses: [%s], ports: [%s], resolution: STATIC, endpoints: [%s]}
`, name, name, s.vip, ports, list))
	return s
}

// rule is a DestinationRule for the host of a ServiceEntry, whose policy takes the place
// of that of the rule before. It returns what its status says.
func (w *world) rule(host, name, spec string) string {
	w.t.Helper()
	w.apply("rule", fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: %s, namespace: shop}\nspec: {host: %s, %s}\n", name, host, spec))
	said := ""
	w.eventually("the rule has a status", func() bool {
		said = w.condition("DestinationRule", name+" ")
		return strings.HasPrefix(said, "map[")
	})
	return said
}
