package proxies

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// root is a CA.
type root struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// newRoot makes one.
func newRoot(t *testing.T, name string) root {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	return root{issue(t, template, template, key, key), key}
}

// issue signs template.
func issue(t *testing.T, template, parent *x509.Certificate, public, signer *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &public.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// leaf is a certificate under r.
func (r root) leaf(t *testing.T) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	return issue(t, template, r.cert, r.key, r.key)
}

// text is a certificate as a config_dump has it.
func text(c *x509.Certificate) map[string]string {
	return map[string]string{"pem": base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))}
}

// dump is a config_dump of one identity.
func dump(t *testing.T, state string, leaf *x509.Certificate, controlPlane []string, roots ...root) *Dump {
	t.Helper()
	var chain, trusted []map[string]string
	if leaf != nil {
		chain = append(chain, text(leaf))
	}
	for _, r := range roots {
		trusted = append(trusted, text(r.cert))
	}
	raw, err := json.Marshal(map[string]any{
		"certificates": []any{map[string]any{"identity": "spiffe://td/ns/a/sa/b", "state": state, "certChain": chain, "rootCerts": trusted}},
		"workloadState": map[string]any{"u1": map[string]any{
			"state": "Up", "info": map[string]string{"name": "web", "namespace": "shop"},
			"connections": map[string]any{"inbound": []any{1, 2}, "outbound": []any{3}},
		}},
		"controlPlaneRoots": controlPlane,
	})
	if err != nil {
		t.Fatal(err)
	}
	d, err := ParseDump(raw)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestTrusts(t *testing.T) {
	old, fresh := newRoot(t, "old"), newRoot(t, "new")
	prints := []string{Fingerprint(old.cert), Fingerprint(fresh.cert)}
	tests := []struct {
		name string
		dump *Dump
		want string // why not; empty: it does
	}{
		{"both", dump(t, "Available", old.leaf(t), nil, old, fresh), ""},
		{"the old one only", dump(t, "Available", old.leaf(t), nil, old), "does not trust it yet"},
		{"no certificate yet", dump(t, "Initializing", nil, nil), "no certificate yet"},
		{"a certificate that cannot be had", dump(t, "Unavailable: refused", nil, nil), ""},
		{"the file has it too", dump(t, "Available", old.leaf(t), prints, old, fresh), ""},
		{"the file does not have it", dump(t, "Available", old.leaf(t), prints[:1], old, fresh), "mounted"},
		{"nothing to prove", &Dump{}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ok, why := tt.dump.Trusts(prints)
			if ok != (tt.want == "") || !strings.Contains(why, tt.want) {
				t.Errorf("Trusts = %v, %q; want %q", ok, why, tt.want)
			}
		})
	}
}

func TestShows(t *testing.T) {
	old, fresh := newRoot(t, "old"), newRoot(t, "new")
	if ok, _ := dump(t, "Available", fresh.leaf(t), nil, old, fresh).Shows([]*x509.Certificate{fresh.cert}); !ok {
		t.Error("a certificate of the new root is not taken for one")
	}
	if ok, why := dump(t, "Available", old.leaf(t), nil, old, fresh).Shows([]*x509.Certificate{fresh.cert}); ok || !strings.Contains(why, "old root") {
		t.Errorf("a certificate of the old root is taken for one of the new: %q", why)
	}
}

func TestPodsOfADump(t *testing.T) {
	d := dump(t, "Available", nil, nil)
	if p := d.Pods["u1"]; p.Name != "web" || p.Namespace != "shop" || p.State != "Up" || p.Inbound != 2 || p.Outbound != 1 {
		t.Errorf("pod = %+v", p)
	}
}

func FuzzParseDump(f *testing.F) {
	f.Add([]byte(`{"certificates":[{"identity":"a","certChain":[{"pem":"LS0="}]}]}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := ParseDump(raw)
		if err != nil {
			return
		}
		for _, c := range d.Certificates {
			if c.Available() && len(c.Chain) == 0 {
				t.Fatal("a certificate without a chain is available")
			}
		}
		d.Trusts([]string{"x"})
		d.Shows(nil)
	})
}
