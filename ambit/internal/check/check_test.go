package check

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/ambit/internal/install"
	"github.com/ambit-mesh/ambit/ambit/internal/waypoints"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// now is when all checks of these tests are made.
var now = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// healthy is an installation with nothing to complain of: one node, two
// namespaces, shop in the mesh, and a client outside.
func healthy(t *testing.T) *World {
	t.Helper()
	w := &World{
		KubeVersion: "v1.36.3", Namespace: "istio-system", CLIVersion: "v1",
		Inventory: &install.Inventory{Version: "v1", Complete: true},
		Nodes: []corev1.Node{{
			ObjectMeta: metav1.ObjectMeta{Name: "n1"},
			Status: corev1.NodeStatus{
				NodeInfo:   corev1.NodeSystemInfo{OperatingSystem: "linux", Architecture: "amd64", KernelVersion: "6.8.0-31-generic"},
				Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
			},
		}},
		Namespaces: map[string]*corev1.Namespace{
			"shop":    {ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{install.ModeLabel: "ambient", "team": "a"}}},
			"outside": {ObjectMeta: metav1.ObjectMeta{Name: "outside", Labels: map[string]string{"team": "b"}}},
		},
		Agents:  []Agent{{Node: "n1", Pod: "ambit-cni-1", Numbers: map[string]float64{"ambit_pods_expected": 2, "ambit_pods_enrolled": 2}}},
		Istiods: []Istiod{{Pod: "istiod-lite-1", CA: &CA{Secret: "istio-system/istio-ca-secret", Issuer: "aa", NotAfter: now.Add(5 * 365 * 24 * time.Hour)}}},
		Root:    rootPEM(t, now.Add(9*365*24*time.Hour)),
	}
	pod := func(namespace, name, ip string, labels map[string]string) {
		p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels}}
		p.Spec.NodeName = "n1"
		p.Spec.Containers = []corev1.Container{{Name: "app", Image: "ambit/x:v1", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}}}
		p.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip}
		if namespace == "shop" {
			p.Annotations = map[string]string{install.RedirectionAnnotation: "enabled"}
		}
		w.Pods = append(w.Pods, p)
	}
	pod("shop", "web-1", "10.0.0.1", map[string]string{"app": "web", "pod-template-hash": "x"})
	pod("shop", "db-1", "10.0.0.2", map[string]string{"app": "db"})
	pod("outside", "client-1", "10.0.0.3", map[string]string{"app": "client"})
	pod("istio-system", "ambit-cni-1", "10.0.1.1", map[string]string{"k8s-app": "ambit-cni-node", install.PartOfLabel: install.PartOf})
	pod("istio-system", "ztunnel-1", "10.0.1.2", map[string]string{"app": "ztunnel", install.PartOfLabel: install.PartOf})
	pod("istio-system", "istiod-lite-1", "10.0.1.3", map[string]string{"app": "istiod-lite", install.PartOfLabel: install.PartOf})
	return w
}

// rootPEM is a certificate that ends at end.
func rootPEM(t *testing.T, end time.Time) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotAfter: end, IsCA: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// policy reads a NetworkPolicy's spec.
func policy(t *testing.T, namespace, name, spec string) networkingv1.NetworkPolicy {
	t.Helper()
	p := networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	if err := yaml.UnmarshalStrict([]byte(spec), &p.Spec); err != nil {
		t.Fatal(err)
	}
	return p
}

// boundService asks for the waypoint wp.
func boundService(name string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{"istio.io/use-waypoint": "wp"}},
		Spec:       corev1.ServiceSpec{ClusterIP: "10.96.0.1", ClusterIPs: []string{"10.96.0.1"}, Ports: []corev1.ServicePort{{Port: 80}}},
	}
}

// waypoint is the Gateway of wp, with what its status says of Programmed.
func waypoint(reason string, status metav1.ConditionStatus, message string) *gateway.Gateway {
	g := waypoints.Wanted{Namespace: "shop", Name: "wp", For: "service", Class: waypoints.Classes()[0]}.Gateway()
	g.Status.Conditions = []metav1.Condition{{Type: "Accepted", Status: metav1.ConditionTrue}, {Type: "Programmed", Status: status, Reason: reason, Message: message}}
	return g
}

// daemonSet is one whose pods have a label.
func daemonSet(namespace, name, key, value string) appsv1.DaemonSet {
	d := appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	d.Spec.Template.Labels = map[string]string{key: value}
	return d
}

// spaceWith is the namespace shop with a label.
func spaceWith(key, value string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{key: value}}}
}

// A waypoint that is missing, where traffic is to go around it: nothing is refused, and
// what is reached around it now is named.
func TestWaypointsThatAreBypassedNow(t *testing.T) {
	w := healthy(t)
	w.Waypoints = waypoints.Of(spaceWith("ambit.dev/on-waypoint-failure", "open"), boundService("web"))
	var got []string
	for _, f := range Run(w, now).Findings {
		got = append(got, fmt.Sprintf("%s %s: %s", f.Level, f.Where, f.What))
	}
	want := []string{
		"warning waypoint shop/wp: there is no Gateway of that name",
		"warning namespace shop: while a waypoint is missing or not ready traffic goes around it (label ambit.dev/on-waypoint-failure: open)\nnow: service shop/web",
	}
	if !slices.Equal(got, want) {
		t.Errorf("findings\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestNothingToComplainOf(t *testing.T) {
	r := Run(healthy(t), now)
	if len(r.Findings) != 0 {
		t.Errorf("findings in a healthy mesh: %+v", r.Findings)
	}
	before := healthy(t)
	before.Inventory, before.Agents, before.Istiods, before.Root = nil, nil, nil, ""
	if r := Run(before, now); len(r.Findings) != 0 {
		t.Errorf("findings before an installation: %+v", r.Findings)
	}
}

func TestFindings(t *testing.T) {
	tests := []struct {
		name   string
		breakS func(w *World)
		level  Level
		blocks bool
		where  string
		want   string // in what or do
	}{
		{"an old cluster", func(w *World) { w.KubeVersion = "v1.29.9-eks-1" }, Error, true, "cluster", "1.30 or later"},
		{"an old kernel", func(w *World) { w.Nodes[0].Status.NodeInfo.KernelVersion = "4.18.0-513.el8" }, Error, true, "node n1", "5.2 or later"},
		{"a kernel of middle age", func(w *World) { w.Nodes[0].Status.NodeInfo.KernelVersion = "5.4.0-1" }, Warning, false, "node n1", "wait to be accepted"},
		{"an architecture without images", func(w *World) { w.Nodes[0].Status.NodeInfo.Architecture = "s390x" }, Error, false, "node n1", "s390x"},
		{"a CNI agent of the same kind", func(w *World) {
			w.DaemonSets = append(w.DaemonSets, daemonSet("istio-system", "istio-cni-node", "k8s-app", "istio-cni-node"))
		}, Error, true, "DaemonSet istio-system/istio-cni-node", "does not fight"},
		{"a node proxy of the same kind", func(w *World) {
			w.DaemonSets = append(w.DaemonSets, daemonSet("mesh", "zt", "app", "ztunnel"))
		}, Error, true, "DaemonSet mesh/zt", "node proxy"},
		{"a control plane of the same kind", func(w *World) {
			d := appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "istiod"}}
			d.Spec.Template.Labels = map[string]string{"app": "istiod"}
			w.Deployments = append(w.Deployments, d)
		}, Error, true, "Deployment istio-system/istiod", "istio-ca-root-cert"},
		{"a namespace of Linkerd's", func(w *World) {
			w.Namespaces["outside"].Annotations = map[string]string{"linkerd.io/inject": "enabled"}
		}, Info, false, "namespace outside", "istio.io/dataplane-mode=ambient"},
		{"a namespace of two meshes", func(w *World) { w.Namespaces["shop"].Labels["istio-injection"] = "enabled" }, Warning, false, "namespace shop", "istio-injection-"},
		{"a pod with a sidecar", func(w *World) {
			w.Pods[0].Spec.InitContainers = []corev1.Container{{Name: "istio-proxy"}}
			w.Pods[0].Annotations = nil
		}, Warning, false, "namespace shop", "web-1"},
		{"an interrupted installation", func(w *World) { w.Inventory.Complete = false }, Error, false, "installation", "interrupted"},
		{"a part that does not run", func(w *World) {
			w.Rollouts = []install.Rollout{{Part: install.Part{Kind: "DaemonSet", Name: "ztunnel"}, Wanted: 3, Current: 3, Ready: 2, Observed: true}}
		}, Error, false, "daemonset ztunnel", "2/3"},
		{"an agent that is not ready", func(w *World) { w.Agents[0].Unready = "CNI: no configuration to chain after" }, Error, false, "node n1", "no configuration to chain after"},
		{"an agent that cannot be asked", func(w *World) { w.Agents[0] = Agent{Node: "n1", Err: errors.New("forbidden")} }, Warning, false, "node n1", "pods/portforward"},
		{"a node without an agent", func(w *World) { w.Pods[3].Spec.NodeName = "n2" }, Error, false, "node n1", "no agent runs"},
		{"a pod that is not enrolled", func(w *World) { w.Pods[1].Annotations = nil }, Error, false, "node n1", "shop/db-1"},
		{"a fenced pod", func(w *World) {
			w.Agents[0].Numbers = map[string]float64{"ambit_pods_expected": 2, "ambit_pods_enrolled": 1, "ambit_pods_fenced": 1}
		}, Error, false, "node n1", "1 are fenced"},
		{"a policy that is not enforced", func(w *World) {
			w.MeshPolicies = append(w.MeshPolicies, meshPolicy("ZtunnelAccepted", "False", "UnsupportedValue", "no HTTP here"))
		}, Error, false, "authorizationpolicy shop/p", "no HTTP here"},
		{"a policy that is enforced in part", func(w *World) {
			w.MeshPolicies = append(w.MeshPolicies, meshPolicy("ZtunnelAccepted", "True", "UnsupportedValue", "a rule is left out"))
		}, Warning, false, "authorizationpolicy shop/p", "a rule is left out"},
		{"a profile that counts for nothing", func(w *World) {
			w.MeshPolicies = append(w.MeshPolicies, meshPolicy("WaypointAccepted", "False", "AncestorNotBound", "no waypoint"))
		}, Error, false, "authorizationpolicy shop/p", "no waypoint"},
		{"a route with a backend that is missing", func(w *World) {
			w.MeshPolicies = append(w.MeshPolicies, meshRoute("ambit.dev/mesh-controller", "ResolvedRefs", "False", "BackendNotFound", "no service shop/x"))
		}, Error, false, "httproute shop/r", "no service shop/x"},
		{"a route with a rule that is left out; what others say of it is theirs", func(w *World) {
			w.MeshPolicies = append(w.MeshPolicies,
				meshRoute("ambit.dev/mesh-controller", "PartiallyInvalid", "True", "UnsupportedValue", "Dropped Rule: x"),
				meshRoute("example.com/gateways", "Accepted", "False", "Conflicted", "theirs"))
		}, Warning, false, "httproute shop/r", "Dropped Rule: x"},
		{"a waypoint that is missing", func(w *World) {
			w.Waypoints = waypoints.Of(boundService("web"), boundService("db"))
		}, Error, false, "waypoint shop/wp", "service shop/db, service shop/web"},
		{"what to do about it", func(w *World) {
			w.Waypoints = waypoints.Of(boundService("web"))
		}, Error, false, "waypoint shop/wp", "ambit waypoint apply wp --namespace shop --wait"},
		{"a waypoint that is not Programmed", func(w *World) {
			w.Waypoints = waypoints.Of(waypoint("Pending", metav1.ConditionFalse, "no instance"))
		}, Warning, false, "waypoint shop/wp", "Programmed is False (Pending): no instance"},
		{"a waypoint that is not Programmed, and bound", func(w *World) {
			w.Waypoints = waypoints.Of(waypoint("Pending", metav1.ConditionFalse, "no instance"), boundService("web"))
		}, Error, false, "waypoint shop/wp", "service shop/web"},
		{"a service that its waypoint does not serve", func(w *World) {
			g := waypoint("Programmed", metav1.ConditionTrue, "")
			g.Labels = map[string]string{"istio.io/waypoint-for": "workload"}
			w.Waypoints = waypoints.Of(g, boundService("web"))
		}, Error, false, "service shop/web", "does not serve services"},
		{"traffic that goes around waypoints that fail", func(w *World) {
			w.Waypoints = waypoints.Of(spaceWith("ambit.dev/on-waypoint-failure", "open"))
		}, Info, false, "namespace shop", "while a waypoint is missing or not ready traffic goes around it (label ambit.dev/on-waypoint-failure: open)"},
		{"callers that may come around a waypoint", func(w *World) {
			w.Waypoints = waypoints.Of(spaceWith("ambit.dev/only-through-waypoint", "false"))
		}, Info, false, "namespace shop", "callers may come around its waypoint"},
		{"pods that may be called around their waypoint", func(w *World) {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-1", Labels: map[string]string{"ambit.dev/only-through-waypoint": "false"}}}
			w.Waypoints = waypoints.Of(p)
		}, Info, false, "namespace shop", "may come around their waypoint (label of theirs): web-1"},
		{"a root that ends soon", func(w *World) { w.Root = rootPEM(t, now.Add(59*24*time.Hour)) }, Warning, false, "root certificate CN=root", "ambit ca rotate"},
		{"a root that has ended", func(w *World) { w.Root = rootPEM(t, now.Add(-time.Hour)) }, Error, false, "root certificate CN=root", "has ended"},
		{"an issuer that ends soon", func(w *World) { w.Istiods[0].CA.NotAfter = now.Add(24 * time.Hour) }, Warning, false, "certificate that signs", "1 days"},
		{"a CA that was refused", func(w *World) { w.Istiods[0].CA.Error = "ca-cert.pem: no PEM" }, Error, false, "pod istio-system/istiod-lite-1", "no PEM"},
		{"replicas that differ", func(w *World) {
			w.Istiods = append(w.Istiods, Istiod{Pod: "b", CA: &CA{Issuer: "bb"}})
		}, Error, false, "deployment istiod-lite", "different certificates"},
		{"another version", func(w *World) { w.CLIVersion = "v2" }, Info, false, "installation", "ambit upgrade"},
		{"versions that are mixed", func(w *World) { w.Pods[4].Spec.Containers[0].Image = "ambit/ztunnel:v0" }, Warning, false, "installation", "v0 (1 pods), v1 (2 pods)"},
		{"what could not be read", func(w *World) { w.Problems = []string{"you may not list nodes"} }, Warning, false, "cluster", "may not list nodes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := healthy(t)
			tt.breakS(w)
			r := Run(w, now)
			if len(r.Findings) != 1 {
				t.Fatalf("findings = %+v, want one", r.Findings)
			}
			f := r.Findings[0]
			if f.Level != tt.level || f.Blocks != tt.blocks || !strings.HasPrefix(f.Where, tt.where) || !strings.Contains(f.What+f.Do, tt.want) {
				t.Errorf("finding = %+v, want %+v", f, tt)
			}
			if f.Check == "" || f.Do == "" {
				t.Errorf("finding without its check, or without what to do: %+v", f)
			}
		})
	}
}

// meshPolicy is an AuthorizationPolicy with one condition.
func meshPolicy(kind, status, reason, message string) unstructured.Unstructured {
	return unstructured.Unstructured{Object: map[string]any{
		"kind": "AuthorizationPolicy", "metadata": map[string]any{"namespace": "shop", "name": "p"},
		"status": map[string]any{"conditions": []any{map[string]any{"type": kind, "status": status, "reason": reason, "message": message}}},
	}}
}

// meshRoute is an HTTPRoute with one condition at one parent.
func meshRoute(controller, kind, status, reason, message string) unstructured.Unstructured {
	parent := map[string]any{
		"controllerName": controller, "parentRef": map[string]any{"kind": "Service", "name": "web"},
		"conditions": []any{map[string]any{"type": kind, "status": status, "reason": reason, "message": message}},
	}
	return unstructured.Unstructured{Object: map[string]any{
		"kind": "HTTPRoute", "metadata": map[string]any{"namespace": "shop", "name": "r"}, "status": map[string]any{"parents": []any{parent}},
	}}
}

// What people read lines up, and the worst comes first.
func TestReport(t *testing.T) {
	w := healthy(t)
	w.CLIVersion = "v2"
	w.KubeVersion = "v1.29.0"
	w.Agents[0].Unready = "one\ntwo"
	var out bytes.Buffer
	if err := Run(w, now).Write(&out); err != nil {
		t.Fatal(err)
	}
	want := `ERROR  cluster       it runs Kubernetes v1.29.0
                     do: upgrade it to 1.30 or later
ERROR  node n1       its agent takes no pods in: one
                     two
                     do: kubectl -n istio-system logs ambit-cni-1; pods that should be in the mesh do not start there until it does
INFO   installation  it is v1, and this command is v2
                     do: ambit upgrade

Kubernetes v1.29.0, ambit v1: 13 checks, 2 errors, 0 warnings, 1 remarks
`
	if out.String() != want {
		t.Errorf("report:\n%s\nwant:\n%s", out.String(), want)
	}
}

func TestGauges(t *testing.T) {
	text := "# TYPE ambit_pods_expected gauge\nambit_pods_expected 3\n# TYPE other gauge\nother 1\n# TYPE ambit_pods_fenced gauge\nambit_pods_fenced{why=\"a\"} 1\nambit_pods_fenced{why=\"b\"} 2\n"
	got := gauges(text, "ambit_pods_")
	if got["ambit_pods_expected"] != 3 || got["ambit_pods_fenced"] != 3 || len(got) != 2 {
		t.Errorf("gauges = %v", got)
	}
}

func FuzzGauges(f *testing.F) {
	f.Add("ambit_pods_expected 3\n")
	f.Add("# TYPE ambit_pods_expected summary\nambit_pods_expected{quantile=\"0.5\"} NaN\n")
	f.Fuzz(func(t *testing.T, text string) {
		for name := range gauges(text, "ambit_pods_") {
			if !strings.HasPrefix(name, "ambit_pods_") {
				t.Fatalf("a metric that was not asked for: %s", name)
			}
		}
	})
}
