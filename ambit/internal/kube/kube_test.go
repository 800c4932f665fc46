package kube

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/ambit-mesh/ambit/e2e/kubetest"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

func TestConnect(t *testing.T) {
	dir := t.TempDir()
	empty, bad := filepath.Join(dir, "empty"), filepath.Join(dir, "bad")
	for path, text := range map[string]string{empty: "", bad: "apiVersion: v1\nkind: Config\ncurrent-context: x\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Connect(Config{Kubeconfig: empty}); !errors.Is(err, ErrNoCluster) {
		t.Errorf("an empty kubeconfig: %v", err)
	}
	if _, err := Connect(Config{Kubeconfig: filepath.Join(dir, "nowhere")}); err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("a kubeconfig that is not there: %v", err)
	}
	if _, err := Connect(Config{Kubeconfig: bad}); err == nil {
		t.Error("a context that is not there was taken")
	}
}

// object is one with a name.
func object(apiVersion, kind, name string) *unstructured.Unstructured {
	o := &unstructured.Unstructured{}
	o.SetAPIVersion(apiVersion)
	o.SetKind(kind)
	o.SetName(name)
	o.SetNamespace("default")
	return o
}

func TestOnARealAPIServer(t *testing.T) {
	server := kubetest.Get(t)
	c, err := Connect(Config{Kubeconfig: server.Kubeconfig(t, "")})
	if err != nil {
		t.Fatal(err)
	}
	if v, err := c.Version(); err != nil || !strings.HasPrefix(v, "v1.") {
		t.Errorf("version = %q, %v", v, err)
	}
	stranger, err := Connect(Config{Kubeconfig: server.Kubeconfig(t, "not-a-token")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stranger.Version(); err == nil || !strings.Contains(err.Error(), "does not know you") {
		t.Errorf("a stranger: %v", err)
	}
	if _, err := c.Resource(object("apps/v1", "Deployment", "x")); err != nil {
		t.Error(err)
	}
	if c.Knows(object("example.org/v1", "Nothing", "x")) {
		t.Error("a kind that nobody defined is known")
	}
	if _, err := c.Get(t.Context(), "default", "nowhere", 15000, "/"); err == nil || !strings.Contains(err.Error(), "port 15000 of pod default/nowhere") {
		t.Errorf("a pod that is not there: %v", err)
	}
}

func TestAllReadsEveryPage(t *testing.T) {
	server := kubetest.Get(t)
	client := server.Client(t)
	kubetest.Namespace(t, client, "paged", nil)
	for _, name := range []string{"a", "b", "c"} {
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if _, err := client.CoreV1().ConfigMaps("paged").Create(t.Context(), cm, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	var got []string
	items := func(l *corev1.ConfigMapList) ([]corev1.ConfigMap, string) { return l.Items, l.Continue }
	options := metav1.ListOptions{Limit: 2}
	err := All(t.Context(), client.CoreV1().ConfigMaps("paged").List, items, options, func(cm *corev1.ConfigMap) { got = append(got, cm.Name) })
	if err != nil || len(got) != 3 {
		t.Errorf("read %v, %v", got, err)
	}
}
