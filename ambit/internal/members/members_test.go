package members

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/ambit-mesh/ambit/ambit/internal/check"
	"github.com/ambit-mesh/ambit/ambit/internal/install"
	"github.com/ambit-mesh/ambit/ambit/internal/proxies"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world has namespace shop in the mesh and namespace plain outside.
func world(pods ...corev1.Pod) *check.World {
	return &check.World{
		Namespace: "istio-system", KubeVersion: "v1.36.3",
		Inventory: &install.Inventory{Complete: true, Values: map[string]any{"global": map[string]any{"trustDomain": "example.org"}}},
		Namespaces: map[string]*corev1.Namespace{
			"shop":  {ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{install.ModeLabel: "ambient"}}},
			"plain": {ObjectMeta: metav1.ObjectMeta{Name: "plain"}},
		},
		Pods: pods,
	}
}

// pod is a running one on node n1; its UID is its name.
func pod(namespace, name, mark string) corev1.Pod {
	p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(name), Labels: map[string]string{"app": name}}}
	p.Spec.NodeName, p.Spec.ServiceAccountName = "n1", "sa"
	p.Spec.Containers = []corev1.Container{{Name: "c", Ports: []corev1.ContainerPort{{ContainerPort: 80}}}}
	p.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1"}
	if mark != "" {
		p.Annotations = map[string]string{install.RedirectionAnnotation: mark}
	}
	return p
}

func TestStates(t *testing.T) {
	serves := func(uid, state string) proxies.Proxy {
		return proxies.Proxy{Node: "n1", Pod: "z", Dump: &proxies.Dump{Pods: map[string]proxies.Pod{uid: {State: state, Inbound: 1, Outbound: 2}}}}
	}
	sidecar := pod("shop", "p", "")
	sidecar.Spec.Containers[0].Name = "linkerd-proxy"
	hostNetwork := pod("shop", "p", "")
	hostNetwork.Spec.HostNetwork = true
	starting := pod("shop", "p", "")
	starting.Status.PodIP = ""
	ending := serves("p", "Up")
	ending.Ending = true
	tests := []struct {
		name   string
		pod    corev1.Pod
		proxy  proxies.Proxy
		state  State
		reason string
	}{
		{"captured and served", pod("shop", "p", "enabled"), serves("p", "Up"), Enrolled, ""},
		{"captured, not served", pod("shop", "p", "enabled"), serves("other", "Up"), Pending, "does not serve it"},
		{"captured, its proxy is not up", pod("shop", "p", "enabled"), serves("p", "Pending"), Pending, "does not serve it"},
		{"captured, served by one that goes", pod("shop", "p", "enabled"), ending, Pending, "does not serve it"},
		{"captured, and the proxy does not answer", pod("shop", "p", "enabled"), proxies.Proxy{Node: "n1", Err: errors.New("no way")}, Pending, "no way"},
		{"marked as pending", pod("shop", "p", "pending"), serves("p", "Up"), Pending, "waits for the proxy"},
		{"wanted, not captured", pod("shop", "p", ""), serves("p", "Up"), Failed, "describe"},
		{"wanted, without an address", starting, proxies.Proxy{}, Pending, "no address"},
		{"captured, not wanted", pod("plain", "p", "enabled"), serves("p", "Up"), Leaving, "labels"},
		{"outside", pod("plain", "p", ""), proxies.Proxy{}, Outside, "neither"},
		{"a sidecar", sidecar, proxies.Proxy{}, Outside, "Linkerd's sidecar"},
		{"the node's network", hostNetwork, proxies.Proxy{}, Outside, "network of its node"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			list := List(world(tt.pod), []proxies.Proxy{tt.proxy})
			if len(list) != 1 {
				t.Fatalf("list = %+v", list)
			}
			m := list[0]
			if m.State != tt.state || !strings.Contains(m.Reason, tt.reason) {
				t.Errorf("member = %+v, want %s %q", m, tt.state, tt.reason)
			}
			if (m.State == Enrolled) != (m.Identity == "spiffe://example.org/ns/shop/sa/sa" && m.Proxy == "z" && m.Inbound == 1) && m.State == Enrolled {
				t.Errorf("member = %+v", m)
			}
		})
	}
}

func TestPodsThatAreNotListed(t *testing.T) {
	done, own := pod("shop", "done", ""), pod("istio-system", "ztunnel", "")
	done.Status.Phase = corev1.PodSucceeded
	if list := List(world(done, own), nil); len(list) != 0 {
		t.Errorf("list = %+v", list)
	}
}

func TestNamespaces(t *testing.T) {
	w := world(pod("shop", "a", "enabled"), pod("shop", "b", ""), pod("plain", "c", ""))
	w.Namespaces["plain"].Labels = map[string]string{"istio-injection": "enabled"}
	got := Namespaces(w)
	want := []Namespace{{Name: "plain", Pods: 1}, {Name: "shop", Mode: "ambient", Pods: 2, InMesh: 1, Missing: 1}}
	if len(got) != 2 || !strings.Contains(got[0].Note, "Istio") {
		t.Fatalf("namespaces = %+v", got)
	}
	got[0].Note = ""
	if !slices.Equal(got, want) {
		t.Errorf("namespaces = %+v, want %+v", got, want)
	}
}

// What joining would break is said before, and what is wrong anyway is not.
func TestObstacles(t *testing.T) {
	now := time.Now()
	w := world(pod("plain", "web", ""), pod("plain", "db", ""))
	w.KubeVersion = "v1.20.0" // wrong anyway
	if got := mustObstacles(t, w, now); len(got) != 0 {
		t.Errorf("obstacles = %+v, want none", got)
	}
	port := intstr.FromInt32(80)
	w.NetPolicies = []networkingv1.NetworkPolicy{{ObjectMeta: metav1.ObjectMeta{Namespace: "plain", Name: "p"}}}
	w.NetPolicies[0].Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{Ports: []networkingv1.NetworkPolicyPort{{Port: &port}}}}
	if got := mustObstacles(t, w, now); len(got) != 1 || got[0].Where != "networkpolicy plain/p" || got[0].Level != check.Error {
		t.Errorf("obstacles = %+v, want the policy", got)
	}
	for _, name := range []string{"nowhere", "istio-system"} {
		if _, err := With(w, name); err == nil {
			t.Errorf("namespace %s was taken", name)
		}
	}
	if _, labelled := w.Namespaces["plain"].Labels[install.ModeLabel]; labelled {
		t.Error("the world itself was changed")
	}
}

// mustObstacles are those of namespace plain.
func mustObstacles(t *testing.T, w *check.World, now time.Time) []check.Finding {
	t.Helper()
	then, err := With(w, "plain")
	if err != nil {
		t.Fatal(err)
	}
	return Obstacles(w, then, now)
}
