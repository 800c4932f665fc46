package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// rootTTL is how long a root of ours lives.
const rootTTL = 10 * 365 * 24 * time.Hour

// prepareDirectory makes the directory and, unless there are, key and
// certificate of a self-signed root. Two processes that do so at a time end with
// the same root.
func prepareDirectory(cfg Config) error {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return err
	}
	info, err := os.Stat(cfg.Dir)
	if err != nil {
		return err
	}
	if open := info.Mode().Perm() & 0o022; open != 0 {
		return fmt.Errorf("%s can be written by others (mode %#o): try chmod 700 %s", cfg.Dir, info.Mode().Perm(), cfg.Dir)
	}
	keyPath, certPath := filepath.Join(cfg.Dir, keyFile), filepath.Join(cfg.Dir, certFile)
	keyErr, certErr := exists(keyPath), exists(certPath)
	switch {
	case certErr == nil: // loading says what is wrong with the rest
		return nil
	case !errors.Is(certErr, fs.ErrNotExist):
		return certErr
	case errors.Is(keyErr, fs.ErrNotExist):
		if err := createKey(keyPath); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make a key: %w", err)
		}
	case keyErr != nil:
		return keyErr
	}
	if given := exists(filepath.Join(cfg.Dir, chainFile)); given == nil {
		return fmt.Errorf("%s is there but %s is not: want all files of an intermediate, or none", chainFile, certPath)
	}
	text, err := readSecret(keyPath, maxFile)
	if err != nil {
		return err
	}
	key, err := parseKey(keyPath, text)
	if err != nil {
		return err
	}
	if err := createRoot(certPath, cfg.TrustDomain, key); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make a root: %w", err)
	}
	return nil
}

// exists returns nil when there is a file at path.
func exists(path string) error {
	_, err := os.Stat(path)
	return err
}

// createKey writes a new key.
func createKey(path string) error {
	_, text, err := makeKey()
	if err != nil {
		return err
	}
	return writeFile(path, text, 0o600, true)
}

// makeKey makes a key. The text is the same in PEM.
func makeKey() (crypto.Signer, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// createRoot writes the self-signed certificate of key.
func createRoot(path, trustDomain string, key crypto.Signer) error {
	text, err := makeRoot(trustDomain, key)
	if err != nil {
		return err
	}
	return writeFile(path, text, 0o644, true)
}

// MakeRoot makes key and certificate of a self-signed root, in the layout of a
// Secret. It is not in force by that.
func (a *Authority) MakeRoot() (map[string][]byte, error) {
	key, text, err := makeKey()
	if err != nil {
		return nil, err
	}
	root, err := makeRoot(a.cfg.TrustDomain, key)
	if err != nil {
		return nil, err
	}
	return map[string][]byte{keyFile: text, certFile: root, rootFile: root, chainFile: {}}, nil
}

// makeRoot makes the self-signed certificate of key, in PEM.
func makeRoot(trustDomain string, key crypto.Signer) ([]byte, error) {
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), serialBits))
	if err != nil {
		return nil, err
	}
	// Each root has a name of its own, so that verifiers and people can tell an
	// old one from a new one.
	digest := sha256.Sum256(public)
	subject := pkix.Name{CommonName: "ambit root " + hex.EncodeToString(digest[:4])}
	if len(trustDomain) <= 64 { // ub-organization-name, RFC 5280, appendix A
		subject.Organization = []string{trustDomain}
	}
	now := time.Now()
	root := &x509.Certificate{
		SerialNumber:          serial.Add(serial, big.NewInt(1)),
		Subject:               subject,
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(rootTTL),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return []byte(certificatePEM(der)), nil
}
