package main

import (
	"crypto/x509"
	"os"
	"os/exec"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// inImage is set in the process that finds no certificates on its system, as in an image.
const inImage = "AMBIT_TEST_NO_ROOTS"

func TestPublicAuthoritiesAreKnownInAnImage(t *testing.T) {
	if os.Getenv(inImage) == "" {
		self := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
		self.Env = append(os.Environ(), inImage+"=yes", "SSL_CERT_FILE="+os.DevNull, "SSL_CERT_DIR="+t.TempDir())
		if out, err := self.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	known := 0
	for root := range bundle.Roots() {
		cert, err := x509.ParseCertificate(root.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		if root.Constraint != nil {
			continue // by the date of what they have signed
		}
		at := cert.NotBefore.Add(time.Hour)
		if _, err := cert.Verify(x509.VerifyOptions{CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			t.Errorf("%s: %v", cert.Subject, err)
		}
		known++
	}
	if known < 50 {
		t.Errorf("only %d authorities", known)
	}
}
