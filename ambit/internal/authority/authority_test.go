package authority

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/ambit-mesh/ambit/ambit/internal/check"
	"github.com/ambit-mesh/ambit/istiod-lite/ca"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// made is a new self-signed CA.
func made(t *testing.T) material {
	t.Helper()
	m, err := newCA(Rotation{TrustDomain: "cluster.local"})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// rootsOf names the roots that are trusted under m.
func rootsOf(t *testing.T, m material) []string {
	t.Helper()
	roots, err := m.roots()
	if err != nil {
		t.Fatal(err)
	}
	return fingerprints(roots)
}

// accepted checks that istiod-lite takes m, after what it had before.
func accepted(t *testing.T, authority *ca.Authority, m material) {
	t.Helper()
	if err := authority.Use("test", m); err != nil {
		t.Fatalf("istiod-lite refuses it: %v", err)
	}
}

// A rotation from beginning to end: what is trusted and what signs at each step,
// and that the control plane takes each step as it stands.
func TestRotationOfTheSecret(t *testing.T) {
	authority, err := ca.New(ca.Config{TrustDomain: "cluster.local"}, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	m, fresh := made(t), made(t)
	accepted(t, authority, m)
	before, after := rootsOf(t, m)[0], rootsOf(t, fresh)[0]
	if m.phase() != Idle {
		t.Fatalf("phase = %q", m.phase())
	}

	trusting, err := m.begin(fresh)
	if err != nil {
		t.Fatal(err)
	}
	accepted(t, authority, trusting)
	if trusting.phase() != Trusting || !slices.Equal(rootsOf(t, trusting), []string{before, after}) || string(trusting[certKey]) != string(m[certKey]) {
		t.Errorf("trusting: phase %q, roots %v", trusting.phase(), rootsOf(t, trusting))
	}
	if s := authority.Status(); !slices.Equal(s.Roots, []string{before, after}) || s.Issuer != before {
		t.Errorf("istiod-lite has %+v", s)
	}

	switched, err := trusting.change()
	if err != nil {
		t.Fatal(err)
	}
	accepted(t, authority, switched)
	if switched.phase() != Switching || !slices.Equal(rootsOf(t, switched), []string{after, before}) || len(switched[next+keyKey]) != 0 {
		t.Errorf("switching: phase %q, roots %v", switched.phase(), rootsOf(t, switched))
	}
	if s := authority.Status(); s.Issuer != after || s.Waits != "" {
		t.Errorf("istiod-lite does not sign with the new CA at once: %+v", s)
	}

	dropped, err := switched.drop()
	if err != nil {
		t.Fatal(err)
	}
	accepted(t, authority, dropped)
	if dropped.phase() != Idle || !slices.Equal(rootsOf(t, dropped), []string{after}) {
		t.Errorf("dropped: phase %q, roots %v", dropped.phase(), rootsOf(t, dropped))
	}
	if !maps.EqualFunc(dropped, fresh, slices.Equal[[]byte]) {
		t.Error("what is left is not the new CA as it was made")
	}
}

func TestStepsThatMakeNoSense(t *testing.T) {
	m := made(t)
	trusting, err := m.begin(made(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := trusting.begin(made(t)); err == nil || !strings.Contains(err.Error(), "under way") {
		t.Errorf("a second rotation: %v", err)
	}
	if _, err := m.change(); err == nil {
		t.Error("a switch to nothing")
	}
	if _, err := m.drop(); err == nil {
		t.Error("nothing was dropped")
	}
	if _, err := m.begin(m); err == nil || !strings.Contains(err.Error(), "trusted already") {
		t.Errorf("a rotation to itself: %v", err)
	}
	if _, err := (material{certKey: []byte("x")}).roots(); err == nil || !strings.Contains(err.Error(), certKey) {
		t.Errorf("no PEM: %v", err)
	}
}

// A CA that is given is tried before anything is written.
func TestGivenCA(t *testing.T) {
	dir := t.TempDir()
	write := func(m material) {
		for key, text := range m {
			if err := os.WriteFile(filepath.Join(dir, key), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := newCA(Rotation{From: dir, TrustDomain: "td"}); err == nil {
		t.Error("an empty directory was taken")
	}
	good, other := made(t), made(t)
	write(material{keyKey: good[keyKey], certKey: good[certKey]})
	m, err := newCA(Rotation{From: dir, TrustDomain: "td"})
	if err != nil || len(m[rootKey]) != 0 {
		t.Errorf("a self-signed CA of two files: %v", err)
	}
	write(material{certKey: other[certKey]})
	if _, err := newCA(Rotation{From: dir, TrustDomain: "td"}); err == nil || !strings.Contains(err.Error(), "does not belong") {
		t.Errorf("a certificate of another key: %v", err)
	}
}

func TestReplicaProblem(t *testing.T) {
	tests := []struct {
		name string
		says check.Istiod
		want string
	}{
		{"in step", check.Istiod{CA: &check.CA{Issuer: "aa", Roots: []string{"r1", "r2"}}}, ""},
		{"the old issuer", check.Istiod{CA: &check.CA{Issuer: "bb", Roots: []string{"r1", "r2"}}}, "still signs with bb"},
		{"a root is missing", check.Istiod{CA: &check.CA{Issuer: "aa", Roots: []string{"r1"}}}, "root r2"},
		{"a set that it refused", check.Istiod{CA: &check.CA{Error: "bad"}}, "bad"},
		{"it says nothing", check.Istiod{}, "does not tell"},
	}
	for _, tt := range tests {
		if got := replicaProblem(tt.says, "aa", []string{"r1", "r2"}); (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
