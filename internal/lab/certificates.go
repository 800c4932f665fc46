package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

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
