package cluster

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"crypto/tls"
	"crypto/x509"

	"go.uber.org/goleak"
	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/internal/lab/proc"
	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConfig(t *testing.T) {
	source := t.TempDir()
	tests := []struct {
		name  string
		cfg   Config
		fails string
	}{
		{"the usual one", Config{}, ""},
		{"a long name", Config{Name: "abcdefghijklm"}, "at most 12"},
		{"a path", Config{Name: "../etc"}, "lower case"},
		{"too many nodes", Config{Nodes: 9}, "want 1 to 8"},
		{"fewer than one", Config{Nodes: -1}, "want 1 to 8"},
		{"IPv6 between nodes", Config{Subnet: netip.MustParsePrefix("fd00::/64")}, "length 24"},
		{"a wide subnet", Config{Subnet: netip.MustParsePrefix("10.0.0.0/8")}, "length 24"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.cfg.Source = source
			got, err := tt.cfg.withDefaults()
			if tt.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fails) {
					t.Errorf("error = %v, want one with %q", err, tt.fails)
				}
				return
			}
			if err != nil || got.Name != "lab" || got.Nodes != 2 || got.Dir != "/var/lib/ambit-lab/lab" {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

func TestSourceIsFoundFromWithin(t *testing.T) {
	dir, err := findSource() // tests run in their package's directory
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "e2e/cluster/doc.go")); err != nil {
		t.Error(err)
	}
	t.Chdir(t.TempDir())
	if dir, err := findSource(); err == nil || !strings.Contains(err.Error(), "--source") {
		t.Errorf("outside a checkout: %q, %v", dir, err)
	}
}

func TestStateKeepsWhatItIsTold(t *testing.T) {
	dir := t.TempDir()
	if _, err := readState(dir); !isNone(err) {
		t.Fatalf("of an empty directory: %v", err)
	}
	want := state{Format: stateFormat, Name: "lab", Ready: true, Subnet: netip.MustParsePrefix("10.55.0.0/24"), Machines: []machineRecord{
		{Name: "control", Address: netip.MustParseAddr("10.55.0.1"), Init: proc.Record{PID: 7, StartTime: 8}},
		{Name: "node-1", PodCIDR: podCIDROf(1), Address: netip.MustParseAddr("10.55.0.11"), Init: proc.Record{PID: 9, StartTime: 8}},
	}}
	if err := want.write(dir); err != nil {
		t.Fatal(err)
	}
	if got, err := readState(dir); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}

// badStates could make a removal touch what is not a cluster's.
var badStates = map[string]string{
	"another format":        `{"format":2,"name":"lab"}`,
	"a name that is a path": `{"format":1,"name":"../../etc"}`,
	"init of the host":      `{"format":1,"name":"lab","machines":[{"name":"control","init":{"pid":1,"startTime":1}}]}`,
	"no start time":         `{"format":1,"name":"lab","machines":[{"name":"control","init":{"pid":4711}}]}`,
	"a machine by a path":   `{"format":1,"name":"lab","machines":[{"name":"..","init":{"pid":4711,"startTime":1}}]}`,
	"not JSON":              `{`,
}

func TestParseStateRefuses(t *testing.T) {
	for name, raw := range badStates {
		t.Run(name, func(t *testing.T) {
			if s, err := parseState([]byte(raw)); err == nil {
				t.Errorf("taken: %+v", s)
			}
		})
	}
}

func FuzzParseState(f *testing.F) {
	for _, raw := range badStates {
		f.Add([]byte(raw))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := parseState(raw)
		if err != nil {
			return
		}
		for _, m := range s.Machines {
			if m.Init.PID <= 1 || filepath.Base(m.Name) != m.Name {
				t.Errorf("taken: %+v", m)
			}
		}
	})
}

func TestDownOfAStranger(t *testing.T) {
	netnstest.Require(t)
	stranger := exec.Command("sleep", "60")
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := stranger.Process.Kill(); err != nil {
			t.Errorf("the stranger is gone: %v", err)
		}
		_ = stranger.Wait() // killed
	}()
	record, err := proc.Of(stranger.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "x")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	// The number is used again: not what the cluster has started.
	record.StartTime--
	if err := (state{Name: "t-stranger", Machines: []machineRecord{{Name: "control", Init: record}}}).write(dir); err != nil {
		t.Fatal(err)
	}
	removed, err := Down(t.Context(), "t-stranger", dir)
	if err != nil || removed.Machines != 0 || !removed.Dir {
		t.Errorf("Down = %+v, %v", removed, err)
	}
	if removed, err := Down(t.Context(), "t-stranger", dir); err != nil || removed != (Removed{}) {
		t.Errorf("the second time: %+v, %v", removed, err)
	}
}

func TestDownRefusesWhatItCannotRead(t *testing.T) {
	netnstest.Require(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, stateFile), []byte(badStates["init of the host"]), 0o600); err != nil {
		t.Fatal(err)
	}
	if removed, err := Down(t.Context(), "t-broken", dir); err == nil {
		t.Errorf("Down = %+v", removed)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Errorf("its directory: %v", err)
	}
}

func TestTwoCannotBuildOne(t *testing.T) {
	held, err := lock(t.Context(), "t-lock")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if again, err := lock(t.Context(), "t-lock"); err == nil {
		again.Close()
		t.Error("the lock was given twice")
	}
}

func TestNoCluster(t *testing.T) {
	if _, err := Open("t-none", t.TempDir()); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "ambit lab up --name t-none") {
		t.Errorf("Open: %v", err)
	}
	if _, err := StatusOf(t.Context(), "t-none", t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("StatusOf: %v", err)
	}
}

func TestCertificates(t *testing.T) {
	ca, err := newAuthority("t")
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.issue(subject{name: "kube-apiserver", groups: []string{"g"}, dns: []string{"kubernetes"}, addresses: []net.IP{net.IPv4(10, 96, 0, 1)}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tls.X509KeyPair(cert, key); err != nil {
		t.Error(err)
	}
	block, _ := pem.Decode(cert)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.pem)
	for _, name := range []string{"kubernetes", "10.96.0.1"} {
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if leaf.Subject.CommonName != "kube-apiserver" || len(leaf.Subject.Organization) != 1 {
		t.Errorf("subject: %v", leaf.Subject)
	}
}

func TestAddresses(t *testing.T) {
	subnet := netip.MustParsePrefix("10.55.3.0/24")
	if got := addressAt(subnet, 11); got.String() != "10.55.3.11" {
		t.Error(got)
	}
	if got := podCIDROf(2); got.String() != "10.244.2.0/24" {
		t.Error(got)
	}
	a, b := HostLink("one"), HostLink("two")
	if a == b || len(a) > 15 { // IFNAMSIZ without its end
		t.Errorf("links %q and %q", a, b)
	}
	free, err := freeSubnet()
	if err != nil || free.Bits() != 24 {
		t.Errorf("free subnet: %v, %v", free, err)
	}
}

func TestFilesOfANodeAreWellFormed(t *testing.T) {
	m := machineRecord{Name: "node-1", PodCIDR: podCIDROf(1)}
	chain, err := conflist(m)
	if err != nil {
		t.Fatal(err)
	}
	var parsed struct {
		Plugins []struct{ Type string }
	}
	if err := json.Unmarshal(chain, &parsed); err != nil || len(parsed.Plugins) != 1 || parsed.Plugins[0].Type != "ptp" {
		t.Errorf("conflist: %+v, %v", parsed, err)
	}
	raw, err := kubeletConfig()
	if err != nil {
		t.Fatal(err)
	}
	var kubelet map[string]any
	if err := json.Unmarshal(raw, &kubelet); err != nil || kubelet["cgroupDriver"] != "cgroupfs" {
		t.Errorf("kubelet: %v, %v", kubelet, err)
	}
	for i, doc := range strings.Split(addons, "\n---\n") {
		var object struct{ Kind string }
		if err := yaml.Unmarshal([]byte(doc), &object); err != nil || object.Kind == "" {
			t.Errorf("addon %d: %v, %v", i, object, err)
		}
	}
}

func TestProgramsAreBuiltOncePerVersion(t *testing.T) {
	source := t.TempDir()
	g := group{name: "x", module: ".", versions: "example.com/x", packages: []string{"example.com/x/cmd/a"}}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(source, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module y\n\nrequire (\n\texample.com/x v1.36.3 // why\n)\n")
	write("go.sum", "")
	first, err := g.fingerprint(source)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := g.version(source); err != nil || v != "v1.36.3" {
		t.Errorf("version = %q, %v", v, err)
	}
	write("go.sum", "example.com/x v1.36.3 h1:other=\n")
	if again, err := g.fingerprint(source); err != nil || again == first {
		t.Errorf("other sums have the same fingerprint %q, %v", again, err)
	}
	for pkg, want := range map[string]string{"go.etcd.io/etcd/server/v3": "etcd", "k8s.io/kubernetes/cmd/kubelet": "kubelet"} {
		if got := binary(pkg); got != want {
			t.Errorf("binary(%s) = %q, want %q", pkg, got, want)
		}
	}
	if got := compiledName("go.etcd.io/etcd/server/v3"); got != "server" {
		t.Errorf("compiled as %q", got)
	}
}
