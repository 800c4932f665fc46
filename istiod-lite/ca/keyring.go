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
	"syscall"
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

// materialFiles are all of them.
func materialFiles() [5]string {
	return [...]string{keyFile, certFile, chainFile, rootFile, extraRootsFile}
}

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
	for i, name := range materialFiles() {
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

// material is what a keyring is made of: the files of a directory, or the values
// of a Secret.
type material struct {
	where  string // begins the path of each
	files  map[string][]byte
	secret bool // of a cluster: what is empty is absent, and nothing is ours to write
}

// path is where a file stands, for people.
func (m material) path(name string) string { return m.where + "/" + name }

// has reports whether there is a file of that name.
func (m material) has(name string) bool {
	text, ok := m.files[name]
	return ok && (!m.secret || len(text) > 0)
}

// readDirectory reads the files of dir that are there. The key must be closed to
// others.
func readDirectory(dir string) (material, error) {
	m := material{where: filepath.Clean(dir), files: map[string][]byte{}}
	for _, name := range materialFiles() {
		read := readBounded
		if name == keyFile {
			read = readSecret
		}
		data, err := read(filepath.Join(dir, name), maxFile)
		switch {
		case err == nil:
			m.files[name] = data
		case !errors.Is(err, fs.ErrNotExist):
			return m, err
		}
	}
	return m, nil
}

// loadKeyring reads and checks the files of dir. Errors name the file.
func loadKeyring(dir string, now time.Time) (*keyring, error) {
	m, err := readDirectory(dir)
	if err != nil {
		return nil, err
	}
	return m.keyring(now)
}

// keyring checks the material and makes a keyring of it. Errors name the file.
func (m material) keyring(now time.Time) (*keyring, error) {
	r := &keyring{}
	var err error
	if r.key, err = m.key(); err != nil {
		return nil, err
	}
	issuers, err := m.certificates(certFile)
	if err != nil {
		return nil, err
	}
	r.issuer = issuers[0]
	if err := r.checkIssuer(m.path(certFile)); err != nil {
		return nil, err
	}
	var chain []*x509.Certificate
	r.selfSigned = !m.has(chainFile)
	switch {
	case !r.selfSigned:
		if chain, err = m.certificates(chainFile); err != nil {
			return nil, err
		}
		if r.roots, err = m.certificates(rootFile); err != nil {
			return nil, err
		}
	case r.issuer.CheckSignatureFrom(r.issuer) != nil:
		return nil, fmt.Errorf("%s is not self-signed, so %s and %s have to be there too",
			m.path(certFile), chainFile, rootFile)
	default:
		r.roots = issuers
	}
	further := []string{extraRootsFile}
	if r.selfSigned && m.secret { // in a directory it is what we wrote
		further = append(further, rootFile)
	}
	for _, name := range further {
		if !m.has(name) {
			continue
		}
		more, err := m.certificates(name)
		if err != nil {
			return nil, err
		}
		r.roots = append(slices.Clip(r.roots), more...)
	}
	r.roots = unique(r.roots)
	for _, root := range r.roots {
		if !root.IsCA || !root.BasicConstraintsValid {
			return nil, fmt.Errorf("root %v in %s is not a certificate of a CA", root.Subject, m.where)
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

// certificates reads a PEM file of one or more certificates.
func (m material) certificates(name string) ([]*x509.Certificate, error) {
	data, err := m.read(name)
	if err != nil {
		return nil, err
	}
	certs, err := identity.ParseCertificates(string(data))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.path(name), err)
	}
	return certs, nil
}

// read is the content of a file that must be there.
func (m material) read(name string) ([]byte, error) {
	switch {
	case m.has(name):
	case m.secret:
		return nil, fmt.Errorf("%s is missing, or empty", m.path(name))
	default:
		return nil, &fs.PathError{Op: "open", Path: m.path(name), Err: syscall.ENOENT}
	}
	return m.files[name], nil
}

// key reads the private key.
func (m material) key() (crypto.Signer, error) {
	data, err := m.read(keyFile)
	if err != nil {
		return nil, err
	}
	return parseKey(m.path(keyFile), data)
}

// parseKey reads a private key in PEM.
func parseKey(path string, data []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s holds no PEM block", path)
	}
	var key any
	var err error
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
