package caclient

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
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/ambit-mesh/ambit/internal/grpcclient"
	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/meshapi/caapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeCA is a certificate service that does what the test tells it.
type fakeCA struct {
	caapi.UnimplementedIstioCertificateServiceServer

	t    *testing.T
	root *x509.Certificate
	key  *ecdsa.PrivateKey
	// answer makes the chain for a request and its public key.
	answer func(req *caapi.IstioCertificateRequest, csr *x509.CertificateRequest) ([]string, error)

	mu   sync.Mutex
	seen []*caapi.IstioCertificateRequest
}

// newFakeCA runs a service over TLS on loopback, and a connection to it.
func newFakeCA(t *testing.T) (*fakeCA, *grpc.ClientConn) {
	t.Helper()
	ca := &fakeCA{t: t, key: newKey(t)}
	ca.root = ca.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "root"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, ca.key)
	key := newKey(t)
	serving := tls.Certificate{PrivateKey: key, Certificate: [][]byte{ca.sign(&x509.Certificate{
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, key).Raw}}

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewServerTLSFromCert(&serving)))
	caapi.RegisterIstioCertificateServiceServer(server, ca)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := server.Serve(ln); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	cc, err := grpcclient.Dial(grpcclient.Config{Address: ln.Addr().String(), RootCA: ca.rootPEM(), Token: "a token", ClusterID: "Kubernetes"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close(); server.Stop(); wg.Wait() })
	return ca, cc
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sign completes template for the public half of key.
func (ca *fakeCA) sign(template *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	ca.t.Helper()
	parent := ca.root
	if parent == nil {
		parent = template
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), ca.key)
	if err != nil {
		ca.t.Error(err)
		return nil
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		ca.t.Error(err)
	}
	return cert
}

// leaf signs id for a public key, as changed.
func (ca *fakeCA) leaf(id string, public any, change func(*x509.Certificate)) string {
	ca.t.Helper()
	uri, err := url.Parse(id)
	if err != nil {
		ca.t.Error(err)
	}
	template := &x509.Certificate{
		URIs: []*url.URL{uri}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(template)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.root, public, ca.key)
	if err != nil {
		ca.t.Error(err)
	}
	return certPEM(der)
}

func certPEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func (ca *fakeCA) rootPEM() string { return certPEM(ca.root.Raw) }

func (ca *fakeCA) CreateCertificate(_ context.Context, req *caapi.IstioCertificateRequest) (*caapi.IstioCertificateResponse, error) {
	ca.mu.Lock()
	ca.seen = append(ca.seen, req)
	ca.mu.Unlock()
	block, rest := pem.Decode([]byte(req.GetCsr()))
	if block == nil || len(rest) > 0 || block.Type != "CERTIFICATE REQUEST" {
		return nil, status.Error(codes.InvalidArgument, "not a PEM request")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil {
		err = csr.CheckSignature()
	}
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	chain, err := ca.answer(req, csr)
	return &caapi.IstioCertificateResponse{CertChain: chain}, err
}

const web = "spiffe://td/ns/shop/sa/web"

func webID() identity.ID {
	return identity.ID{TrustDomain: "td", Namespace: "shop", ServiceAccount: "web"}
}

func TestCAClientHappyPath(t *testing.T) {
	ca, cc := newFakeCA(t)
	ca.answer = func(_ *caapi.IstioCertificateRequest, csr *x509.CertificateRequest) ([]string, error) {
		checkCSR(t, csr)
		return []string{ca.leaf(web, csr.PublicKey, nil), ca.rootPEM()}, nil
	}
	client := New(cc, Config{Impersonate: true})
	first, err := client.Fetch(t.Context(), webID())
	if err != nil {
		t.Fatal(err)
	}
	if first.ID != webID() || len(first.Chain) != 1 || len(first.Roots) != 1 || first.Verify(time.Now()) != nil {
		t.Errorf("certificate of %v, chain of %d, %d roots", first.ID, len(first.Chain), len(first.Roots))
	}
	req := ca.seen[0]
	if got := req.GetMetadata().AsMap(); len(got) != 1 || got["ImpersonatedIdentity"] != web || req.GetValidityDuration() != 86400 {
		t.Errorf("metadata %v, validity %d s", got, req.GetValidityDuration())
	}
	second, err := client.Fetch(t.Context(), webID())
	if err != nil {
		t.Fatal(err)
	}
	if first.TLS.PrivateKey.(*ecdsa.PrivateKey).Equal(second.TLS.PrivateKey) {
		t.Error("a renewal uses the old key again")
	}
}

// checkCSR checks the form that the existing CAs are used to.
func checkCSR(t *testing.T, csr *x509.CertificateRequest) {
	t.Helper()
	key, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() || csr.SignatureAlgorithm != x509.ECDSAWithSHA256 {
		t.Errorf("key %T signed with %v, want ECDSA P-256 and SHA-256", csr.PublicKey, csr.SignatureAlgorithm)
	}
	if len(csr.Subject.Names) != 0 {
		t.Errorf("subject %v, want an empty one", csr.Subject)
	}
	if len(csr.URIs) != 1 || csr.URIs[0].String() != web || len(csr.DNSNames)+len(csr.IPAddresses)+len(csr.EmailAddresses) != 0 {
		t.Errorf("names %v %v, want the identity alone", csr.URIs, csr.DNSNames)
	}
	if len(csr.Extensions) != 1 || !csr.Extensions[0].Critical {
		t.Errorf("extensions %v, want one that is critical", csr.Extensions)
	}
}

func TestWithoutImpersonationTheIdentityIsNotSent(t *testing.T) {
	ca, cc := newFakeCA(t)
	ca.answer = func(_ *caapi.IstioCertificateRequest, csr *x509.CertificateRequest) ([]string, error) {
		return []string{ca.leaf(web, csr.PublicKey, nil), ca.rootPEM()}, nil
	}
	if _, err := New(cc, Config{TTL: 90 * time.Minute}).Fetch(t.Context(), webID()); err != nil {
		t.Fatal(err)
	}
	if req := ca.seen[0]; req.GetMetadata() != nil || req.GetValidityDuration() != 5400 {
		t.Errorf("metadata %v, validity %d s, want none and 5400", req.GetMetadata(), req.GetValidityDuration())
	}
}

func TestCAClientRefuses(t *testing.T) {
	ca, cc := newFakeCA(t)
	stranger, _ := newFakeCA(t)
	foreign := newKey(t)
	for _, tt := range []struct {
		name   string
		answer func(csr *x509.CertificateRequest) []string
		want   string
	}{
		{"empty chain", func(*x509.CertificateRequest) []string { return nil }, "empty certificate chain"},
		{"leaf alone", func(csr *x509.CertificateRequest) []string {
			return []string{ca.leaf(web, csr.PublicKey, nil)}
		}, "roots last"},
		{"wrong identity", func(csr *x509.CertificateRequest) []string {
			return []string{ca.leaf("spiffe://td/ns/shop/sa/cart", csr.PublicKey, nil), ca.rootPEM()}
		}, "is for spiffe://td/ns/shop/sa/cart, want " + web},
		{"wrong trust domain", func(csr *x509.CertificateRequest) []string {
			return []string{ca.leaf("spiffe://other/ns/shop/sa/web", csr.PublicKey, nil), ca.rootPEM()}
		}, "is for spiffe://other/ns/shop/sa/web"},
		{"another key", func(*x509.CertificateRequest) []string {
			return []string{ca.leaf(web, foreign.Public(), nil), ca.rootPEM()}
		}, "another public key"},
		{"two identities", func(csr *x509.CertificateRequest) []string {
			return []string{ca.leaf(web, csr.PublicKey, func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }), ca.rootPEM()}
		}, "more than one URI SAN"},
		{"expired", func(csr *x509.CertificateRequest) []string {
			return []string{ca.leaf(web, csr.PublicKey, func(c *x509.Certificate) {
				c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(-time.Minute)
			}), ca.rootPEM()}
		}, "expired"},
		{"not for clients", func(csr *x509.CertificateRequest) []string {
			return []string{ca.leaf(web, csr.PublicKey, func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }), ca.rootPEM()}
		}, "not for clients"},
		{"roots that did not sign it", func(csr *x509.CertificateRequest) []string {
			return []string{ca.leaf(web, csr.PublicKey, nil), stranger.rootPEM()}
		}, "unknown authority"},
		{"rubbish", func(*x509.CertificateRequest) []string { return []string{"rubbish", "rubbish"} }, "no PEM certificate"},
		{"more than we take", func(csr *x509.CertificateRequest) []string {
			return []string{ca.leaf(web, csr.PublicKey, nil), strings.Repeat(ca.rootPEM(), 4000)}
		}, "larger than max"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ca.answer = func(_ *caapi.IstioCertificateRequest, csr *x509.CertificateRequest) ([]string, error) {
				return tt.answer(csr), nil
			}
			cert, err := New(cc, Config{Impersonate: true}).Fetch(t.Context(), webID())
			if err == nil || cert != nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), web) {
				t.Errorf("Fetch = %v, %v, want an error with %q that names the identity", cert, err, tt.want)
			}
		})
	}
}

func TestErrorsOfTheCAKeepTheirStatus(t *testing.T) {
	ca, cc := newFakeCA(t)
	ca.answer = func(*caapi.IstioCertificateRequest, *x509.CertificateRequest) ([]string, error) {
		return nil, status.Error(codes.PermissionDenied, "no such pod on your node")
	}
	_, err := New(cc, Config{}).Fetch(t.Context(), webID())
	if status.Code(errors.Unwrap(err)) != codes.PermissionDenied || !strings.Contains(err.Error(), "no such pod") {
		t.Errorf("Fetch: %v, want PermissionDenied", err)
	}
}

func TestFetchEndsWithItsContext(t *testing.T) {
	ca, cc := newFakeCA(t)
	ctx, cancel := context.WithCancel(t.Context())
	ca.answer = func(*caapi.IstioCertificateRequest, *x509.CertificateRequest) ([]string, error) {
		cancel()
		<-ctx.Done()
		return nil, errors.New("too late")
	}
	if _, err := New(cc, Config{}).Fetch(ctx, webID()); status.Code(errors.Unwrap(err)) != codes.Canceled {
		t.Errorf("Fetch: %v, want Canceled", err)
	}
}
