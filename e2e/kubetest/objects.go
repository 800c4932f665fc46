package kubetest

import (
	"bytes"
	"context"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	authentication "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// modules are where the definitions of custom kinds are, in the modules that we
// use anyway.
var modules = map[string][]string{
	"istio.io/api":                {"kubernetes/customresourcedefinitions.gen.yaml"},
	"sigs.k8s.io/gateway-api":     {"config/crd/standard/*.yaml", "config/crd/experimental/gateway.networking.x-k8s.io_*.yaml"},
	"github.com/ambit-mesh/ambit": {"manifests/definitions/*.yaml"},
}

// Kubectl runs kubectl as the administrator, with input as its standard input, and
// returns what it says.
func (s *Server) Kubectl(t testing.TB, input string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), s.programs.Kubectl, append([]string{"--kubeconfig", s.Kubeconfig(t, "")}, args...)...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Apply applies manifests.
func (s *Server) Apply(t testing.TB, manifests string) {
	t.Helper()
	s.Kubectl(t, manifests, "apply", "--server-side", "--validate=false", "-f", "-")
}

// Definition is the manifest of a CustomResourceDefinition, by its name, as the
// modules of its kind have it.
func Definition(t testing.TB, name string) string {
	t.Helper()
	for _, module := range slices.Sorted(maps.Keys(modules)) {
		out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
		if err != nil {
			t.Fatalf("where is %s: %v", module, err)
		}
		var paths []string
		for _, pattern := range modules[module] {
			found, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), pattern))
			if err != nil {
				t.Fatal(err)
			}
			paths = append(paths, found...)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, doc := range bytes.Split(text, []byte("\n---\n")) {
				if slices.Contains(strings.Split(string(doc), "\n"), "  name: "+name) {
					return string(doc) + "\n"
				}
			}
		}
	}
	t.Fatalf("no definition %s in %v", name, modules)
	return ""
}

// Namespace makes a namespace with labels.
func Namespace(t testing.TB, c kubernetes.Interface, name string, labels map[string]string) {
	t.Helper()
	_, err := c.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// Pod makes a pod that looks as if a kubelet had started it: with an address, and
// Ready.
func Pod(t testing.TB, c kubernetes.Interface, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	if len(pod.Spec.Containers) == 0 {
		pod.Spec.Containers = []corev1.Container{{Name: "c", Image: "none"}}
	}
	status := pod.Status
	made, err := c.CoreV1().Pods(pod.Namespace).Create(t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	made.Status = status
	if made.Status.Phase == "" {
		made.Status.Phase = corev1.PodRunning
	}
	if made, err = c.CoreV1().Pods(pod.Namespace).UpdateStatus(t.Context(), made, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	return made
}

// Token is a token of a service account, bound to a pod if one is named.
func Token(t testing.TB, c kubernetes.Interface, namespace, account, audience string, pod *corev1.Pod) string {
	t.Helper()
	_, err := c.CoreV1().ServiceAccounts(namespace).Get(t.Context(), account, metav1.GetOptions{})
	if err != nil {
		_, err = c.CoreV1().ServiceAccounts(namespace).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}}, metav1.CreateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	seconds := int64(3600)
	request := &authentication.TokenRequest{Spec: authentication.TokenRequestSpec{Audiences: []string{audience}, ExpirationSeconds: &seconds}}
	if audience == "" {
		request.Spec.Audiences = nil
	}
	if pod != nil {
		request.Spec.BoundObjectRef = &authentication.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID}
	}
	answer, err := c.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), account, request, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return answer.Status.Token
}

// Eventually waits until check is content.
func Eventually(t testing.TB, what string, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		}
	}
}
