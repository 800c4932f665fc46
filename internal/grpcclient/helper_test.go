package grpcclient

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/ambit-mesh/ambit/internal/meshapi/caapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// authority signs serving certificates for a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{key: key}
	a.cert = a.sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "root"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, key)
	a.pem = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
	return a
}

// sign completes template and signs it; a's own certificate when it has none yet.
func (a *authority) sign(t *testing.T, template *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	parent := a.cert
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// serving makes a certificate for a server of the given names.
func (a *authority) serving(t *testing.T, dns ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := a.sign(t, &x509.Certificate{
		DNSNames: dns, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, key)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}
}

// server is a control plane that notes the headers of calls.
type server struct {
	caapi.UnimplementedIstioCertificateServiceServer

	addr string
	stop func()

	mu     sync.Mutex
	calls  []metadata.MD
	answer []string
}

// serve runs a server on addr until the test ends or stop is called.
func serve(t *testing.T, addr string, cert tls.Certificate) *server {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{addr: ln.Addr().String()}
	g := grpc.NewServer(grpc.Creds(credentials.NewServerTLSFromCert(&cert)), grpc.MaxSendMsgSize(64<<20))
	caapi.RegisterIstioCertificateServiceServer(g, s)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := g.Serve(ln); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	s.stop = func() { g.Stop(); wg.Wait() }
	t.Cleanup(s.stop)
	return s
}

func (s *server) CreateCertificate(ctx context.Context, _ *caapi.IstioCertificateRequest) (*caapi.IstioCertificateResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, md)
	return &caapi.IstioCertificateResponse{CertChain: s.answer}, nil
}

// last returns the headers of the last call.
func (s *server) last() metadata.MD {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.calls) == 0 {
		return nil
	}
	return s.calls[len(s.calls)-1]
}

// dial makes a connection that is closed at the end of the test.
func dial(t *testing.T, cfg Config) *grpc.ClientConn {
	t.Helper()
	cc, err := Dial(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return cc
}

// call makes one call, waiting for a connection when wait is set.
func call(t *testing.T, cc *grpc.ClientConn, wait bool) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := caapi.NewIstioCertificateServiceClient(cc).CreateCertificate(ctx, &caapi.IstioCertificateRequest{}, grpc.WaitForReady(wait))
	return err
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
