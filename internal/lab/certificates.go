package lab

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/ambit-mesh/ambit/internal/caclient"
	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// Certificate asks the control plane for a certificate of a pod, as the node of the
// pod may.
func (l *Lab) Certificate(ctx context.Context, p *Pod) (*identity.Certificate, error) {
	id, err := identity.NewID(trustDomain, p.Namespace, p.ServiceAccount)
	if err != nil {
		return nil, err
	}
	pem, err1 := os.ReadFile(l.rootFile())
	token, err2 := os.ReadFile(p.Node.tokenFile())
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	cc, err := grpc.NewClient(fmt.Sprintf("passthrough:///%s:%d", controlAddr, istiodPort),
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13})),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return p.Node.NetNS.dial(ctx, "tcp", addr) }))
	if err != nil {
		return nil, err
	}
	defer cc.Close()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+string(token))
	return caclient.New(cc, caclient.Config{Impersonate: true}).Fetch(ctx, id)
}

// ConfigDump fetches what the ztunnel of a node knows, into out.
func (n *Node) ConfigDump(ctx context.Context, out any) error {
	raw, err := Get(ctx, n.NetNS, fmt.Sprintf("http://127.0.0.1:%d/config_dump", ztunnelAdmin))
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, out)
}

// Serial returns the serial number of the certificate that the node's ztunnel
// holds for an identity.
func (n *Node) Serial(ctx context.Context, id string) (string, error) {
	var dump struct {
		Certificates []struct {
			Identity  string `json:"identity"`
			State     string `json:"state"`
			CertChain []struct {
				Serial string `json:"serialNumber"`
			} `json:"certChain"`
		} `json:"certificates"`
	}
	if err := n.ConfigDump(ctx, &dump); err != nil {
		return "", err
	}
	for _, c := range dump.Certificates {
		if c.Identity == id && len(c.CertChain) > 0 {
			return c.CertChain[0].Serial, nil
		}
	}
	return "", fmt.Errorf("ztunnel of %s has no certificate of %s", n.Name, id)
}

// WaitRotation waits until the node's ztunnel holds another certificate for an
// identity than the one with this serial number.
func (n *Node) WaitRotation(ctx context.Context, id, serial string, timeout time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		now, err := n.Serial(ctx, id)
		if err == nil && now != serial {
			return now, nil
		}
		if lifecycle.Sleep(ctx, 50*time.Millisecond) != nil {
			return "", fmt.Errorf("the certificate of %s was not renewed within %v", id, timeout)
		}
	}
}
