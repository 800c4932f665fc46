package lab

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// A kubelet's notes: before ADD a pod has no address, after it one, and the
// annotation stands only when the agent has confirmed.
func TestPodManifestThroughItsLife(t *testing.T) {
	node := &Node{Name: "node-1", Address: netip.MustParseAddr("192.168.77.11")}
	pod := &Pod{
		PodSpec: PodSpec{Namespace: "shop", Name: "web", App: "web", ServiceAccount: "web"},
		UID:     "u-1", Node: node, created: time.Unix(1700000000, 0),
	}
	m := Manifests{t.TempDir()}
	read := func() corev1.Pod {
		t.Helper()
		if err := m.Apply(podFile(pod), pod.manifest(node)); err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(filepath.Join(m.Dir, "pod-shop-web.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		var got corev1.Pod
		if err := yaml.UnmarshalStrict(raw, &got); err != nil {
			t.Fatal(err)
		}
		return got
	}

	before := read()
	if before.Kind != "Pod" || before.Spec.NodeName != "node-1" || before.Spec.ServiceAccountName != "web" || string(before.UID) != "u-1" {
		t.Errorf("before ADD: %+v", before)
	}
	if before.Status.PodIP != "" || before.Status.Phase != corev1.PodPending || len(before.Annotations) != 0 {
		t.Errorf("before ADD: status %+v, annotations %v", before.Status, before.Annotations)
	}
	pod.Address, pod.annotated, pod.ready = netip.MustParseAddr("10.77.1.2"), true, true
	after := read()
	if after.Status.PodIP != "10.77.1.2" || after.Status.Phase != corev1.PodRunning ||
		after.Status.Conditions[0].Status != corev1.ConditionTrue || after.Annotations[redirectionAnnotation] != "enabled" {
		t.Errorf("after ADD: status %+v, annotations %v", after.Status, after.Annotations)
	}
	pod.meshLabel, pod.annotated, pod.ready = "none", false, false
	left := read()
	if left.Labels[dataplaneLabel] != "none" || len(left.Annotations) != 0 || left.Status.Conditions[0].Status != corev1.ConditionFalse {
		t.Errorf("after it left: labels %v, annotations %v, conditions %v", left.Labels, left.Annotations, left.Status.Conditions)
	}
}

func TestManifestsApply(t *testing.T) {
	m := Manifests{t.TempDir()}
	if err := m.Apply("two", "kind: A", "kind: B\n"); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(m.Dir, "two.yaml"))
	if err != nil || string(raw) != "kind: A\n---\nkind: B\n" {
		t.Errorf("file = %q, %v", raw, err)
	}
	for name, doc := range map[string]string{"../out": "kind: A", "": "kind: A", ".hidden": "kind: A", "bad": "kind: [A"} {
		if err := m.Apply(name, doc); err == nil {
			t.Errorf("Apply(%q, %q) = nil, want an error", name, doc)
		}
	}
	if err := m.Delete("two"); err != nil {
		t.Fatal(err)
	}
	if err := m.Delete("two"); err != nil {
		t.Errorf("second Delete = %v, want nil", err)
	}
	if entries, err := os.ReadDir(m.Dir); err != nil || len(entries) > 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestConfigRefuses(t *testing.T) {
	tests := []struct {
		name string
		cfg  Config
		want string
	}{
		{"a name with a slash", Config{Name: "a/b"}, "lab name"},
		{"too many nodes", Config{Nodes: 10}, "10 nodes"},
		{"a relative directory", Config{Dir: "x"}, "absolute"},
		{"a directory too long for sockets", Config{Dir: "/" + strings.Repeat("x", 70)}, "longer than 60"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if c, err := tt.cfg.withDefaults(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("withDefaults = %+v, %v, want an error with %q", c, err, tt.want)
			}
		})
	}
	err := Config{BinDir: t.TempDir()}.checkPrograms()
	if err == nil || !strings.Contains(err.Error(), "bridge, host-local, ztunnel") || !strings.Contains(err.Error(), "make build") {
		t.Errorf("checkPrograms = %v, want all names and how to get them", err)
	}
}
