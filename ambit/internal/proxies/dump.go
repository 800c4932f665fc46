package proxies

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Dump is what the commands read of a config_dump.
type Dump struct {
	Version      string
	Certificates []Certificate
	Pods         map[string]Pod // by UID

	// ControlPlaneRoots are the fingerprints of the roots by which the proxy knows
	// the control plane; nil when it does not tell.
	ControlPlaneRoots []string
}

// Certificate is what proves one identity, as a proxy holds it.
type Certificate struct {
	Identity string
	State    string              // Available, Initializing, or Unavailable and why
	Chain    []*x509.Certificate // leaf first; empty while there is none
	Roots    []*x509.Certificate // that its peers are checked against
}

// Available tells whether the proxy has the certificate.
func (c Certificate) Available() bool { return c.State == "Available" && len(c.Chain) > 0 }

// Pod is a pod that a proxy serves.
type Pod struct {
	Namespace, Name, ServiceAccount, TrustDomain string
	State                                        string // Up or Pending
	Inbound, Outbound                            int    // open connections
}

// rawDump is a config_dump as it is written. Source: the ambient ecosystem.
type rawDump struct {
	Version struct {
		Version string `json:"version"`
	} `json:"version"`
	Certificates []struct {
		Identity  string    `json:"identity"`
		State     string    `json:"state"`
		CertChain []rawCert `json:"certChain"`
		RootCerts []rawCert `json:"rootCerts"`
	} `json:"certificates"`
	WorkloadState map[string]struct {
		State       string `json:"state"`
		Connections struct {
			Inbound  []json.RawMessage `json:"inbound"`
			Outbound []json.RawMessage `json:"outbound"`
		} `json:"connections"`
		Info struct {
			Name           string `json:"name"`
			Namespace      string `json:"namespace"`
			ServiceAccount string `json:"serviceAccount"`
			TrustDomain    string `json:"trustDomain"`
		} `json:"info"`
	} `json:"workloadState"`
	ControlPlaneRoots []string `json:"controlPlaneRoots"`
}

// rawCert is one certificate of it.
type rawCert struct {
	PEM string `json:"pem"` // in base64 once more
}

// ParseDump reads a config_dump.
func ParseDump(text []byte) (*Dump, error) {
	var raw rawDump
	if err := json.Unmarshal(text, &raw); err != nil {
		return nil, fmt.Errorf("config_dump: %w", err)
	}
	d := &Dump{Version: raw.Version.Version, Pods: map[string]Pod{}, ControlPlaneRoots: raw.ControlPlaneRoots}
	for _, c := range raw.Certificates {
		out := Certificate{Identity: c.Identity, State: c.State}
		var err, rootErr error
		out.Chain, err = certificates(c.CertChain)
		out.Roots, rootErr = certificates(c.RootCerts)
		if err := errors.Join(err, rootErr); err != nil {
			return nil, fmt.Errorf("config_dump: certificate of %s: %w", c.Identity, err)
		}
		d.Certificates = append(d.Certificates, out)
	}
	for uid, p := range raw.WorkloadState {
		d.Pods[uid] = Pod{
			Namespace: p.Info.Namespace, Name: p.Info.Name, ServiceAccount: p.Info.ServiceAccount, TrustDomain: p.Info.TrustDomain,
			State: p.State, Inbound: len(p.Connections.Inbound), Outbound: len(p.Connections.Outbound),
		}
	}
	return d, nil
}

// certificates reads those of one list.
func certificates(raw []rawCert) (out []*x509.Certificate, err error) {
	for _, r := range raw {
		text, err := base64.StdEncoding.DecodeString(r.PEM)
		if err != nil {
			return nil, err
		}
		rest := text
		for {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, err
			}
			out = append(out, cert)
		}
	}
	return out, nil
}

// Fingerprint names a certificate: SHA-256 of its DER, in hexadecimal.
func Fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}

// Trusts tells whether the proxy accepts peers whose chains lead to the roots
// with these fingerprints, for every identity it has, and if it does not, what
// is missing. A proxy with nothing to prove trusts.
func (d *Dump) Trusts(roots []string) (bool, string) {
	for _, c := range d.Certificates {
		if strings.HasPrefix(c.State, "Unavailable") && len(c.Chain) == 0 {
			continue // it has no certificate, so nobody speaks under it
		}
		if !c.Available() {
			return false, fmt.Sprintf("%s has no certificate yet (%s)", c.Identity, c.State)
		}
		for _, want := range roots {
			if !slices.ContainsFunc(c.Roots, func(r *x509.Certificate) bool { return Fingerprint(r) == want }) {
				return false, c.Identity + " does not trust it yet"
			}
		}
	}
	if d.ControlPlaneRoots != nil {
		for _, want := range roots {
			if !slices.Contains(d.ControlPlaneRoots, want) {
				return false, "the mounted istio-ca-root-cert does not have it yet"
			}
		}
	}
	return true, ""
}

// Shows tells whether every certificate of the proxy leads to one of these roots,
// and if not, which does not.
func (d *Dump) Shows(of []*x509.Certificate) (bool, string) {
	roots := x509.NewCertPool()
	for _, root := range of {
		roots.AddCert(root)
	}
	for _, c := range d.Certificates {
		if len(c.Chain) == 0 {
			continue
		}
		between := x509.NewCertPool()
		for _, cert := range c.Chain[1:] {
			between.AddCert(cert)
		}
		if _, err := c.Chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			return false, c.Identity + " still shows a certificate of the old root"
		}
	}
	return true, ""
}
