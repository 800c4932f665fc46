package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Peer is who is at the other end of a connection.
type Peer struct {
	// ID is the proven identity.
	ID ID
	// NotAfter is when the peer's leaf expires. From then on the connection
	// takes no new streams.
	NotAfter time.Time
	// Chain is what the peer presented, leaf first.
	Chain []*x509.Certificate
}

// PeerOf reads who the peer of a connection is. The handshake must be complete
// and have been made with [ServerTLS] or [ClientTLS], whose VerifyConnection is
// what proves it.
func PeerOf(cs *tls.ConnectionState) (Peer, error) {
	if !cs.HandshakeComplete {
		return Peer{}, errors.New("peer identity: the TLS handshake is not complete")
	}
	if len(cs.PeerCertificates) == 0 {
		return Peer{}, errors.New("peer identity: no certificate")
	}
	leaf := cs.PeerCertificates[0]
	id, err := leafIdentity(leaf)
	if err != nil {
		return Peer{}, fmt.Errorf("peer identity: %w", err)
	}
	return Peer{ID: id, NotAfter: leaf.NotAfter, Chain: slices.Clone(cs.PeerCertificates)}, nil
}

// TrustedBy checks a live connection again after the roots of our side have
// changed: it returns nil when the peer's chain still leads to a root of c. That
// the leaf has expired meanwhile is no reason to cut a connection and is not
// looked at.
func (p Peer) TrustedBy(c *Certificate, now time.Time) error {
	if now.After(p.NotAfter) {
		now = p.NotAfter
	}
	var err error
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		var id ID
		if id, err = verifyChain(p.Chain, c.rootPool, usage, now); err != nil {
			continue
		}
		if id != p.ID {
			return fmt.Errorf("peer %v: its chain names %v", p.ID, id)
		}
		return nil
	}
	return fmt.Errorf("peer %v is not trusted any more: %w", p.ID, err)
}
