package ca

import (
	"maps"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/ambit-mesh/ambit/internal/identity"
)

// without is an authority that has no key yet.
func without(t *testing.T) (*Authority, *observer.ObservedLogs) {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	a, err := New(Config{TrustDomain: "td"}, zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	return a, logs
}

// made is a fresh root, as the values of a Secret.
func made(t *testing.T, a *Authority) map[string][]byte {
	t.Helper()
	values, err := a.MakeRoot()
	if err != nil {
		t.Fatal(err)
	}
	return values
}

// with is values with some of them replaced.
func with(values map[string][]byte, pairs ...string) map[string][]byte {
	out := maps.Clone(values)
	for i := 0; i < len(pairs); i += 2 {
		out[pairs[i]] = []byte(pairs[i+1])
	}
	return out
}

func TestWithoutAKeyNothingIsSigned(t *testing.T) {
	a, _ := without(t)
	if _, err := a.Sign(newKey(t).Public(), account("web"), time.Hour); err == nil {
		t.Error("something was signed")
	}
	if a.Check() == nil || a.Roots() != "" || a.Status().Issuer != "" {
		t.Errorf("without a key: Check %v, roots %q, status %+v", a.Check(), a.Roots(), a.Status())
	}
	serving, err := a.Serving([]string{"localhost"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := serving.GetCertificate(nil); err == nil {
		t.Error("a serving certificate was made of nothing")
	}
}

// The rotation of a self-made root by its Secret alone: the new root is trusted
// first, then it signs, then the old one goes.
func TestRotationThroughASecret(t *testing.T) {
	a, _ := without(t)
	old, next := made(t, a), made(t, a)
	steps := []struct {
		name   string
		values map[string][]byte
		signer string // the root that a new leaf stands on
		roots  []string
	}{
		{"as it was made", old, "old", []string{"old"}},
		{"another control plane has left out what it does not need", with(old, chainFile, "", rootFile, ""), "old", []string{"old"}},
		{"both are trusted", with(old, extraRootsFile, string(next[certFile])), "old", []string{"old", "next"}},
		{"the new one signs", with(next, extraRootsFile, string(old[certFile])), "next", []string{"next", "old"}},
		{"the old one is dropped", next, "next", []string{"next"}},
		{"roots of others stand with ours", with(next, rootFile, string(next[certFile])+string(old[certFile])), "next", []string{"next", "old"}},
		{"a chain that is the root itself", with(next, chainFile, string(next[certFile])), "next", []string{"next"}},
	}
	pems := map[string]string{"old": string(old[certFile]), "next": string(next[certFile])}
	for _, step := range steps {
		t.Run(step.name, func(t *testing.T) {
			if err := a.Use("mesh/istio-ca-secret", step.values); err != nil {
				t.Fatal(err)
			}
			want := ""
			for _, name := range step.roots {
				want += pems[name]
			}
			if a.Roots() != want {
				t.Errorf("roots are\n%s\nwant %v", a.Roots(), step.roots)
			}
			key := newKey(t)
			chain, err := a.Sign(key.Public(), account("web"), time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			if chain[len(chain)-1] != want {
				t.Errorf("a certificate comes with\n%s\nwant %v", chain[len(chain)-1], step.roots)
			}
			cert, err := identity.NewCertificate(account("web"), chain, key)
			if err != nil {
				t.Fatal(err)
			}
			roots, err := identity.ParseCertificates(pems[step.signer])
			if err != nil {
				t.Fatal(err)
			}
			if err := cert.Chain[0].CheckSignatureFrom(roots[0]); err != nil {
				t.Errorf("it does not stand on the %s root: %v", step.signer, err)
			}
			s := a.Status()
			if s.Issuer != fingerprint(roots[0]) || len(s.Roots) != len(step.roots) || s.LastError != "" || s.Where != "mesh/istio-ca-secret" {
				t.Errorf("status is %+v", s)
			}
		})
	}
}

func TestSecretsThatAreRefused(t *testing.T) {
	a, logs := without(t)
	good, other := made(t, a), made(t, a)
	if err := a.Use("mesh/istio-ca-secret", good); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		values map[string][]byte
		want   string
	}{
		{"nothing", map[string][]byte{}, "mesh/istio-ca-secret/ca-key.pem is missing"},
		{"an empty key", with(good, keyFile, ""), "mesh/istio-ca-secret/ca-key.pem is missing, or empty"},
		{"the key of another", with(good, keyFile, string(other[keyFile])), "does not belong to the key"},
		{"a further root that is none", with(good, extraRootsFile, "rubbish"), "mesh/istio-ca-secret/extra-roots.pem"},
		{"a chain without a root", with(good, chainFile, string(good[certFile]), rootFile, ""), "root-cert.pem is missing"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := a.Use("mesh/istio-ca-secret", tt.values); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if s := a.Status(); s.LastError == "" || a.Roots() != string(good[certFile]) {
				t.Errorf("what was good is not in force, or nothing is said: %+v", s)
			}
			if err := a.Check(); err != nil {
				t.Errorf("what is in force can sign, but %v", err)
			}
		})
	}
	// The first two say the same, which is said once.
	if n := logs.FilterMessageSnippet("refused").Len(); n != len(tests)-1 {
		t.Errorf("%d lines about %d refusals", n, len(tests))
	}
}

func TestTheEndOfACAIsAnnounced(t *testing.T) {
	a, logs := without(t)
	if err := a.Use("mesh/istio-ca-secret", made(t, a)); err != nil {
		t.Fatal(err)
	}
	ring := a.ring.Load()
	tests := []struct {
		name string
		at   time.Time
		want string
	}{
		{"years before", time.Now(), ""},
		{"61 days before", ring.notAfter.Add(-61 * 24 * time.Hour), ""},
		{"59 days before", ring.notAfter.Add(-59*24*time.Hour - time.Minute), "expires in 59 days"},
		{"after", ring.notAfter, "has expired"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := ring.warning(tt.at); (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
				t.Errorf("warning %q, want %q", got, tt.want)
			}
		})
	}
	near := ring.notAfter.Add(-time.Hour)
	a.warn(near)
	a.warn(near.Add(time.Minute))
	if n := logs.FilterMessageSnippet("ends soon").Len(); n != 1 {
		t.Errorf("%d lines, want one", n)
	}
}
