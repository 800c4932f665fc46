package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"
)

// ErrUnexpectedPeer is in the chain of a handshake error when the peer has
// proven an identity and it is not one that we may talk to here. Trying again
// does not help.
var ErrUnexpectedPeer = errors.New("unexpected peer identity")

// VerifyError is why VerifyConnection refused a peer. A TLS handshake with
// [ServerTLS] or [ClientTLS] returns it.
type VerifyError struct {
	// Claimed is what the leaf of the peer says; zero when it says nothing
	// readable. It is proven only when Err is [ErrUnexpectedPeer].
	Claimed ID
	// Err is the cause; never nil.
	Err error
}

// Error names the claimed identity and the cause.
func (e *VerifyError) Error() string {
	if e.Claimed.IsZero() {
		return "verify peer: " + e.Err.Error()
	}
	return fmt.Sprintf("verify peer %v: %v", e.Claimed, e.Err.Error())
}

// Unwrap makes errors.Is and errors.As see the cause.
func (e *VerifyError) Unwrap() error { return e.Err }

// verifyPeer checks all that a handshake must have proven: an AES-GCM suite,
// and a leaf that leads to roots, may play the role usage, and names who it is.
func verifyPeer(cs tls.ConnectionState, roots *x509.CertPool, usage x509.ExtKeyUsage) (ID, error) {
	if cs.Version != tls.VersionTLS13 {
		return ID{}, &VerifyError{Err: fmt.Errorf("%s: want TLS 1.3", tls.VersionName(cs.Version))}
	}
	if !slices.Contains(suites(), cs.CipherSuite) {
		return ID{}, &VerifyError{Err: fmt.Errorf("cipher suite %s: want AES-GCM", tls.CipherSuiteName(cs.CipherSuite))}
	}
	if cs.DidResume {
		return ID{}, &VerifyError{Err: errors.New("resumed session: want a full handshake")}
	}
	return verifyChain(cs.PeerCertificates, roots, usage, time.Now())
}

// verifyChain returns the identity of the leaf presented[0], once it leads to
// one of roots with usage at now. The rest of presented is only material to
// build the chain from.
func verifyChain(presented []*x509.Certificate, roots *x509.CertPool, usage x509.ExtKeyUsage, now time.Time) (ID, error) {
	if len(presented) == 0 {
		return ID{}, &VerifyError{Err: errors.New("no certificate")}
	}
	if len(presented) > maxPresented {
		return ID{}, &VerifyError{Err: fmt.Errorf("%d certificates: want at most %d", len(presented), maxPresented)}
	}
	leaf := presented[0]
	id, err := leafIdentity(leaf)
	if err != nil {
		return ID{}, &VerifyError{Err: err}
	}
	// x509 takes a leaf without usages for one that may do all.
	if !slices.Contains(leaf.ExtKeyUsage, usage) {
		return ID{}, &VerifyError{Claimed: id, Err: fmt.Errorf("certificate is not for %s", usageName(usage))}
	}
	intermediates := x509.NewCertPool()
	for _, cert := range presented[1:] {
		intermediates.AddCert(cert)
	}
	chains, err := leaf.Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: intermediates,
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{usage},
	})
	if err != nil {
		return ID{}, &VerifyError{Claimed: id, Err: err}
	}
	if len(chains) == 0 || !chains[0][0].Equal(leaf) {
		return ID{}, &VerifyError{Claimed: id, Err: errors.New("no chain starts at the leaf")}
	}
	return id, nil
}

// usageName is the role that a usage stands for, for error texts.
func usageName(usage x509.ExtKeyUsage) string {
	if usage == x509.ExtKeyUsageClientAuth {
		return "clients"
	}
	return "servers"
}
