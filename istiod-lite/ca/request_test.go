package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
)

// pemDER is the content of the first PEM block.
func pemDER(t testing.TB, text string) []byte {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatalf("no PEM in %.40q", text)
	}
	return block.Bytes
}

func TestSigningRequests(t *testing.T) {
	p256 := newKey(t)
	good := csrFor(t, p256, "spiffe://td/ns/shop/sa/web")
	broken := bytes.Clone(pemDER(t, good))
	broken[len(broken)-1] ^= 1 // the signature
	swapped := bytes.Replace(pemDER(t, good), pointOf(t, p256), pointOf(t, newKey(t)), 1)
	for _, tt := range []struct {
		name, csr string
		want      string // "" when it is taken
	}{
		{"ECDSA P-256", good, ""},
		{"ECDSA P-384", csrFor(t, ecdsaKey(t, elliptic.P384())), ""},
		{"RSA of 2048 bits", csrFor(t, rsaKey(t, 2048)), ""},
		{"the older name of the block", strings.ReplaceAll(good, "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"), ""},
		{"ECDSA P-521", csrFor(t, ecdsaKey(t, elliptic.P521())), "ECDSAWithSHA512" /* and P-521 */},
		{"ECDSA P-224", csrFor(t, ecdsaKey(t, elliptic.P224())), "P-224"},
		{"RSA of 1024 bits", csrFor(t, rsaKey(t, 1024)), "RSA key of 1024 bits"},
		{"Ed25519", csrFor(t, ed25519Key(t)), "Ed25519"},
		{"signed with SHA-1", sha1CSR(t), "ECDSA-SHA1"},
		{"empty", "", "not PEM"},
		{"not PEM", "hello", "not PEM"},
		{"a certificate", newPair(t, "x", nil).certPEM(), "want CERTIFICATE REQUEST"},
		{"two requests", good + good, "followed by other text"},
		{"rubbish in PEM", block([]byte{1, 2, 3}), "parse signing request"},
		{"cut short", block(pemDER(t, good)[:50]), "parse signing request"},
		{"data after the request", block(append(bytes.Clone(pemDER(t, good)), 0)), "parse signing request"},
		{"bad signature", block(broken), "does not prove its key"},
		{"key of somebody else", block(swapped), "does not prove its key"},
		{"larger than any honest one", good + strings.Repeat("\n", maxCSR), "want at most 16384"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			public, err := readCSR(tt.csr)
			if tt.want == "" {
				if err != nil || public == nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			if _, ok := errors.AsType[*RequestError](err); !ok || public != nil {
				t.Errorf("%v, %v, want a RequestError", public, err)
			}
			if tt.name != "ECDSA P-521" { // which of its two faults is named does not matter
				wantError(t, err, tt.want)
			}
		})
	}
}

func block(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func pointOf(t *testing.T, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return point
}

func ecdsaKey(t *testing.T, curve elliptic.Curve) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func rsaKey(t *testing.T, bits int) crypto.Signer {
	t.Helper()
	t.Setenv("GODEBUG", "rsa1024min=0")
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func ed25519Key(t *testing.T) crypto.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sha1CSR says that it is signed with SHA-1, which x509 does not make any more:
// the algorithm of a good one is renamed.
func sha1CSR(t *testing.T) string {
	t.Helper()
	der := pemDER(t, csrFor(t, newKey(t)))
	ecdsaSHA256 := []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02}
	at := bytes.LastIndex(der, ecdsaSHA256)
	if at < 0 {
		t.Fatal("no algorithm in the request")
	}
	// ecdsa-with-SHA1 is 1.2.840.10045.4.1, one byte shorter; a NULL of two bytes
	// does not fit, so lengths are set by hand.
	out := append(bytes.Clone(der[:at]), 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01)
	out = append(out, der[at+len(ecdsaSHA256):]...)
	out[at-1]-- // SEQUENCE of the algorithm
	switch {    // SEQUENCE of the whole
	case out[1] == 0x82:
		out[3]--
	case out[1] == 0x81:
		out[2]--
	default:
		out[1]--
	}
	if csr, err := x509.ParseCertificateRequest(out); err != nil || csr.SignatureAlgorithm != x509.ECDSAWithSHA1 {
		t.Fatalf("the request made for the test: %v, %v", csr, err)
	}
	return block(out)
}

// FuzzReadCSR: whatever is taken has a key that we allow, and its parts written
// again are taken again.
func FuzzReadCSR(f *testing.F) {
	good := csrFor(f, newKey(f), "spiffe://td/ns/shop/sa/web")
	f.Add(pemDER(f, good))
	f.Add([]byte{0x30, 0x82, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, der []byte) {
		for _, text := range []string{string(der), block(der)} {
			public, err := readCSR(text)
			if err != nil {
				if _, ok := errors.AsType[*RequestError](err); !ok || public != nil {
					t.Errorf("%v, %v, want no key and a RequestError", public, err)
				}
				continue
			}
			if err := checkPublicKey(public); err != nil {
				t.Errorf("taken with a key that is not allowed: %v", err)
			}
			if csr, err := x509.ParseCertificateRequest(pemDER(t, text)); err != nil || csr.CheckSignature() != nil {
				t.Errorf("taken although it proves nothing: %v", err)
			}
		}
	})
}
