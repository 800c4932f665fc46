package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/ambit-mesh/ambit/internal/identity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func account(name string) identity.ID {
	return identity.ID{TrustDomain: "td", Namespace: "shop", ServiceAccount: name}
}

// open opens an authority in dir that logs to where the test can read.
func open(t *testing.T, dir string) (*Authority, *observer.ObservedLogs) {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	a, err := Open(Config{Dir: dir, TrustDomain: "td"}, zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	return a, logs
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// pair is a CA certificate and its key.
type pair struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// newPair makes a CA certificate below parent, or a root when parent is nil. It
// may be changed before it is signed.
func newPair(t testing.TB, name string, parent *pair, change ...func(*x509.Certificate)) *pair {
	t.Helper()
	p := &pair{key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(365 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	for _, f := range change {
		f(template)
	}
	above, signer := template, p.key
	if parent != nil {
		above, signer = parent.cert, parent.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, above, p.key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	if p.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *pair) certPEM() string { return certificatePEM(p.cert.Raw) }

func (p *pair) keyPEM(t testing.TB) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(p.key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// put writes a file of dir, mode 0600.
func put(t testing.TB, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// given makes a directory that holds an intermediate below root, as operators
// make them.
func given(t testing.TB, root, intermediate *pair) string {
	t.Helper()
	dir := t.TempDir()
	put(t, dir, keyFile, intermediate.keyPEM(t))
	put(t, dir, certFile, intermediate.certPEM())
	put(t, dir, chainFile, intermediate.certPEM()+root.certPEM())
	put(t, dir, rootFile, root.certPEM())
	return dir
}

// csrFor makes a signing request that asks for names, with key.
func csrFor(t testing.TB, key crypto.Signer, names ...string) string {
	t.Helper()
	template := &x509.CertificateRequest{}
	for _, name := range names {
		if uri, err := url.Parse(name); err == nil && uri.Scheme != "" {
			template.URIs = append(template.URIs, uri)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// signed signs id for a new key and reads the result as a proxy does.
func signed(t testing.TB, a *Authority, id identity.ID, ttl time.Duration) *identity.Certificate {
	t.Helper()
	key := newKey(t)
	chain, err := a.Sign(key.Public(), id, ttl)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := identity.NewCertificate(id, chain, key)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// wantError checks that err holds text.
func wantError(t *testing.T, err error, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("error %v, want one with %q", err, text)
	}
}
