package report

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
	"strings"
	"testing"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/istiod-lite/gateways"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// keyPEM is a private key.
func keyPEM(t *testing.T, kind string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func TestRedact(t *testing.T) {
	token := "eyJhbGciOiJSUzI1NiIsImtpZCI6IiJ9.eyJpc3MiOiJrdWJlcm5ldGVzIn0.c2lnbmF0dXJl"
	certificate := "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
	tests := []struct{ name, text, secret, keep string }{
		{"a key", "before\n" + keyPEM(t, "PRIVATE KEY") + "after", "PRIVATE KEY", "after"},
		{"a key of an older kind", keyPEM(t, "RSA PRIVATE KEY") + "after", "RSA", "after"},
		{"a key that was cut off", "before\n" + keyPEM(t, "EC PRIVATE KEY")[:80], "EC PRIVATE", "before"},
		{"a key in base64", "data: " + base64.StdEncoding.EncodeToString([]byte(keyPEM(t, "PRIVATE KEY"))) + "\nafter", "LS0tLS1CRUdJTi", "after"},
		{"an older one in base64", "data: " + base64.StdEncoding.EncodeToString([]byte(keyPEM(t, "EC PRIVATE KEY"))) + "\nafter", "LS0tLS1CRUdJTi", "after"},
		{"a third in base64", "data: " + base64.StdEncoding.EncodeToString([]byte(keyPEM(t, "RSA PRIVATE KEY"))) + "\nafter", "LS0tLS1CRUdJTi", "after"},
		{"a token", "token " + token + " was refused", token, "was refused"},
		{"a header", `"Authorization: Bearer abc.def" 401`, "abc.def", "401"},
		{"a certificate is public", certificate, "nothing", certificate},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := string(Redact([]byte(tt.text)))
			if strings.Contains(got, tt.secret) || !strings.Contains(got, tt.keep) {
				t.Errorf("redacted: %s", got)
			}
		})
	}
}

func FuzzRedact(f *testing.F) {
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nabc"))
	f.Add([]byte("plain"))
	f.Fuzz(func(t *testing.T, text []byte) {
		got := Redact(text)
		if bytes.Contains(got, []byte("-----BEGIN PRIVATE KEY-----")) {
			t.Fatalf("a key is left: %q", got)
		}
		if again := Redact(got); !bytes.Equal(again, got) {
			t.Fatalf("twice is not once: %q, %q", got, again)
		}
	})
}

// What could not be had is in the archive as an error, and no name leads out of
// the folder.
func TestWrite(t *testing.T) {
	c := &Collector{}
	c.add("a/b.txt", []byte("text"), nil)
	c.add("a/c.txt", nil, errors.New("why not"))
	c.add("../../etc/passwd", []byte("x"), nil)
	var out bytes.Buffer
	if err := c.write(&out, "report"); err != nil {
		t.Fatal(err)
	}
	compressed, err := gzip.NewReader(&out)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for r := tar.NewReader(compressed); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		got[header.Name] = string(text)
	}
	if got["report/a/b.txt"] != "text" || got["report/a/c.txt.error"] != "why not\n" || got["report/etc/passwd"] != "x" || len(got) != 3 {
		t.Errorf("archive = %v", got)
	}
}

func TestPagesOf(t *testing.T) {
	pod := func(key, value string, phase corev1.PodPhase) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{key: value}}, Status: corev1.PodStatus{Phase: phase}}
	}
	for _, part := range []*corev1.Pod{pod("app", "ztunnel", "Running"), pod("app", "istiod-lite", "Running"), pod("k8s-app", "ambit-cni-node", "Running")} {
		if len(pagesOf(part)) == 0 {
			t.Errorf("nothing is asked of %v", part.Labels)
		}
	}
	waypoint := pod("gateway.networking.k8s.io/gateway-name", "wp", "Running")
	waypoint.Labels[gateways.PartOfLabel], waypoint.Labels[gateways.MadeByLabel] = gateways.PartOf, gateways.MadeBy
	if len(pagesOf(waypoint)) == 0 || len(pagesOf(pod("gateway.networking.k8s.io/gateway-name", "others", "Running"))) != 0 {
		t.Error("of waypoints, those of ours are asked and no others")
	}
	if len(pagesOf(pod("app", "ztunnel", "Pending")))+len(pagesOf(pod("app", "other", "Running"))) != 0 {
		t.Error("pods are asked that have nothing to say")
	}
}
