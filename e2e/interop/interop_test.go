package interop

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/ambit-mesh/ambit/e2e/cases"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The manifests are objects that the API server knows, field by field; what they run
// is the image that is packed for them.
func TestManifests(t *testing.T) {
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	for _, p := range []struct{ objects, image, workload string }{
		{istiodObjects, imageIstiod, peerControl.workload},
		{ztunnelObjects, imageZtunnel, peerProxy.workload},
		{agentObjects, imageAgent, peerAgent.workload},
	} {
		runs := ""
		for doc := range strings.SplitSeq(p.objects, "\n---\n") {
			object, _, err := decoder.Decode([]byte(doc), nil, nil)
			if err != nil {
				t.Fatalf("%v in\n%s", err, doc)
			}
			var pods corev1.PodTemplateSpec
			switch o := object.(type) {
			case *appsv1.Deployment:
				pods, runs = o.Spec.Template, "deployment/"+o.Name
			case *appsv1.DaemonSet:
				pods, runs = o.Spec.Template, "daemonset/"+o.Name
			default:
				continue
			}
			if got := pods.Spec.Containers[0].Image; got != p.image {
				t.Errorf("%s runs %s, want %s", runs, got, p.image)
			}
			if pods.Labels[modeLabel] != "none" {
				t.Errorf("%s would be in the mesh itself", runs)
			}
		}
		if runs != p.workload {
			t.Errorf("the manifest runs %s, the world waits for %s", runs, p.workload)
		}
	}
}

// Every world has three parts, at least one of which is ours and one theirs, and
// every case that it shares is there.
func TestWorlds(t *testing.T) {
	seen := map[string]bool{}
	for _, w := range Worlds() {
		ours := 0
		for _, p := range w.parts {
			if p.ours != "" {
				ours++
			}
		}
		if len(w.parts) != 3 || ours == 0 || ours == 3 {
			t.Errorf("%s: %d parts, %d of them ours", w.Name, len(w.parts), ours)
		}
		shared := 0
		for _, c := range w.Cases(Peers{}) {
			if seen[c.Name] {
				t.Errorf("case %s is there twice", c.Name)
			}
			seen[c.Name] = true
			if len("e2e-"+c.Name) > 63 {
				t.Errorf("case %s: too long for the name of a namespace", c.Name)
			}
			for _, name := range w.same {
				if c.Name == w.Name+"-"+name {
					shared++
				}
			}
		}
		if shared != len(w.same) {
			t.Errorf("%s: %d of the cases %v exist", w.Name, shared, w.same)
		}
	}
	if len(cases.All()) == 0 {
		t.Error("no cases")
	}
}

func TestFindPeers(t *testing.T) {
	dir := t.TempDir()
	names := []string{"ztunnel", "pilot-discovery", "istioctl", "istio-cni", "install-cni"}
	for i, name := range names {
		_, err := FindPeers(dir)
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("with %v: %v, want it to name %s", names[:i], err, name)
		}
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := FindPeers(dir); err != nil {
		t.Error(err)
	}
	if err := os.Chmod(filepath.Join(dir, "ztunnel"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := FindPeers(dir); err == nil {
		t.Error("a file that is no program was taken for ztunnel")
	}
}
