package identity

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
	"math/big"
	"net"
	"net/url"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// mustID reads a SPIFFE ID that is right.
func mustID(t testing.TB, s string) ID {
	t.Helper()
	id, err := ParseID(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// testCA signs whatever a test asks for, also what no CA should.
type testCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	// above leads from cert towards the root, which is not in it.
	above []*x509.Certificate
	root  *x509.Certificate
}

// newKey makes a P-256 key.
func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// newCA makes a root.
func newCA(t testing.TB, name string) *testCA {
	t.Helper()
	ca := &testCA{key: newKey(t)}
	ca.cert = sign(t, caTemplate(name), nil, ca.key, ca.key)
	ca.root = ca.cert
	return ca
}

// intermediate makes a CA below ca.
func (ca *testCA) intermediate(t testing.TB, name string) *testCA {
	t.Helper()
	below := &testCA{key: newKey(t), root: ca.root}
	below.cert = sign(t, caTemplate(name), ca.cert, below.key, ca.key)
	below.above = append([]*x509.Certificate{below.cert}, ca.above...)
	return below
}

func caTemplate(name string) *x509.Certificate {
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(365 * 24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

// sign makes a certificate for key by signer under parent; nil means
// self-signed.
func sign(t testing.TB, template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = serial
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// leafTemplate is a good leaf of id that began a minute ago and lives an hour.
func leafTemplate(t testing.TB, id ID) *x509.Certificate {
	t.Helper()
	return &x509.Certificate{
		URIs:                  []*url.URL{mustURL(t, id.String())},
		NotBefore:             time.Now().Add(-time.Minute),
		NotAfter:              time.Now().Add(time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
}

func mustURL(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// present is a raw TLS certificate of template, as a peer of any kind may show.
func (ca *testCA) present(t testing.TB, template *x509.Certificate) tls.Certificate {
	t.Helper()
	key := newKey(t)
	out := tls.Certificate{PrivateKey: key, Certificate: [][]byte{sign(t, template, ca.cert, key, ca.key).Raw}}
	for _, cert := range ca.above {
		out.Certificate = append(out.Certificate, cert.Raw)
	}
	return out
}

// certify makes a good Certificate of id that lives from before now to after
// now, trusting the root of ca and those given.
func (ca *testCA) certify(t testing.TB, id ID, before, after time.Duration, further ...*testCA) *Certificate {
	t.Helper()
	template := leafTemplate(t, id)
	template.NotBefore, template.NotAfter = time.Now().Add(-before), time.Now().Add(after)
	key := newKey(t)
	chain := []string{pemOf(sign(t, template, ca.cert, key, ca.key))}
	for _, cert := range ca.above {
		chain = append(chain, pemOf(cert))
	}
	roots := pemOf(ca.root)
	for _, other := range further {
		roots += pemOf(other.root)
	}
	c, err := NewCertificate(id, append(chain, roots), key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func pemOf(cert *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
}

// end is what one end of a handshake saw.
type end struct {
	state tls.ConnectionState
	err   error
}

// handshake connects the two settings over loopback. Each end then sends one
// byte and reads one, so that a refusal by the other end shows too: in TLS 1.3 a
// client is done before the server has looked at its certificate.
func handshake(t testing.TB, server, client *tls.Config) (s, c end) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	done := make(chan end)
	go func() {
		raw, err := ln.Accept()
		if err != nil {
			done <- end{err: err}
			return
		}
		done <- exchange(ctx, tls.Server(raw, server))
	}()
	raw, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c = exchange(ctx, tls.Client(raw, client))
	return <-done, c
}

// exchange completes the handshake of conn, sends and reads a byte, and closes.
func exchange(ctx context.Context, conn *tls.Conn) end {
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	if err := conn.HandshakeContext(ctx); err != nil {
		return end{err: err}
	}
	var buf [1]byte
	_, werr := conn.Write(buf[:])
	_, rerr := conn.Read(buf[:])
	return end{conn.ConnectionState(), errors.Join(rerr, werr)}
}
