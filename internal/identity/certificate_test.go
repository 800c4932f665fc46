package identity

import (
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestNewCertificateKeepsLeafIntermediatesAndRootsApart(t *testing.T) {
	top, other := newCA(t, "top"), newCA(t, "other")
	ca := top.intermediate(t, "middle").intermediate(t, "low")
	c := ca.certify(t, mustID(t, "spiffe://td/ns/shop/sa/web"), time.Minute, time.Hour, other)
	if len(c.Chain) != 3 || len(c.TLS.Certificate) != 3 || !c.Chain[1].Equal(ca.cert) || c.Chain[2].Subject.CommonName != "middle" {
		t.Errorf("chain of %d presents %d, second is %v", len(c.Chain), len(c.TLS.Certificate), c.Chain[1].Subject)
	}
	if len(c.Roots) != 2 || !c.Roots[0].Equal(top.cert) || !c.Roots[1].Equal(other.cert) {
		t.Errorf("roots = %d, want top and other", len(c.Roots))
	}
	if err := c.Verify(time.Now()); err != nil {
		t.Errorf("Verify: %v", err)
	}
	if c.Verify(c.NotAfter().Add(time.Second)) == nil || c.Verify(c.NotBefore().Add(-time.Second)) == nil {
		t.Error("Verify does not look at the time")
	}
}

func TestNewCertificateRefuses(t *testing.T) {
	ca := newCA(t, "root")
	id := mustID(t, "spiffe://td/ns/shop/sa/web")
	key := newKey(t)
	leaf := pemOf(sign(t, leafTemplate(t, id), ca.cert, key, ca.key))
	another := pemOf(sign(t, leafTemplate(t, mustID(t, "spiffe://td/ns/shop/sa/cart")), ca.cert, key, ca.key))
	foreign := pemOf(sign(t, leafTemplate(t, id), ca.cert, newKey(t), ca.key))
	root := pemOf(ca.cert)
	for _, tt := range []struct {
		name  string
		chain []string
		want  string
	}{
		{"empty chain", nil, "empty certificate chain"},
		{"no root", []string{leaf}, "roots last"},
		{"empty root", []string{leaf, ""}, "root certificates: no PEM"},
		{"leaf of another identity", []string{another, root}, "is for spiffe://td/ns/shop/sa/cart"},
		{"leaf with another key", []string{foreign, root}, "another public key"},
		{"the root as leaf", []string{root, root}, "certificate is one of a CA"},
		{"not PEM", []string{"hello", root}, "no PEM certificate"},
		{"a key among the certificates", []string{leaf, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}})), root}, "want CERTIFICATE"},
		{"rubbish in PEM", []string{string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1, 2}})), root}, "parse certificate 1"},
		{"too many certificates", []string{leaf + strings.Repeat(root, maxPresented), root}, "want at most 10"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if c, err := NewCertificate(id, tt.chain, key); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("NewCertificate = %v, %v, want an error with %q", c, err, tt.want)
			}
		})
	}
	if _, err := NewCertificate(id, []string{leaf, root}, key); err != nil {
		t.Errorf("the good one: %v", err)
	}
}

func TestVerifyNoticesAForeignRoot(t *testing.T) {
	ca := newCA(t, "root")
	id, key := mustID(t, "spiffe://td/ns/shop/sa/web"), newKey(t)
	leaf := sign(t, leafTemplate(t, id), ca.cert, key, ca.key)
	c, err := NewCertificate(id, []string{pemOf(leaf), pemOf(newCA(t, "root").cert)}, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Verify(time.Now()); err == nil {
		t.Error("a leaf of another root of the same name verifies")
	}
}

func FuzzParseCertificates(f *testing.F) {
	ca := newCA(f, "root")
	f.Add(pemOf(ca.cert))
	f.Add(pemOf(ca.cert) + "\n# comment\n" + pemOf(ca.cert))
	f.Add("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
	f.Fuzz(func(t *testing.T, text string) {
		certs, err := ParseCertificates(text)
		if (err == nil) != (len(certs) > 0) {
			t.Fatalf("%d certificates and error %v", len(certs), err)
		}
		var written strings.Builder
		for _, cert := range certs {
			written.WriteString(pemOf(cert))
		}
		if err != nil {
			return
		}
		again, err := ParseCertificates(written.String())
		if err != nil || len(again) != len(certs) {
			t.Fatalf("%d certificates, written and read again %d: %v", len(certs), len(again), err)
		}
		for i := range certs {
			if !certs[i].Equal(again[i]) {
				t.Errorf("certificate %d changed", i)
			}
		}
	})
}

// FuzzVerifyChain overwrites parts of a good chain: whatever still verifies must
// name whom the CA has signed.
func FuzzVerifyChain(f *testing.F) {
	ca := newCA(f, "root").intermediate(f, "middle")
	web := mustID(f, "spiffe://td/ns/shop/sa/web")
	key := newKey(f)
	leaf := sign(f, leafTemplate(f, web), ca.cert, key, ca.key)
	roots := x509.NewCertPool()
	roots.AddCert(ca.root)
	now := time.Now()
	f.Add(uint16(0), []byte{})
	f.Add(uint16(200), []byte("spiffe://td/ns/shop/sa/thief"))
	f.Add(uint16(300), []byte{0x30, 0x82, 0xff})
	f.Fuzz(func(t *testing.T, at uint16, patch []byte) {
		whole := slices.Concat(leaf.Raw, ca.cert.Raw)
		copy(whole[int(at)%len(whole):], patch)
		first, err1 := x509.ParseCertificate(whole[:len(leaf.Raw)])
		second, err2 := x509.ParseCertificate(whole[len(leaf.Raw):])
		if err1 != nil || err2 != nil {
			return
		}
		id, err := verifyChain([]*x509.Certificate{first, second}, roots, x509.ExtKeyUsageClientAuth, now)
		if err == nil && id != web || err != nil && !id.IsZero() {
			t.Errorf("chain changed at %d verifies as %v, %v", at, id, err)
		}
	})
}
