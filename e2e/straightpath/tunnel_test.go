package straightpath

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/internal/caclient"
	"github.com/ambit-mesh/ambit/internal/grpcclient"
	"github.com/ambit-mesh/ambit/internal/hbone"
	"github.com/ambit-mesh/ambit/internal/identity"
)

// certificate asks the control plane, as the node n does.
func (n *node) certificate(account string) *identity.Certificate {
	t := n.m.t
	t.Helper()
	cc, err := grpcclient.Dial(grpcclient.Config{
		Address: n.m.address, RootCA: filepath.Join(n.m.caDir, "root-cert.pem"), Token: tokenOf(n.name), ClusterID: "Kubernetes",
	})
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	id := mustID(t, "cluster.local", "shop", account)
	c, err := caclient.New(cc, caclient.Config{Impersonate: true}).Fetch(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func mustID(t *testing.T, td, ns, sa string) identity.ID {
	t.Helper()
	id, err := identity.NewID(td, ns, sa)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// forge signs a certificate with the key of the mesh's root, as nobody but a
// broken CA would.
func (m *mesh) forge(id identity.ID, notAfter time.Time) *identity.Certificate {
	m.t.Helper()
	rootPEM := m.read("root-cert.pem")
	root := parsePEM(m.t, rootPEM)
	block, _ := pem.Decode([]byte(m.read("ca-key.pem")))
	if block == nil {
		m.t.Fatal("no key of the CA")
	}
	var caKey any
	caKey, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		if caKey, err = x509.ParsePKCS8PrivateKey(block.Bytes); err != nil {
			m.t.Fatal(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		m.t.Fatal(err)
	}
	uri, err := url.Parse(id.String())
	if err != nil {
		m.t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		NotBefore:    time.Now().Add(-time.Hour), NotAfter: notAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		URIs:        []*url.URL{uri},
	}, root, &key.PublicKey, caKey)
	if err != nil {
		m.t.Fatal(err)
	}
	leaf := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	c, err := identity.NewCertificate(id, []string{leaf, rootPEM}, key)
	if err != nil {
		m.t.Fatal(err)
	}
	return c
}

func (m *mesh) read(name string) string {
	m.t.Helper()
	text, err := os.ReadFile(filepath.Join(m.caDir, name))
	if err != nil {
		m.t.Fatal(err)
	}
	return string(text)
}

func parsePEM(t *testing.T, text string) *x509.Certificate {
	t.Helper()
	certs, err := identity.ParseCertificates(text)
	if err != nil {
		t.Fatal(err)
	}
	return certs[0]
}

// tunnel is an HBONE client of the test's own, in the namespace of a pod.
type tunnel struct {
	t      *testing.T
	pool   *hbone.Pool
	target hbone.Target
}

// tunnel makes a client in p that shows cert to the server pod.
func (p *pod) tunnel(cert *identity.Certificate, server *pod) *tunnel {
	t := p.m.t
	accept := []identity.ID{mustID(t, "cluster.local", "shop", server.account)}
	pool := hbone.NewPool(hbone.PoolConfig{OpenTimeout: patience}, nil)
	t.Cleanup(pool.Close)
	return &tunnel{t: t, pool: pool, target: hbone.Target{
		Key: hbone.Key{Source: cert.ID.String(), Address: server.addr(15008), SourceIP: p.ip},
		Dial: func(context.Context) (net.Conn, error) {
			return p.dialMarked(server.addr(15008))
		},
		TLS: func(context.Context) (*tls.Config, error) { return identity.ClientTLS(cert, accept), nil },
	}}
}

// open asks for authority.
func (c *tunnel) open(authority string) (*hbone.Stream, error) {
	c.t.Helper()
	a, err := hbone.ParseAuthority(authority)
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	return c.pool.Open(ctx, c.target, hbone.Request{Authority: a})
}

// wantStatus asks for authority and wants that answer.
func (c *tunnel) wantStatus(authority string, want int) {
	c.t.Helper()
	status := 200
	s, err := c.open(authority)
	if err == nil {
		s.Close()
	} else if refused, ok := errors.AsType[*hbone.RefusedError](err); ok {
		status = refused.Status
	} else {
		c.t.Fatalf("CONNECT %s: %v, want status %d", authority, err, want)
	}
	if status != want {
		c.t.Errorf("CONNECT %s: status %d, want %d", authority, status, want)
	}
}

// hbone_ip_mismatch. The authority names an address that is not the one the
// request came to.
func TestHBONEIPMismatch(t *testing.T) {
	m := newMesh(t)
	n1 := m.node("n1")
	client, server := m.enrolled(n1, "client"), m.enrolled(n1, "server")
	server.echo(80)
	c := client.tunnel(n1.certificate("client"), server)
	c.wantStatus(client.addr(80).String(), 400)
	c.wantStatus("127.0.0.1:80", 400)
	c.wantStatus(server.addr(80).String(), 200)
}

// svc_hostname. The authority names a service: its port leads to the port of the
// endpoint.
func TestSvcHostname(t *testing.T) {
	m := newMesh(t)
	n1 := m.node("n1")
	client, server := m.enrolled(n1, "client"), m.enrolled(n1, "server")
	server.echo(80)
	m.service("server", 8001, "80", 1)
	c := client.tunnel(n1.certificate("client"), server)
	c.wantStatus("server.shop.svc.cluster.local:8001", 200)
	c.wantStatus("server.shop.svc.cluster.local:8002", 503)
	c.wantStatus("other.shop.svc.cluster.local:8001", 503)
}

// svc_hostname with a named port. The same with a port that the service calls by
// name.
func TestSvcHostnameNamedPort(t *testing.T) {
	m := newMesh(t)
	n1 := m.node("n1")
	client, server := m.enrolled(n1, "client"), m.enrolled(n1, "server")
	server.echo(80)
	m.service("server", 8001, "web", 1)
	client.tunnel(n1.certificate("client"), server).wantStatus("server.shop.svc.cluster.local:8001", 200)
}

// trust_domain_mismatch_rejected. A peer of another trust domain does not get in,
// although the root is ours.
func TestTrustDomainMismatchRejected(t *testing.T) {
	m := newMesh(t)
	n1 := m.node("n1")
	client, server := m.enrolled(n1, "client"), m.enrolled(n1, "server")
	server.echo(80)
	later := time.Now().Add(time.Hour)
	good := client.tunnel(m.forge(mustID(t, "cluster.local", "shop", "client"), later), server)
	good.wantStatus(server.addr(80).String(), 200)
	bad := client.tunnel(m.forge(mustID(t, "elsewhere.example", "shop", "client"), later), server)
	if s, err := bad.open(server.addr(80).String()); err == nil {
		s.Close()
		t.Error("a peer of another trust domain got in")
	} else if _, refused := errors.AsType[*hbone.RefusedError](err); refused {
		t.Errorf("refused by status (%v), want no connection at all", err)
	}
}

// After the peer's certificate has expired its connection takes no new streams,
// and the old ones go on.
func TestExpiredPeerStartsNoStreams(t *testing.T) {
	m := newMesh(t)
	n1 := m.node("n1")
	client, server := m.enrolled(n1, "client"), m.enrolled(n1, "server")
	server.echo(80)
	end := time.Now().Add(2 * time.Second)
	c := client.tunnel(m.forge(mustID(t, "cluster.local", "shop", "client"), end), server)
	old, err := c.open(server.addr(80).String())
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	eventually(t, "new streams are refused", func() error {
		s, err := c.open(server.addr(80).String())
		if err == nil {
			s.Close()
			return errors.New("another stream was taken")
		}
		return nil
	})
	if time.Now().Before(end.Truncate(time.Second)) {
		t.Errorf("refused before the certificate had expired")
	}
	if _, err := old.Write([]byte("x")); err != nil {
		t.Errorf("the old stream broke: %v", err)
	}
	n1.z.wantAccess(t, `direction="inbound"`, "has expired")
}

// Ports of the mesh itself are no applications, whoever asks.
func TestIllegalPortsOverTunnel(t *testing.T) {
	m := newMesh(t)
	n1 := m.node("n1")
	client, server := m.enrolled(n1, "client"), m.enrolled(n1, "server")
	c := client.tunnel(n1.certificate("client"), server)
	for _, port := range []uint16{15001, 15006, 15008} {
		c.wantStatus(server.addr(port).String(), 503)
	}
}
