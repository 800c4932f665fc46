package caclient

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/meshapi/caapi"
)

const (
	// defaultTTL is how long certificates are asked to live.
	defaultTTL = 24 * time.Hour

	// maxAnswer is the largest answer that is taken, in bytes: a chain and a
	// bundle of roots.
	maxAnswer = 1 << 20

	// impersonated is the key of the request's metadata that names the workload
	// whose certificate a node asks for.
	impersonated = "ImpersonatedIdentity"
)

// Config tunes a [Client]. The zero Config is ready for use.
type Config struct {
	// TTL is how long certificates are asked to live. Zero means 24 hours. It is
	// sent in whole seconds, at least one.
	TTL time.Duration
	// Impersonate names the wanted identity in the request, as a node does that
	// asks for its pods. Without it the CA takes the identity of the caller.
	Impersonate bool
}

// Client asks a CA for certificates. It may be used by many goroutines.
type Client struct {
	cfg Config
	rpc caapi.IstioCertificateServiceClient
}

var _ identity.Fetcher = (*Client)(nil)

// New makes a Client that calls over cc. It starts nothing.
func New(cc grpc.ClientConnInterface, cfg Config) *Client {
	if cfg.TTL == 0 {
		cfg.TTL = defaultTTL
	}
	cfg.TTL = max(cfg.TTL, time.Second)
	return &Client{cfg: cfg, rpc: caapi.NewIstioCertificateServiceClient(cc)}
}

// Fetch asks for a certificate of id with a new key. The certificate that it
// returns names id, carries that key, is valid now and leads to the roots that
// came with it. Errors of the CA keep their gRPC status.
func (c *Client) Fetch(ctx context.Context, id identity.ID) (*identity.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key for %v: %w", id, err)
	}
	csr, err := newCSR(id, key)
	if err != nil {
		return nil, fmt.Errorf("make a signing request for %v: %w", id, err)
	}
	req := &caapi.IstioCertificateRequest{Csr: csr, ValidityDuration: int64(c.cfg.TTL / time.Second)}
	if c.cfg.Impersonate {
		req.Metadata = &structpb.Struct{Fields: map[string]*structpb.Value{
			impersonated: structpb.NewStringValue(id.String()),
		}}
	}
	resp, err := c.rpc.CreateCertificate(ctx, req, grpc.MaxCallRecvMsgSize(maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("ask the CA for %v: %w", id, err)
	}
	cert, err := identity.NewCertificate(id, resp.GetCertChain(), key)
	if err != nil {
		return nil, fmt.Errorf("answer of the CA for %v: %w", id, err)
	}
	if err := cert.Verify(time.Now()); err != nil {
		return nil, fmt.Errorf("answer of the CA for %v: no peer would trust it: %w", id, err)
	}
	return cert, nil
}
