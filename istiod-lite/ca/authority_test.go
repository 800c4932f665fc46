package ca

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/ambit-mesh/ambit/internal/identity"
)

func TestFirstStartMakesARoot(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "ca")
	a, _ := open(t, dir)
	for name, want := range map[string]os.FileMode{"": 0o700, keyFile: 0o600, certFile: 0o644, rootFile: 0o644} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%q: mode %v, %v, want %v", name, info.Mode().Perm(), err, want)
		}
	}
	files, _ := os.ReadDir(dir)
	if len(files) != 3 {
		t.Errorf("files %v, want three and no temporary one", files)
	}
	root := a.ring.Load().issuer
	key, ok := root.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() || !root.IsCA || root.CheckSignatureFrom(root) != nil {
		t.Errorf("root %v: key %T, CA %v", root.Subject, root.PublicKey, root.IsCA)
	}
	if years := time.Until(root.NotAfter).Hours() / 24 / 365; years < 9.9 || years > 10.1 {
		t.Errorf("the root lives %.1f years, want 10", years)
	}
	published, err := os.ReadFile(filepath.Join(dir, rootFile))
	if err != nil || string(published) != a.Roots() || a.Roots() != certificatePEM(root.Raw) {
		t.Errorf("published roots differ from the root: %v", err)
	}
	again, _ := open(t, dir)
	if !again.ring.Load().issuer.Equal(root) {
		t.Error("the second start makes another root")
	}
}

func TestTwoFirstStartsAtATimeEndWithOneRoot(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	var wg sync.WaitGroup
	roots := make([]string, 8)
	for i := range roots {
		wg.Go(func() {
			a, err := Open(Config{Dir: dir, TrustDomain: "td"}, zap.NewNop())
			if err != nil {
				t.Error(err)
				return
			}
			roots[i] = a.Roots()
		})
	}
	wg.Wait()
	if n := len(slices.Compact(slices.Sorted(slices.Values(roots)))); n != 1 {
		t.Errorf("%d roots, want one", n)
	}
}

func TestAStartThatWasCutBetweenKeyAndRootGoesOn(t *testing.T) {
	dir := t.TempDir()
	key := newPair(t, "unused", nil)
	put(t, dir, keyFile, key.keyPEM(t))
	a, _ := open(t, dir)
	if !key.key.Public().(*ecdsa.PublicKey).Equal(a.ring.Load().issuer.PublicKey) {
		t.Error("the key that was there is not used")
	}
}

func TestDirectoriesThatAreRefused(t *testing.T) {
	root := newPair(t, "root", nil)
	middle := newPair(t, "middle", root)
	expired := newPair(t, "expired", root, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	noCA := newPair(t, "no CA", root, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature })
	noSign := newPair(t, "no signing", root, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature })
	chmod := func(name string, mode os.FileMode) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(name string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	text := func(name, content string) func(*testing.T, string) {
		return func(t *testing.T, dir string) { put(t, dir, name, content) }
	}
	for _, tt := range []struct {
		name string
		pair *pair
		harm func(*testing.T, string)
		want string
	}{
		{"key readable by all", middle, chmod(keyFile, 0o644), "ca-key.pem is open to others"},
		{"key writable by the group", middle, chmod(keyFile, 0o620), "ca-key.pem is open to others"},
		{"directory writable by all", middle, chmod("", 0o777), "can be written by others"},
		{"no key", middle, remove(keyFile), "ca-key.pem: no such file"},
		{"no certificate", middle, remove(certFile), "want all files of an intermediate, or none"},
		{"no chain", middle, remove(chainFile), "is not self-signed"},
		{"no roots", middle, remove(rootFile), "root-cert.pem: no such file"},
		{"key of another", middle, text(keyFile, root.keyPEM(t)), "does not belong to the key"},
		{"key is no PEM", middle, text(keyFile, "hello"), "holds no PEM block"},
		{"key is a certificate", middle, text(keyFile, root.certPEM()), `type "CERTIFICATE"`},
		{"certificate is rubbish", middle, text(certFile, "hello"), "ca-cert.pem: no PEM certificate"},
		{"root of another", middle, text(rootFile, newPair(t, "root", nil).certPEM()), "does not lead to a root"},
		{"extra root is no CA", middle, text(extraRootsFile, noCA.certPEM()), "not a certificate of a CA"},
		{"extra roots are rubbish", middle, text(extraRootsFile, "x"), "extra-roots.pem: no PEM certificate"},
		{"expired", expired, nil, "expired"},
		{"not a CA", noCA, nil, "is not a certificate of a CA"},
		{"may not sign", noSign, nil, "may not sign"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := given(t, root, tt.pair)
			if tt.harm != nil {
				tt.harm(t, dir)
			}
			_, err := Open(Config{Dir: dir, TrustDomain: "td"}, zap.NewNop())
			wantError(t, err, tt.want)
		})
	}
	good, err := Open(Config{Dir: given(t, root, middle), TrustDomain: "td"}, zap.NewNop())
	if err != nil {
		t.Fatalf("the good one: %v", err)
	}
	if err := good.Check(); err != nil {
		t.Errorf("the good one: %v", err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for name, cfg := range map[string]Config{
		"no directory":      {TrustDomain: "td"},
		"no trust domain":   {Dir: "x"},
		"bad trust domain":  {Dir: "x", TrustDomain: "TD/x"},
		"negative TTL":      {Dir: "x", TrustDomain: "td", DefaultTTL: -1},
		"default above max": {Dir: "x", TrustDomain: "td", DefaultTTL: 2 * time.Hour, MaxTTL: time.Hour},
	} {
		if _, err := Open(cfg, zap.NewNop()); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func TestLeaf(t *testing.T) {
	a, _ := open(t, t.TempDir())
	cert := signed(t, a, account("web"), 0)
	leaf := cert.Chain[0]
	if err := cert.Verify(time.Now()); err != nil {
		t.Errorf("peers refuse it: %v", err)
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != "spiffe://td/ns/shop/sa/web" || len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.EmailAddresses) != 0 || len(leaf.Subject.Names) != 0 {
		t.Errorf("names %v %v, subject %v", leaf.URIs, leaf.DNSNames, leaf.Subject)
	}
	want := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	if leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature || !slices.Equal(leaf.ExtKeyUsage, want) || !leaf.BasicConstraintsValid {
		t.Errorf("CA %v, key usage %v, extended %v", leaf.IsCA, leaf.KeyUsage, leaf.ExtKeyUsage)
	}
	for _, ext := range leaf.Extensions {
		if ext.Id.String() == "2.5.29.17" && !ext.Critical {
			t.Error("the SAN is not critical although the subject is empty")
		}
	}
	if other := signed(t, a, account("web"), 0).Chain[0]; other.SerialNumber.Cmp(leaf.SerialNumber) == 0 || leaf.SerialNumber.Sign() <= 0 {
		t.Errorf("serial numbers %v and %v", leaf.SerialNumber, other.SerialNumber)
	}
}

func TestLifeOfALeaf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := newPair(t, "root", nil)
		shortLived := newPair(t, "short", root, func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(10*time.Hour)
		})
		long, _ := open(t, t.TempDir())
		short, _ := open(t, given(t, root, shortLived))
		for _, tt := range []struct {
			name          string
			a             *Authority
			ttl           time.Duration
			before, after time.Duration // want, from now
		}{
			{"default", long, 0, -2 * time.Minute, 24 * time.Hour},
			{"negative means default", long, -time.Hour, -2 * time.Minute, 24 * time.Hour},
			{"as asked", long, time.Hour, -2 * time.Minute, time.Hour},
			{"the longest", long, 90 * 24 * time.Hour, -2 * time.Minute, 90 * 24 * time.Hour},
			{"bounded by the issuer at both ends", short, 24 * time.Hour, -time.Minute, 10 * time.Hour},
		} {
			cert := signed(t, tt.a, account("web"), tt.ttl)
			if before, after := time.Until(cert.NotBefore()), time.Until(cert.NotAfter()); before != tt.before || after != tt.after {
				t.Errorf("%s: from %v to %v, want %v to %v", tt.name, before, after, tt.before, tt.after)
			}
		}
		_, err := long.Sign(newKey(t).Public(), account("web"), 90*24*time.Hour+time.Second)
		if _, ok := errors.AsType[*RequestError](err); !ok {
			t.Errorf("longer than the longest: %v, want a RequestError", err)
		}
		wantError(t, err, "want at most 2160h0m0s")
		wait(t, 10*time.Hour+time.Second)
		_, err = short.Sign(newKey(t).Public(), account("web"), 0)
		wantError(t, err, "has expired")
		wantError(t, short.Expired(), "has expired")
		if err := errors.Join(short.Check(), long.Expired()); err != nil {
			t.Errorf("an authority that has expired goes on serving, and the other one has not: %v", err)
		}
	})
}

// wait lets fake time go by.
func wait(t *testing.T, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

func TestIdentitiesThatAreNotSigned(t *testing.T) {
	a, _ := open(t, t.TempDir())
	for name, id := range map[string]identity.ID{
		"another trust domain":   {TrustDomain: "other", Namespace: "shop", ServiceAccount: "web"},
		"nobody":                 {},
		"a slash in a part":      {TrustDomain: "td", Namespace: "shop/sa/x", ServiceAccount: "web"},
		"a part missing":         {TrustDomain: "td", Namespace: "shop"},
		"what URLs give meaning": {TrustDomain: "td", Namespace: "shop", ServiceAccount: "web?x"},
	} {
		_, err := a.Sign(newKey(t).Public(), id, 0)
		if _, ok := errors.AsType[*RequestError](err); !ok {
			t.Errorf("%s: %v, want a RequestError", name, err)
		}
	}
}

func TestGivenIntermediate(t *testing.T) {
	root := newPair(t, "root", nil)
	upper := newPair(t, "upper", root)
	lower := newPair(t, "lower", upper)
	for name, chain := range map[string]string{
		"what leads upwards":                 upper.certPEM(),
		"with itself and the root":           lower.certPEM() + upper.certPEM() + root.certPEM(),
		"in no order":                        root.certPEM() + upper.certPEM() + lower.certPEM(),
		"with one that does not belong here": upper.certPEM() + newPair(t, "stray", nil).certPEM(),
	} {
		t.Run(name, func(t *testing.T) {
			dir := given(t, root, lower)
			put(t, dir, chainFile, chain)
			a, _ := open(t, dir)
			parts, err := a.Sign(newKey(t).Public(), account("web"), 0)
			if err != nil {
				t.Fatal(err)
			}
			want := []string{lower.certPEM(), upper.certPEM(), root.certPEM()}
			if len(parts) != 4 || !slices.Equal(parts[1:], want) {
				t.Errorf("answer of %d parts, want leaf, lower, upper, root", len(parts))
			}
			if err := signed(t, a, account("web"), 0).Verify(time.Now()); err != nil {
				t.Errorf("peers refuse it: %v", err)
			}
			if got, _ := os.ReadFile(filepath.Join(dir, rootFile)); !bytes.Equal(got, []byte(root.certPEM())) {
				t.Error("the given roots were overwritten")
			}
		})
	}
}

func TestRotationWithoutARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		a, logs := open(t, dir)
		old := signed(t, a, account("old"), 0)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := a.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		defer func() { cancel(); wg.Wait() }()
		look := func() { wait(t, 3*time.Second); synctest.Wait() }

		next := newPair(t, "next", nil)
		oldRoot := a.Roots()
		put(t, dir, extraRootsFile, next.certPEM())
		look()
		both := signed(t, a, account("both"), 0)
		if len(both.Roots) != 2 || !both.Roots[1].Equal(next.cert) || both.Verify(time.Now()) != nil {
			t.Fatalf("with an extra root: %d roots", len(both.Roots))
		}
		if got, _ := os.ReadFile(filepath.Join(dir, rootFile)); string(got) != a.Roots() || a.Roots() != oldRoot+next.certPEM() {
			t.Error("the published roots are not both")
		}

		// The swap is not atomic: in between the set is bad, and the old one serves.
		put(t, dir, keyFile, next.keyPEM(t))
		look()
		if s := a.Status(); s.LastError == "" || signed(t, a, account("x"), 0).Verify(time.Now()) != nil {
			t.Errorf("half of a swap: status %+v", s)
		}
		if n := logs.FilterMessageSnippet("refused").Len(); n != 1 {
			t.Errorf("%d log lines about one bad set, want 1", n)
		}
		put(t, dir, certFile, next.certPEM())
		put(t, dir, extraRootsFile, oldRoot)
		look()
		renewed := signed(t, a, account("renewed"), 0)
		if s := a.Status(); s.LastError != "" || s.IssuerIs != "CN=next" || len(s.Roots) != 2 {
			t.Errorf("after the swap: %+v", s)
		}
		if renewed.Verify(time.Now()) != nil || (identity.Peer{ID: old.ID, Chain: old.Chain, NotAfter: old.NotAfter()}).TrustedBy(renewed, time.Now()) != nil {
			t.Error("after the swap not both roots are trusted")
		}

		if err := os.Remove(filepath.Join(dir, extraRootsFile)); err != nil {
			t.Fatal(err)
		}
		look()
		last := signed(t, a, account("last"), 0)
		if len(last.Roots) != 1 || !last.Roots[0].Equal(next.cert) || a.Roots() != next.certPEM() {
			t.Errorf("after the old root was removed: %d roots", len(last.Roots))
		}
		if (identity.Peer{ID: old.ID, Chain: old.Chain, NotAfter: old.NotAfter()}).TrustedBy(last, time.Now()) == nil {
			t.Error("the old root is still trusted")
		}
	})
}
