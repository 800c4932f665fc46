package ca

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ambit-mesh/ambit/internal/identity"
)

// A Secret that somebody replaces without preparing it: nobody ever gets a
// certificate under a root that was not trusted for a while before.
func TestAnIssuerThatNobodyPreparedWaits(t *testing.T) {
	old, next, third := "old", "next", "third"
	tests := []struct {
		name  string
		steps []transitionStep
	}{
		{"it takes over when its root is everywhere, and the old root stays", []transitionStep{
			{use: next, signer: old, roots: "old next"},
			{wait: spreadTime - time.Second, signer: old, roots: "old next"},
			{wait: 2 * time.Second, signer: next, roots: "next old"},
			{use: next, signer: next, roots: "next old"}, // the Secret is read again
			{wait: 48 * time.Hour, signer: next, roots: "next old"},
		}},
		{"it is taken back", []transitionStep{
			{use: next, signer: old, roots: "old next"},
			{use: old, signer: old, roots: "old"},
			{wait: time.Hour, signer: old, roots: "old"},
		}},
		{"another one comes before it has taken over: the time begins anew", []transitionStep{
			{use: next, signer: old, roots: "old next"},
			{wait: time.Minute, use: third, signer: old, roots: "old next third"},
			{wait: spreadTime - 30*time.Second, signer: old, roots: "old next third"},
			{wait: time.Minute, signer: third, roots: "third old"},
		}},
		{"the same with a further root is another one", []transitionStep{
			{use: next, signer: old, roots: "old next"},
			{wait: spreadTime - time.Second, use: "next+third", signer: old, roots: "old next third"},
			{wait: time.Minute, signer: old, roots: "old next third"},
		}},
		{"a prepared one does not wait", []transitionStep{
			{use: "old+next", signer: old, roots: "old next"},
			{use: "next+old", signer: next, roots: "next old"},
			{use: next, signer: next, roots: "next"},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x := newTransitionTest(t, old, next, third)
				x.step(0, transitionStep{use: old, signer: old, roots: "old"})
				for i, s := range tt.steps {
					time.Sleep(s.wait)
					x.step(i+1, s)
				}
			})
		})
	}
}

// transitionStep is what happens, and what is the case then.
type transitionStep struct {
	wait   time.Duration
	use    string // root, or root+further root
	signer string
	roots  string
}

// transitionTest is an authority with roots by name.
type transitionTest struct {
	t      *testing.T
	a      *Authority
	values map[string]map[string][]byte
}

func newTransitionTest(t *testing.T, names ...string) *transitionTest {
	a, _ := without(t)
	x := &transitionTest{t: t, a: a, values: map[string]map[string][]byte{}}
	for _, name := range names {
		x.values[name] = made(t, a)
	}
	return x
}

// name is that of the root with this certificate.
func (x *transitionTest) name(text string) string {
	for name, values := range x.values {
		if string(values[certFile]) == text {
			return name
		}
	}
	return "?"
}

// step does one and checks what is the case then.
func (x *transitionTest) step(i int, s transitionStep) {
	x.t.Helper()
	x.a.finishTransition(time.Now())
	if s.use != "" {
		base, extra, _ := strings.Cut(s.use, "+")
		values := x.values[base]
		if extra != "" {
			values = with(values, extraRootsFile, string(x.values[extra][certFile]))
		}
		if err := x.a.Use("mesh/cacerts", values); err != nil {
			x.t.Fatal(err)
		}
	}
	roots, err := identity.ParseCertificates(x.a.Roots())
	if err != nil {
		x.t.Fatal(err)
	}
	var names []string
	for _, r := range roots {
		names = append(names, x.name(certificatePEM(r.Raw)))
	}
	if got := strings.Join(names, " "); got != s.roots {
		x.t.Errorf("step %d: trusted are %s, want %s", i, got, s.roots)
	}
	if got := x.name(certificatePEM(x.a.ring.Load().issuer.Raw)); got != s.signer {
		x.t.Errorf("step %d: %s signs, want %s", i, got, s.signer)
	}
	chain, err := x.a.Sign(newKey(x.t).Public(), account("web"), time.Hour)
	if err != nil || chain[len(chain)-1] != x.a.Roots() {
		x.t.Errorf("step %d: a certificate comes without all roots: %v", i, err)
	}
	if base, _, _ := strings.Cut(s.use, "+"); base != "" && (x.a.Status().Waits != "") != (base != s.signer) {
		x.t.Errorf("step %d: what waits is said to be %q", i, x.a.Status().Waits)
	}
}
