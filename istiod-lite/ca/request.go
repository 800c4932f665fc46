package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
)

const (
	// maxCSR is the longest signing request, in bytes of PEM. Our choice: ten
	// times one with an RSA key of 4096 bits.
	maxCSR = 16 << 10

	// minRSABits and maxRSABits bound RSA keys: too short is weak, too long costs
	// every peer time.
	minRSABits = 2048
	maxRSABits = 4096
)

// RequestError is a fault of the request. Its text may be told to the caller.
type RequestError struct{ Err error }

// Error is the text of the cause.
func (e *RequestError) Error() string { return e.Err.Error() }

// Unwrap makes errors.Is and errors.As see the cause.
func (e *RequestError) Unwrap() error { return e.Err }

// readCSR returns the public key of a signing request in PEM, once the request
// proves that its maker holds the private one. Names in it are not looked at.
// Errors are [*RequestError].
func readCSR(text string) (crypto.PublicKey, error) {
	if len(text) > maxCSR {
		return nil, &RequestError{fmt.Errorf("signing request of %d bytes: want at most %d", len(text), maxCSR)}
	}
	block, rest := pem.Decode([]byte(text))
	if block == nil {
		return nil, &RequestError{errors.New("signing request is not PEM")}
	}
	if block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST" {
		return nil, &RequestError{fmt.Errorf("signing request is PEM of type %.40q, want CERTIFICATE REQUEST", block.Type)}
	}
	if strings.TrimSpace(string(rest)) != "" {
		return nil, &RequestError{errors.New("signing request is followed by other text")}
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, &RequestError{fmt.Errorf("parse signing request: %w", err)}
	}
	if !slices.Contains(signatures(), csr.SignatureAlgorithm) {
		return nil, &RequestError{fmt.Errorf("signing request is signed with %v: want ECDSA or RSA with SHA-2", csr.SignatureAlgorithm)}
	}
	if err := checkPublicKey(csr.PublicKey); err != nil { // first: a check with a huge key is costly
		return nil, &RequestError{fmt.Errorf("signing request: %w", err)}
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, &RequestError{fmt.Errorf("signing request does not prove its key: %w", err)}
	}
	return csr.PublicKey, nil
}

// signatures are the signature algorithms a request may use.
func signatures() []x509.SignatureAlgorithm {
	return []x509.SignatureAlgorithm{
		x509.ECDSAWithSHA256, x509.ECDSAWithSHA384,
		x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA,
		x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS,
	}
}

// checkPublicKey refuses keys that are weak, costly, or not understood by every
// peer.
func checkPublicKey(public crypto.PublicKey) error {
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() && key.Curve != elliptic.P384() {
			return fmt.Errorf("ECDSA key on %s: want P-256 or P-384", key.Curve.Params().Name)
		}
		return nil
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return fmt.Errorf("RSA key of %d bits: want %d to %d", bits, minRSABits, maxRSABits)
		}
		return nil
	}
	return fmt.Errorf("key of type %T: want ECDSA or RSA", public)
}
