package install

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/ambit-mesh/ambit/ambit/internal/kube"
	"github.com/ambit-mesh/ambit/e2e/kubetest"
)

// installer is one for a namespace of its own on a real API server, and what it
// said.
func installer(t *testing.T, namespace string) (*Installer, *kubetest.Server, *[]string) {
	t.Helper()
	server := kubetest.Get(t)
	client, err := kube.Connect(kube.Config{Kubeconfig: server.Kubeconfig(t, "")})
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	kubetest.Namespace(t, client.Kube, namespace, nil)
	return &Installer{Client: client, Namespace: namespace, Say: func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) }}, server, &said
}

// remove takes the installation away, whatever is in the way.
func (i *Installer) remove(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
	defer cancel()
	if err := i.Remove(ctx, Removal{ReleasePods: true, Force: true, Definitions: true}); err != nil {
		t.Error(err)
	}
}

// exists tells whether an object of the chart is there.
func (i *Installer) exists(t *testing.T, apiVersion, kind, namespace, name string) bool {
	t.Helper()
	resource, err := i.Client.Resource(Ref{apiVersion, kind, namespace, name}.object())
	if err != nil {
		t.Fatal(err)
	}
	_, err = resource.Get(t.Context(), name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	return err == nil
}

// The life of an installation: applied, changed, refused where it is somebody
// else's, taken away.
func TestLife(t *testing.T) {
	ctx := t.Context()
	i, server, said := installer(t, "life")
	o := Options{Version: "v1", Namespace: "life", Values: map[string]any{}, KubeVersion: "v1.36.3"}

	server.Apply(t, "apiVersion: v1\nkind: Service\nmetadata: {namespace: life, name: istiod}\nspec: {ports: [{port: 1}]}")
	if err := i.Apply(ctx, o, false, nil); err == nil || !strings.Contains(err.Error(), "Service life/istiod is there and is not of ambit") {
		t.Fatalf("a Service of somebody else: %v", err)
	}
	if inv, err := ReadInventory(ctx, i.Client.Kube, "life"); inv != nil || err != nil {
		t.Fatalf("an installation that was refused left an inventory: %+v, %v", inv, err)
	}
	server.Kubectl(t, "", "-n", "life", "delete", "service", "istiod")

	if err := i.Apply(ctx, o, false, nil); err != nil {
		t.Fatal(err)
	}
	inv, err := i.Installed(ctx)
	if err != nil || !inv.Complete || inv.Version != "v1" || !i.exists(t, "apps/v1", "DaemonSet", "life", "ztunnel") {
		t.Fatalf("inventory = %+v, %v", inv, err)
	}
	const policy = "istiod-lite-nodes"
	if !i.exists(t, "admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy", "", policy) {
		t.Error("the admission policy is missing")
	}

	// Without a taint the policy about taints has nothing to do, and goes.
	o.Version, o.IsUpgrade, o.Values = "v2", true, map[string]any{"cni": map[string]any{"taint": ""}}
	if err := i.Apply(ctx, o, false, nil); err != nil {
		t.Fatal(err)
	}
	if i.exists(t, "admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy", "", policy) {
		t.Error("an object that the new version does not have is still there")
	}
	if !slices.ContainsFunc(*said, func(s string) bool { return strings.Contains(s, "definitions were there and stay as they are") }) {
		t.Errorf("nothing was said of definitions that were there: %q", *said)
	}

	kubetest.Namespace(t, i.Client.Kube, "member", map[string]string{ModeLabel: ModeAmbient})
	kubetest.Namespace(t, i.Client.Kube, "ending", map[string]string{ModeLabel: ModeAmbient})
	server.Kubectl(t, "", "delete", "namespace", "ending", "--wait=false") // nobody ends it here
	var inMesh *InMeshError
	if err := i.Remove(ctx, Removal{}); !errors.As(err, &inMesh) || !slices.Equal(inMesh.Namespaces, []string{"member"}) {
		t.Fatalf("want it refused because of the namespace in the mesh, and not of one that ends: %v", err)
	}
	// A waypoint stands: it is named; gone on with, it stays, and its class with it.
	server.Kubectl(t, "", "wait", "--for=condition=Established", "crd/gateways.gateway.networking.k8s.io", "crd/gatewayclasses.gateway.networking.k8s.io")
	server.Apply(t, `
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: ambit-waypoint, labels: {app.kubernetes.io/part-of: ambit, app.kubernetes.io/managed-by: istiod-lite}}
spec: {controllerName: ambit.dev/waypoint-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: istio-waypoint, labels: {app.kubernetes.io/part-of: ambit, app.kubernetes.io/managed-by: istiod-lite}}
spec: {controllerName: ambit.dev/waypoint-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {namespace: member, name: wp}
spec: {gatewayClassName: ambit-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
`)
	if err := i.Remove(ctx, Removal{}); err == nil || !strings.Contains(err.Error(), "waypoint member/wp: ambit waypoint delete --namespace member wp") {
		t.Fatalf("removed although a waypoint stands: %v", err)
	}
	server.Apply(t, "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {namespace: member, name: strict}\nspec: {mtls: {mode: STRICT}}")
	if err := i.Remove(ctx, Removal{ReleasePods: true, Definitions: true}); err != nil {
		t.Fatal(err)
	}
	for name, stays := range map[string]bool{"ambit-waypoint": true, "istio-waypoint": false} {
		if got := i.exists(t, "gateway.networking.k8s.io/v1", "GatewayClass", "", name); got != stays {
			t.Errorf("GatewayClass %s is there: %v, want %v", name, got, stays)
		}
	}
	if !i.exists(t, "gateway.networking.k8s.io/v1", "Gateway", "member", "wp") {
		t.Error("the Gateway of a waypoint is gone, and nobody said so")
	}
	for _, r := range inv.Objects {
		if i.exists(t, r.APIVersion, r.Kind, r.Namespace, r.Name) {
			t.Errorf("%v is left", r)
		}
	}
	if !i.exists(t, "apiextensions.k8s.io/v1", "CustomResourceDefinition", "", "peerauthentications.security.istio.io") {
		t.Error("a definition was removed that somebody uses")
	}
	if i.exists(t, "apiextensions.k8s.io/v1", "CustomResourceDefinition", "", "authorizationpolicies.security.istio.io") {
		t.Error("a definition that nobody uses is left")
	}
	if err := i.Remove(ctx, Removal{}); err == nil || !strings.Contains(err.Error(), "nothing of ambit is installed") {
		t.Errorf("removed twice: %v", err)
	}
}

func TestNamespaceThatRefuses(t *testing.T) {
	i, _, _ := installer(t, "strict")
	kubetest.Namespace(t, i.Client.Kube, "refusing", map[string]string{"pod-security.kubernetes.io/enforce": "restricted"})
	i.Namespace = "refusing"
	err := i.Apply(t.Context(), Options{Version: "v1", Namespace: "refusing"}, true, nil)
	if err == nil || !strings.Contains(err.Error(), "kubectl label --overwrite namespace refusing") {
		t.Errorf("error = %v", err)
	}
}

// as is a client that has a token.
func as(t *testing.T, server *kubetest.Server, token string) kubernetes.Interface {
	t.Helper()
	client, err := kubernetes.NewForConfig(server.Config(token))
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// place makes a node and a pod on it.
func place(t *testing.T, client kubernetes.Interface, namespace, account, name string) *corev1.Pod {
	t.Helper()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-of-" + name}}
	node.Spec.Taints = []corev1.Taint{{Key: "cni.istio.io/not-ready", Effect: corev1.TaintEffectNoSchedule}, {Key: "other", Effect: corev1.TaintEffectNoSchedule}}
	if _, err := client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.CoreV1().Nodes().Delete(context.WithoutCancel(t.Context()), node.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": name}, Annotations: map[string]string{"a": "1"}}}
	pod.Spec = corev1.PodSpec{NodeName: node.Name, ServiceAccountName: account, Containers: []corev1.Container{{Name: "c", Image: "i"}}}
	return kubetest.Pod(t, client, pod)
}

// What the admission policies let the agent and istiod-lite write, asked of the
// real API server with tokens as they have them.
func TestAdmission(t *testing.T) {
	i, server, _ := installer(t, "bounds")
	if err := i.Apply(t.Context(), Options{Version: "v1", Namespace: "bounds"}, true, nil); err != nil {
		t.Fatal(err)
	}
	defer i.remove(t)
	admin := i.Client.Kube
	if _, err := admin.CoreV1().ServiceAccounts("bounds").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	here := place(t, admin, "bounds", "ambit-cni", "here")
	place(t, admin, "bounds", "default", "there")
	agent := as(t, server, kubetest.Token(t, admin, "bounds", "ambit-cni", "", here))
	control := as(t, server, kubetest.Token(t, admin, "bounds", "istiod-lite", "", nil))

	pod := func(name, patch string, sub ...string) func() error {
		return func() error {
			_, err := agent.CoreV1().Pods("bounds").Patch(t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}, sub...)
			return err
		}
	}
	node := func(patch string) func() error {
		return func() error {
			_, err := control.CoreV1().Nodes().Patch(t.Context(), "node-of-here", types.MergePatchType, []byte(patch), metav1.PatchOptions{})
			return err
		}
	}
	// The API server itself gives a new node a taint.
	const others = `{"key":"other","effect":"NoSchedule"},{"key":"node.kubernetes.io/not-ready","effect":"NoSchedule"}`
	const enabled = `{"metadata":{"annotations":{"ambient.istio.io/redirection":"enabled"}}}`
	tests := []struct {
		name string
		do   func() error
		want string // in the refusal; empty: allowed
	}{
		{"the agent marks a pod of its node", pod("here", enabled, "status"), ""},
		{"and takes the mark off", pod("here", `{"metadata":{"annotations":{"ambient.istio.io/redirection":null}}}`, "status"), ""},
		{"a pod of another node", pod("there", enabled, "status"), "of that node only"},
		{"another annotation", pod("here", `{"metadata":{"annotations":{"a":"2"}}}`, "status"), "no annotation but"},
		{"an annotation more", pod("here", `{"metadata":{"annotations":{"b":"2"}}}`, "status"), "no annotation but"},
		{"an annotation less", pod("here", `{"metadata":{"annotations":{"a":null}}}`, "status"), "no annotation but"},
		{"another mark", pod("here", `{"metadata":{"annotations":{"ambient.istio.io/redirection":"maybe"}}}`, "status"), "want enabled or pending"},
		{"a label", pod("here", `{"metadata":{"labels":{"app":"x"}}}`, "status"), "neither labels nor the status"},
		{"the status", pod("here", `{"status":{"phase":"Failed"}}`, "status"), "neither labels nor the status"},
		{"the pod itself", pod("here", enabled), "cannot patch resource"},

		{"istiod-lite removes the taint", node(`{"spec":{"taints":[` + others + `]}}`), ""},
		{"another taint", node(`{"spec":{"taints":null}}`), "removes no taint but"},
		{"a taint more", node(`{"spec":{"taints":[` + others + `,{"key":"x","effect":"NoExecute"}]}}`), "adds no taint"},
		{"a label of a node", node(`{"metadata":{"labels":{"a":"b"}}}`), "no metadata"},
		{"that a node is closed", node(`{"spec":{"unschedulable":true}}`), "nothing of a node but its taints"},
	}
	kubetest.Eventually(t, "the admission policies are in force", func() error {
		if err := tests[2].do(); err == nil || !strings.Contains(err.Error(), tests[2].want) {
			return fmt.Errorf("a pod of another node: %w", err)
		}
		if err := tests[13].do(); err == nil || !strings.Contains(err.Error(), tests[13].want) {
			return fmt.Errorf("a label of a node: %w", err)
		}
		return nil
	})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.do()
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("error = %v, want %q", err, tt.want)
			}
		})
	}
}
