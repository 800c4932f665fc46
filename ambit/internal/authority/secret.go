package authority

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/ambit-mesh/ambit/ambit/internal/proxies"
)

// Secrets of the CA in the order in which they count, and their keys. Source: the
// layout of the ambient ecosystem; what begins with next and extraRoots is ours.
const (
	givenSecret = "cacerts"
	ownSecret   = "istio-ca-secret"

	keyKey     = "ca-key.pem"
	certKey    = "ca-cert.pem"
	chainKey   = "cert-chain.pem"
	rootKey    = "root-cert.pem"
	extraRoots = "extra-roots.pem"
	next       = "next-"

	// phaseAnnotation tells people that a rotation is under way.
	phaseAnnotation = "ambit.dev/ca-rotation"
)

// Phase is how far a rotation is.
type Phase string

const (
	Idle      Phase = ""          // none is under way
	Trusting  Phase = "trusting"  // the new root is to be trusted, the old CA signs
	Switching Phase = "switching" // the new CA signs, both roots are trusted
)

// material is the content of the Secret.
type material map[string][]byte

// keys are those of a CA.
func keys() []string { return []string{keyKey, certKey, chainKey, rootKey} }

// phase is what m says of a rotation.
func (m material) phase() Phase {
	switch {
	case len(m[next+keyKey]) > 0:
		return Trusting
	case len(m[extraRoots]) > 0:
		return Switching
	}
	return Idle
}

// begin parks the new CA in m and adds its roots to those to trust.
func (m material) begin(ca material) (material, error) {
	if m.phase() != Idle {
		return nil, fmt.Errorf("a rotation is under way (%s)", m.phase())
	}
	roots, err := ca.ownRoots()
	if err != nil {
		return nil, fmt.Errorf("the new CA: %w", err)
	}
	have, err := m.roots()
	if err != nil {
		return nil, err
	}
	out := maps.Clone(m)
	for _, key := range keys() {
		out[next+key] = ca[key]
	}
	out[extraRoots] = encode(without(roots, have))
	if len(out[extraRoots]) == 0 {
		return nil, errors.New("the new CA is under a root that is trusted already: put it into the Secret as it is, no rotation is needed")
	}
	return out, nil
}

// change makes the parked CA the one that signs, and keeps the roots of the old
// one trusted.
func (m material) change() (material, error) {
	if m.phase() != Trusting {
		return nil, errors.New("no new CA is parked")
	}
	old, err := m.ownRoots()
	if err != nil {
		return nil, err
	}
	out := maps.Clone(m)
	for _, key := range keys() {
		out[key] = m[next+key]
		delete(out, next+key)
	}
	now, err := out.ownRoots()
	if err != nil {
		return nil, err
	}
	out[extraRoots] = encode(without(old, now))
	return out, nil
}

// drop trusts the roots of the CA that signs only.
func (m material) drop() (material, error) {
	if m.phase() != Switching {
		return nil, errors.New("no old root is trusted: there is nothing to drop")
	}
	out := maps.Clone(m)
	delete(out, extraRoots)
	return out, nil
}

// ownRoots are the roots of the CA that signs.
func (m material) ownRoots() ([]*x509.Certificate, error) {
	key := rootKey
	if len(m[key]) == 0 {
		key = certKey
	}
	certs, err := decode(m[key])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return certs, nil
}

// roots are all that are trusted.
func (m material) roots() ([]*x509.Certificate, error) {
	own, err := m.ownRoots()
	if err != nil || len(m[extraRoots]) == 0 {
		return own, err
	}
	extra, err := decode(m[extraRoots])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", extraRoots, err)
	}
	return append(own, without(extra, own)...), nil
}

// decode reads at least one certificate.
func decode(text []byte) (certs []*x509.Certificate, err error) {
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("no certificate in PEM")
	}
	return certs, nil
}

// encode is the opposite of decode.
func encode(certs []*x509.Certificate) []byte {
	var out bytes.Buffer
	for _, cert := range certs {
		out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	}
	return out.Bytes()
}

// without are those of certs that are not in others.
func without(certs, others []*x509.Certificate) []*x509.Certificate {
	return slices.DeleteFunc(slices.Clone(certs), func(c *x509.Certificate) bool { return slices.ContainsFunc(others, c.Equal) })
}

// fingerprints name certs.
func fingerprints(certs []*x509.Certificate) (out []string) {
	for _, cert := range certs {
		out = append(out, proxies.Fingerprint(cert))
	}
	return out
}
