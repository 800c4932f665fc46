package identity

import (
	"crypto/fips140"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
)

// FIPS reports whether this process runs with the FIPS 140-3 module of Go in
// force (built with GOFIPS140, or GODEBUG=fips140=on).
func FIPS() bool { return fips140.Enabled() }

// ServerTLS returns the settings for accepting peers as c.ID: TLS 1.3, ALPN h2,
// a client certificate that leads to c.Roots, may be used by clients, and names
// one SPIFFE ID in the trust domain of c. Each call returns a new Config.
func ServerTLS(c *Certificate) *tls.Config {
	cfg := baseTLS()
	cfg.Certificates = []tls.Certificate{c.TLS}
	cfg.ClientAuth = tls.RequireAnyClientCert // verified below, in every handshake
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		id, err := verifyPeer(cs, c.rootPool, x509.ExtKeyUsageClientAuth)
		if err != nil {
			return err
		}
		if id.TrustDomain != c.ID.TrustDomain {
			return &VerifyError{Claimed: id, Err: fmt.Errorf("%w: trust domain %q, want %q", ErrUnexpectedPeer, id.TrustDomain, c.ID.TrustDomain)}
		}
		return nil
	}
	return cfg
}

// ClientTLS returns the settings for dialing as c.ID a peer that must be one of
// accept: TLS 1.3, ALPN h2, no SNI, a server certificate that leads to c.Roots
// and may be used by servers. When accept is empty nobody matches. Each call
// returns a new Config.
func ClientTLS(c *Certificate, accept []ID) *tls.Config {
	accept = slices.Clone(accept)
	cfg := baseTLS()
	// Not Certificates: those are withheld from a server whose hints do not
	// name their issuer, and the server then cannot say what is wrong.
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c.TLS, nil }
	// There is no DNS name to check. VerifyConnection does all of the checking.
	cfg.InsecureSkipVerify = true
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		id, err := verifyPeer(cs, c.rootPool, x509.ExtKeyUsageServerAuth)
		if err != nil {
			return err
		}
		if !slices.Contains(accept, id) {
			return &VerifyError{Claimed: id, Err: fmt.Errorf("%w: want one of %v", ErrUnexpectedPeer, accept)}
		}
		return nil
	}
	return cfg
}

// baseTLS is what both roles have in common.
func baseTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		MaxVersion: tls.VersionTLS13,
		NextProtos: []string{"h2"},
		CurvePreferences: []tls.CurveID{
			tls.X25519MLKEM768, tls.X25519, tls.CurveP256, tls.CurveP384,
		},
		// A resumed session would skip the checks of certificates.
		SessionTicketsDisabled: true,
		// Bulk wants full records from the start.
		DynamicRecordSizingDisabled: true,
	}
}

// suites are the cipher suites of TLS 1.3 that we speak. crypto/tls cannot be
// told, so verifyPeer refuses the others.
func suites() []uint16 {
	return []uint16{tls.TLS_AES_256_GCM_SHA384, tls.TLS_AES_128_GCM_SHA256}
}
