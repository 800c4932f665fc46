package peer

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// serverName is what the certificate of a hop says.
const serverName = "hop.perf"

// lifetime is how long a certificate of a run is valid.
const lifetime = 24 * time.Hour

// pairFile holds certificate and key, rootFile who signed.
func pairFile(dir string) string { return filepath.Join(dir, "hop.pem") }
func rootFile(dir string) string { return filepath.Join(dir, "root.pem") }

// WriteCertificates makes one certificate, which signs itself, of the kind that a
// mesh uses (P-256), and puts it into each of dirs for its hop.
func WriteCertificates(dirs ...string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: serverName}, DNSNames: []string{serverName},
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(lifetime),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	pair := bytes.Join([][]byte{root, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})}, nil)
	for _, dir := range dirs {
		if err := errors.Join(os.WriteFile(rootFile(dir), root, 0o600), os.WriteFile(pairFile(dir), pair, 0o600)); err != nil {
			return err
		}
	}
	return nil
}
