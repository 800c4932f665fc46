package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/internal/identity"
)

// The files of the directory. Source: the `cacerts` layout; extraRootsFile is
// ours.
const (
	keyFile        = "ca-key.pem"
	certFile       = "ca-cert.pem"
	chainFile      = "cert-chain.pem"
	rootFile       = "root-cert.pem"
	extraRootsFile = "extra-roots.pem"
)

// maxFile is the most that is read of any of them, in bytes.
const maxFile = 1 << 20

// keyring is what signing needs, and what others need to believe it. It never
// changes.
type keyring struct {
	key           crypto.Signer
	issuer        *x509.Certificate   // of key
	intermediates []*x509.Certificate // what a leaf is sent with, issuer first
	roots         []*x509.Certificate // what the mesh trusts
	rootsPEM      string              // the same
	notAfter      time.Time           // when the first of a leaf's chain ends
	selfSigned    bool                // root-cert.pem is ours to write
	digest        [sha256.Size]byte   // of all of the above
}

// directoryVersion tells one state of the directory from another.
type directoryVersion struct {
	files [5]fileVersion
}

// directoryVersionOf looks at the files of dir.
func directoryVersionOf(dir string) directoryVersion {
	var v directoryVersion
	for i, name := range []string{keyFile, certFile, chainFile, rootFile, extraRootsFile} {
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil {
			v.files[i] = versionOf(info)
		}
	}
	return v
}

// fresh reports whether a file was changed so recently that a further change may
// not show.
func (v directoryVersion) fresh(now time.Time) bool {
	return slices.ContainsFunc(v.files[:], func(f fileVersion) bool {
		age := now.UnixNano() - max(f.modified, f.changed)
		return f != (fileVersion{}) && age >= 0 && age < int64(settleTime)
	})
}

// loadKeyring reads and checks the files of dir. Errors name the file.
func loadKeyring(dir string, now time.Time) (*keyring, error) {
	r := &keyring{}
	var err error
	if r.key, err = loadKey(filepath.Join(dir, keyFile)); err != nil {
		return nil, err
	}
	issuers, err := loadCertificates(dir, certFile)
	if err != nil {
		return nil, err
	}
	r.issuer = issuers[0]
	if err := r.checkIssuer(filepath.Join(dir, certFile)); err != nil {
		return nil, err
	}
	chain, err := loadCertificates(dir, chainFile)
	r.selfSigned = errors.Is(err, fs.ErrNotExist)
	switch {
	case r.selfSigned && r.issuer.CheckSignatureFrom(r.issuer) != nil:
		return nil, fmt.Errorf("%s is not self-signed, so %s and %s have to be there too",
			filepath.Join(dir, certFile), chainFile, rootFile)
	case r.selfSigned:
		r.roots = issuers
	case err != nil:
		return nil, err
	default:
		if r.roots, err = loadCertificates(dir, rootFile); err != nil {
			return nil, err
		}
	}
	extra, err := loadCertificates(dir, extraRootsFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	r.roots = unique(append(slices.Clip(r.roots), extra...))
	for _, root := range r.roots {
		if !root.IsCA || !root.BasicConstraintsValid {
			return nil, fmt.Errorf("root %v in %s is not a certificate of a CA", root.Subject, dir)
		}
	}
	if err := r.buildChain(append(issuers, chain...), now); err != nil {
		return nil, err
	}
	r.seal()
	return r, nil
}

// checkIssuer checks that the certificate may sign and belongs to the key.
func (r *keyring) checkIssuer(path string) error {
	public, ok := r.issuer.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	switch {
	case !ok || !public.Equal(r.key.Public()):
		return fmt.Errorf("%s does not belong to the key in %s", path, keyFile)
	case !r.issuer.IsCA || !r.issuer.BasicConstraintsValid:
		return fmt.Errorf("%s is not a certificate of a CA", path)
	case r.issuer.KeyUsage != 0 && r.issuer.KeyUsage&x509.KeyUsageCertSign == 0:
		return fmt.Errorf("%s may not sign certificates", path)
	}
	return nil
}

// buildChain checks that the issuer leads to one of the roots, and keeps what
// lies between. available begins with the issuer.
func (r *keyring) buildChain(available []*x509.Certificate, now time.Time) error {
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, root := range r.roots {
		roots.AddCert(root)
	}
	for _, cert := range available {
		between.AddCert(cert)
	}
	chains, err := r.issuer.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return fmt.Errorf("%s does not lead to a root: %w", certFile, err)
	}
	// Of several ways to a root, take the one that lasts longest.
	for _, chain := range chains {
		ends := slices.MinFunc(chain, func(a, b *x509.Certificate) int { return a.NotAfter.Compare(b.NotAfter) }).NotAfter
		if ends.After(r.notAfter) {
			r.notAfter = ends
			r.intermediates = chain[:len(chain)-1] // without the root
		}
	}
	return nil
}

// seal computes what is derived from the rest.
func (r *keyring) seal() {
	var text strings.Builder
	hash := sha256.New()
	for _, root := range r.roots {
		text.WriteString(certificatePEM(root.Raw))
	}
	r.rootsPEM = text.String()
	for _, cert := range slices.Concat([]*x509.Certificate{r.issuer}, r.intermediates, r.roots) {
		hash.Write(cert.Raw) // the key is that of the issuer
	}
	hash.Sum(r.digest[:0])
}

// publish writes root-cert.pem, unless it is given.
func (r *keyring) publish(dir string) error {
	path := filepath.Join(dir, rootFile)
	if !r.selfSigned {
		return nil
	}
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, []byte(r.rootsPEM)) {
		return nil
	}
	return writeFile(path, []byte(r.rootsPEM), 0o644, false)
}

// loadCertificates reads a PEM file of one or more certificates.
func loadCertificates(dir, name string) ([]*x509.Certificate, error) {
	path := filepath.Join(dir, name)
	data, err := readBounded(path, maxFile)
	if err != nil {
		return nil, err
	}
	certs, err := identity.ParseCertificates(string(data))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return certs, nil
}

// loadKey reads a private key in PEM from a file that is closed to others.
func loadKey(path string) (crypto.Signer, error) {
	data, err := readSecret(path, maxFile)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s holds no PEM block", path)
	}
	var key any
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("%s holds a PEM block of type %q, want a private key", path, block.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		return key, checkPublicKey(&key.PublicKey)
	case *rsa.PrivateKey:
		return key, checkPublicKey(&key.PublicKey)
	}
	return nil, fmt.Errorf("%s holds a key of type %T, want ECDSA or RSA", path, key)
}

// unique drops certificates that stand earlier in certs too.
func unique(certs []*x509.Certificate) []*x509.Certificate {
	var out []*x509.Certificate
	for _, cert := range certs {
		if !slices.ContainsFunc(out, cert.Equal) {
			out = append(out, cert)
		}
	}
	return out
}
