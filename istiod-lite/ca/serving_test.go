package ca

import (
	"crypto/tls"
	"crypto/x509"
	"testing"
	"testing/synctest"
	"time"
)

func TestServingCertificate(t *testing.T) {
	root := newPair(t, "root", nil)
	middle := newPair(t, "middle", root)
	a, _ := open(t, given(t, root, middle))
	s, err := a.Serving([]string{"istiod.istio-system.svc", "127.0.0.1", "::1"})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := s.GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(a.Roots())) {
		t.Fatal("no roots")
	}
	for _, der := range cert.Certificate[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		between.AddCert(c)
	}
	for name, want := range map[string]bool{"istiod.istio-system.svc": true, "127.0.0.1": true, "::1": true, "localhost": false, "10.0.0.1": false} {
		_, err := cert.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, Intermediates: between})
		if (err == nil) != want {
			t.Errorf("%s: %v, want good: %v", name, err, want)
		}
	}
	if len(cert.Leaf.URIs) != 0 || len(cert.Leaf.ExtKeyUsage) != 1 {
		t.Errorf("the serving certificate names %v and may be used for %v: nobody in the mesh must take it for a workload", cert.Leaf.URIs, cert.Leaf.ExtKeyUsage)
	}
	if again, _ := s.GetCertificate(nil); again != cert {
		t.Error("each handshake makes a certificate")
	}
	if cfg := s.TLS(); cfg.MinVersion != tls.VersionTLS13 || !cfg.SessionTicketsDisabled {
		t.Error("TLS of the port is not 1.3 without tickets")
	}
	for _, names := range [][]string{nil, {""}} {
		if _, err := a.Serving(names); err == nil {
			t.Errorf("a serving certificate for %q", names)
		}
	}
}

func TestAWorkloadCannotServeAsTheControlPlane(t *testing.T) {
	a, _ := open(t, t.TempDir())
	key := newKey(t)
	public, err := readCSR(csrFor(t, key, "istiod.istio-system.svc", "spiffe://td/ns/istio-system/sa/istiod"))
	if err != nil {
		t.Fatal(err)
	}
	chain, err := a.Sign(public, account("web"), 0)
	if err != nil {
		t.Fatal(err)
	}
	certs, err := x509.ParseCertificates(pemDER(t, chain[0]))
	if err != nil {
		t.Fatal(err)
	}
	if err := certs[0].VerifyHostname("istiod.istio-system.svc"); err == nil {
		t.Error("a workload certificate is good for the name of the control plane")
	}
	if len(certs[0].URIs) != 1 || certs[0].URIs[0].String() != account("web").String() {
		t.Errorf("names of the request were signed: %v", certs[0].URIs)
	}
}

func TestServingCertificateIsRenewedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := newPair(t, "root", nil)
		shortLived := newPair(t, "short", root, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(30 * time.Hour) })
		dir := given(t, root, shortLived)
		a, _ := open(t, dir)
		s, err := a.Serving([]string{"istiod"})
		if err != nil {
			t.Fatal(err)
		}
		get := func() *tls.Certificate {
			t.Helper()
			cert, err := s.GetCertificate(nil)
			if err != nil {
				t.Fatal(err)
			}
			return cert
		}
		first := get()
		wait(t, 12*time.Hour-time.Second)
		if get() != first {
			t.Error("renewed before half of its life")
		}
		wait(t, time.Second)
		second := get()
		if second == first {
			t.Error("not renewed at half of its life")
		}
		next := newPair(t, "next", nil)
		put(t, dir, keyFile, next.keyPEM(t))
		put(t, dir, certFile, next.certPEM())
		put(t, dir, rootFile, next.certPEM())
		if err := a.Reload(); err != nil {
			t.Fatal(err)
		}
		if get().Leaf.CheckSignatureFrom(next.cert) != nil {
			t.Error("the issuer has changed and the old certificate is served")
		}
	})
}

func TestServingCertificateDoesNotOutliveItsIssuer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := newPair(t, "root", nil)
		shortLived := newPair(t, "short", root, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(time.Hour) })
		a, _ := open(t, given(t, root, shortLived))
		s, err := a.Serving([]string{"istiod"})
		if err != nil {
			t.Fatal(err)
		}
		if cert, err := s.GetCertificate(nil); err != nil || time.Until(cert.Leaf.NotAfter) != time.Hour {
			t.Fatalf("%v, want one bounded by its issuer", err)
		}
		wait(t, 2*time.Hour)
		_, err = s.GetCertificate(nil)
		wantError(t, err, "has expired")
	})
}
