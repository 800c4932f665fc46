package identity

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

const (
	// maxChainSize is the most PEM text of a chain or a bundle of roots, in
	// bytes. Our choice: some 500 certificates.
	maxChainSize = 1 << 20

	// maxPresented is how many certificates a peer may present. Our choice: a
	// leaf, and more intermediates than anybody runs.
	maxPresented = 10
)

// Certificate is what one identity shows to its peers, and whom it trusts. It
// never changes; a renewal makes a new one.
type Certificate struct {
	// ID is the identity that the leaf proves.
	ID ID
	// TLS is the chain to present (leaf and intermediates) and its key.
	TLS tls.Certificate
	// Chain is the parsed form of what TLS presents, leaf first.
	Chain []*x509.Certificate
	// Roots are the certificates that a peer's chain has to lead to.
	Roots []*x509.Certificate

	rootPool *x509.CertPool // of Roots
}

// NewCertificate makes a Certificate of what a CA has returned: the leaf first,
// then intermediates, and in the last element the roots (one or several).
//
// It is an error when the leaf does not name id or does not carry the public
// key of key, and when there is no root. Time and trust are checked by
// [Certificate.Verify].
func NewCertificate(id ID, chainPEM []string, key crypto.Signer) (*Certificate, error) {
	if len(chainPEM) == 0 {
		return nil, errors.New("empty certificate chain")
	}
	if len(chainPEM) == 1 {
		return nil, errors.New("certificate chain of one element: want a leaf first and the roots last")
	}
	last := len(chainPEM) - 1
	chain, err := ParseCertificates(strings.Join(chainPEM[:last], "\n"))
	if err != nil {
		return nil, fmt.Errorf("certificate chain: %w", err)
	}
	roots, err := ParseCertificates(chainPEM[last])
	if err != nil {
		return nil, fmt.Errorf("root certificates: %w", err)
	}
	if len(chain) > maxPresented {
		return nil, fmt.Errorf("certificate chain of %d: want at most %d", len(chain), maxPresented)
	}
	leafID, err := leafIdentity(chain[0])
	if err != nil {
		return nil, err
	}
	if leafID != id {
		return nil, fmt.Errorf("certificate is for %v, want %v", leafID, id)
	}
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(chain[0].PublicKey) {
		return nil, fmt.Errorf("certificate for %v has another public key than ours", id)
	}
	c := &Certificate{ID: id, Chain: chain, Roots: roots, rootPool: x509.NewCertPool()}
	c.TLS = tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, cert := range chain {
		c.TLS.Certificate = append(c.TLS.Certificate, cert.Raw)
	}
	for _, root := range roots {
		c.rootPool.AddCert(root)
	}
	return c, nil
}

// ParseCertificates reads one or more PEM certificates. Text that is not a PEM
// block of type CERTIFICATE is an error, and so is a text without any.
func ParseCertificates(text string) ([]*x509.Certificate, error) {
	if len(text) > maxChainSize {
		return nil, fmt.Errorf("%d bytes of certificates: want at most %d", len(text), maxChainSize)
	}
	var certs []*x509.Certificate
	for rest := []byte(text); ; {
		block, after := pem.Decode(rest)
		if block == nil {
			if len(strings.TrimSpace(string(rest))) > 0 && len(certs) > 0 {
				return nil, fmt.Errorf("text after PEM certificate %d is not a PEM block", len(certs))
			}
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("PEM block %d is of type %q, want CERTIFICATE", len(certs)+1, block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse certificate %d: %w", len(certs)+1, err)
		}
		certs = append(certs, cert)
		rest = after
	}
	if len(certs) == 0 {
		return nil, errors.New("no PEM certificate found")
	}
	return certs, nil
}

// NotBefore is when the leaf begins to be valid.
func (c *Certificate) NotBefore() time.Time { return c.Chain[0].NotBefore }

// NotAfter is when the leaf ends to be valid.
func (c *Certificate) NotAfter() time.Time { return c.Chain[0].NotAfter }

// ValidAt reports whether the leaf is within its time.
func (c *Certificate) ValidAt(now time.Time) bool {
	return !now.Before(c.NotBefore()) && !now.After(c.NotAfter())
}

// Verify reports why peers that trust the same roots would refuse c at now, in
// either role; nil when they would not.
func (c *Certificate) Verify(now time.Time) error {
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := verifyChain(c.Chain, c.rootPool, usage, now); err != nil {
			return err
		}
	}
	return nil
}

// leafIdentity reads the one SPIFFE ID of a certificate that is a leaf.
// Source: X509-SVID, sections 2, 4 and 5.2.
func leafIdentity(leaf *x509.Certificate) (ID, error) {
	switch {
	case leaf.IsCA:
		return ID{}, errors.New("certificate is one of a CA, want a leaf")
	case leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		return ID{}, errors.New("certificate may sign others, want a leaf")
	}
	sid, err := x509svid.IDFromCert(leaf)
	if err != nil {
		return ID{}, fmt.Errorf("identity of certificate: %w", err)
	}
	return fromSPIFFE(sid)
}
