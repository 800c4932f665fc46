package istiodlite_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/ambit-mesh/ambit/e2e/kubetest"
	istiodlite "github.com/ambit-mesh/ambit/istiod-lite"
)

// rights are what the control plane needs, and nothing else.
const rights = `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: istiod-lite}
rules:
- {apiGroups: [""], resources: [pods], verbs: [get, list, watch]}
- {apiGroups: [""], resources: [services, namespaces], verbs: [list, watch]}
- {apiGroups: [""], resources: [nodes], verbs: [get, list, watch, patch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
- {apiGroups: [apiextensions.k8s.io], resources: [customresourcedefinitions], verbs: [list, watch]}
- {apiGroups: [security.istio.io], resources: [authorizationpolicies, peerauthentications, requestauthentications], verbs: [list, watch]}
- {apiGroups: [networking.istio.io], resources: [serviceentries, workloadentries, virtualservices, destinationrules], verbs: [list, watch]}
- {apiGroups: [linkerd.io], resources: [serviceprofiles], verbs: [list, watch]}
- {apiGroups: [ambit.dev], resources: [ratelimits], verbs: [list, watch]}
- {apiGroups: [linkerd.io], resources: [serviceprofiles/status], verbs: [patch]}
- {apiGroups: [ambit.dev], resources: [ratelimits/status], verbs: [patch]}
- {apiGroups: [gateway.networking.k8s.io], resources: [gateways, gatewayclasses, httproutes, grpcroutes, tlsroutes, tcproutes, referencegrants], verbs: [list, watch]}
- {apiGroups: [gateway.networking.x-k8s.io], resources: [xbackendtrafficpolicies], verbs: [list, watch]}
- {apiGroups: [gateway.networking.k8s.io], resources: [gatewayclasses], resourceNames: [ambit-waypoint, istio-waypoint], verbs: [create, patch]}
- {apiGroups: [gateway.networking.k8s.io], resources: [gatewayclasses/status, gateways/status], verbs: [patch]}
- {apiGroups: [apps], resources: [deployments], verbs: [get, list, watch, create, patch]}
- {apiGroups: [""], resources: [services, serviceaccounts], verbs: [get, list, watch, create, patch]}
- {apiGroups: [policy], resources: [poddisruptionbudgets], verbs: [get, list, watch, create, patch]}
- {apiGroups: [autoscaling], resources: [horizontalpodautoscalers], verbs: [get, list, watch, create, patch, delete]}
- {apiGroups: [""], resources: [configmaps], verbs: [get]}
- {apiGroups: [authentication.k8s.io], resources: [tokenreviews], verbs: [create]}
- {apiGroups: [""], resources: [configmaps], resourceNames: [istio-ca-root-cert], verbs: [get, list, watch, create, patch]}
- {apiGroups: [gateway.networking.x-k8s.io], resources: [xbackendtrafficpolicies/status], verbs: [patch]}
- {apiGroups: [""], resources: [services/status], verbs: [patch]}
- {apiGroups: [networking.istio.io], resources: [serviceentries/status, workloadentries/status], verbs: [patch]}
- {apiGroups: [security.istio.io], resources: [authorizationpolicies/status, peerauthentications/status, requestauthentications/status], verbs: [patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: istiod-lite-%[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: istiod-lite}
subjects: [{kind: ServiceAccount, name: istiod-lite, namespace: %[1]s}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: istiod-lite, namespace: %[1]s}
rules:
- {apiGroups: [""], resources: [secrets], verbs: [create]}
- {apiGroups: [""], resources: [secrets], resourceNames: [cacerts, istio-ca-secret], verbs: [get, list, watch]}
- {apiGroups: [""], resources: [configmaps], resourceNames: [istio], verbs: [list, watch]}
- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [create]}
- {apiGroups: [coordination.k8s.io], resources: [leases], resourceNames: [istiod-lite], verbs: [get, update, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: istiod-lite, namespace: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: istiod-lite}
subjects: [{kind: ServiceAccount, name: istiod-lite, namespace: %[1]s}]
`

// installation is a namespace in a real cluster, with the rights of the chart.
type installation struct {
	*kubetest.Server
	t         *testing.T
	client    kubernetes.Interface
	namespace string
	token     string // of the control plane
}

// install makes one. Each test has its own.
func install(t *testing.T) *installation {
	t.Helper()
	s := kubetest.Get(t)
	x := &installation{Server: s, t: t, client: s.Client(t), namespace: fmt.Sprintf("mesh-%x", time.Now().UnixNano())}
	kubetest.Namespace(t, x.client, x.namespace, nil)
	s.Apply(t, fmt.Sprintf(rights, x.namespace))
	x.token = kubetest.Token(t, x.client, x.namespace, "istiod-lite", "", nil)
	return x
}

// define makes a custom kind known. It stays for the tests after.
func (x *installation) define(names ...string) {
	x.t.Helper()
	for _, name := range names {
		x.Apply(x.t, kubetest.Definition(x.t, name))
		x.Kubectl(x.t, "", "wait", "--for=condition=Established", "crd/"+name)
	}
}

// replica runs a control plane.
func (x *installation) replica(name string) *plane {
	x.t.Helper()
	p := newPlane(x.t, nil)
	p.cfg = x.config(name)
	return p.start()
}

// config is that of a replica.
func (x *installation) config(name string) istiodlite.Config {
	return istiodlite.Config{
		Cluster: &istiodlite.Cluster{
			Kubeconfig: x.Kubeconfig(x.t, x.token), Namespace: x.namespace, Identity: name,
			Taint: "cni.istio.io/not-ready", Lease: 2 * time.Second, Waypoints: waypointSettings(x.t),
		},
		Listen: "127.0.0.1:0", StatusAddr: "127.0.0.1:0", Version: "test", DNSNames: []string{"istiod.istio-system.svc"},
	}
}

// ready waits until a replica says that it is.
func (p *plane) ready() {
	p.t.Helper()
	kubetest.Eventually(p.t, "ready", func() error {
		if code, body := p.get("/readyz"); code != 200 {
			return fmt.Errorf("%d %s", code, body)
		}
		return nil
	})
}

// root is what a namespace's ConfigMap says.
func (x *installation) root(namespace string) string {
	m, err := x.client.CoreV1().ConfigMaps(namespace).Get(x.t.Context(), "istio-ca-root-cert", metav1.GetOptions{})
	if err != nil {
		return ""
	}
	return m.Data["root-cert.pem"]
}

// waitRoot waits until a namespace has a root, other than the given ones.
func (x *installation) waitRoot(namespace string, not ...string) string {
	x.t.Helper()
	var root string
	kubetest.Eventually(x.t, "root of "+namespace, func() error {
		if root = x.root(namespace); root == "" || slices.Contains(not, root) {
			return fmt.Errorf("it is %q", root)
		}
		return nil
	})
	return root
}

// ztunnel is a node's proxy: a pod of the account, and its token.
func (x *installation) ztunnel(node string) (*corev1.Pod, string) {
	x.t.Helper()
	pod := kubetest.Pod(x.t, x.client, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: x.namespace, Name: "ztunnel-" + node, Labels: map[string]string{"app": "ztunnel"}},
		Spec:       corev1.PodSpec{ServiceAccountName: "ztunnel", NodeName: node},
		Status:     corev1.PodStatus{PodIP: "10.9.9.9"},
	})
	return pod, kubetest.Token(x.t, x.client, x.namespace, "ztunnel", "istio-ca", pod)
}

// app is a pod of the mesh.
func (x *installation) app(name, node, ip string) *corev1.Pod {
	x.t.Helper()
	return kubetest.Pod(x.t, x.client, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: x.namespace, Name: name, Labels: map[string]string{"app": name},
			Annotations: map[string]string{"ambient.istio.io/redirection": "enabled"},
		},
		Spec: corev1.PodSpec{ServiceAccountName: name, NodeName: node},
		Status: corev1.PodStatus{
			PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		},
	})
}

// The node id of a proxy in the harness names istio-system; that of this namespace
// would be refused.
func (x *installation) subscribe(p *plane, token, node string) *proxy {
	x.t.Helper()
	return p.subscribeIn(x.namespace, p.dialWith([]byte(x.waitRoot(x.namespace))), token, node)
}

func TestTwoReplicasServeOneRoot(t *testing.T) {
	x := install(t)
	one, two := x.replica("one"), x.replica("two")
	one.ready()
	two.ready()
	root := x.waitRoot(x.namespace)
	secret, err := x.client.CoreV1().Secrets(x.namespace).Get(t.Context(), "istio-ca-secret", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := string(secret.Data["ca-cert.pem"]); got != root || len(secret.Data["ca-key.pem"]) == 0 {
		t.Errorf("the Secret holds\n%s\nthe namespace trusts\n%s", got, root)
	}
	x.app("web", "node-1", "10.0.0.1")
	_, token := x.ztunnel("node-1")
	for _, p := range []*plane{one, two} {
		chain, err := p.request(p.dialWith([]byte(root)), token, x.namespace, "web")
		if err != nil {
			t.Fatal(err)
		}
		if chain[len(chain)-1] != root {
			t.Errorf("the root of a certificate is\n%s\nwant\n%s", chain[len(chain)-1], root)
		}
		held := x.subscribe(p, token, "node-1")
		held.wait("the pod", func(held map[string]*discoveryv3.Resource) bool {
			return held["Kubernetes//Pod/"+x.namespace+"/web"] != nil
		})
	}

	// A new namespace gets it at once; one that was edited gets it back.
	other := x.namespace + "-new"
	kubetest.Namespace(t, x.client, other, nil)
	if got := x.waitRoot(other); got != root {
		t.Errorf("a new namespace trusts\n%s", got)
	}
	x.Kubectl(t, "", "-n", other, "patch", "configmap", "istio-ca-root-cert", "--type=merge", "-p", `{"data":{"root-cert.pem":"rubbish"}}`)
	x.waitRoot(other, "rubbish")
	x.Kubectl(t, "", "-n", other, "delete", "configmap", "istio-ca-root-cert")
	x.waitRoot(other)
}

func TestWhoGetsWhat(t *testing.T) {
	x := install(t)
	p := x.replica("one")
	p.ready()
	root := []byte(x.waitRoot(x.namespace))
	x.app("web", "node-1", "10.0.1.1")
	x.app("far", "node-2", "10.0.1.2")
	zt, token := x.ztunnel("node-1")
	ended := x.app("ended", "node-1", "10.0.1.3")
	ended.Status.Phase = corev1.PodSucceeded
	if _, err := x.client.CoreV1().Pods(x.namespace).UpdateStatus(t.Context(), ended, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	web, err := x.client.CoreV1().Pods(x.namespace).Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cc := p.dialWith(root)
	tests := []struct {
		name, token, account string
		want                 codes.Code
	}{
		{"a pod of the node", token, "web", codes.OK},
		{"a pod of another node", token, "far", codes.PermissionDenied},
		{"a pod that has ended", token, "ended", codes.PermissionDenied},
		{"an account without pods", token, "nobody", codes.PermissionDenied},
		{"no token of a cluster", "rubbish", "web", codes.Unauthenticated},
		{"a token for another audience", kubetest.Token(t, x.client, x.namespace, "ztunnel", "", zt), "web", codes.Unauthenticated},
		{"a token that is bound to no pod", kubetest.Token(t, x.client, x.namespace, "ztunnel", "istio-ca", nil), "web", codes.Unauthenticated},
		{"an account that speaks for no node", kubetest.Token(t, x.client, x.namespace, "web", "istio-ca", web), "far", codes.PermissionDenied},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := p.request(cc, tt.token, x.namespace, tt.account); status.Code(err) != tt.want {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
	t.Run("an ordinary pod may not see the mesh", func(t *testing.T) {
		s := p.subscribeIn(x.namespace, cc, kubetest.Token(t, x.client, x.namespace, "web", "istio-ca", web), "node-1")
		if err := s.next(); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "is of no Gateway") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("nor by a label of a Gateway", func(t *testing.T) {
		x.Kubectl(t, "", "-n", x.namespace, "label", "pod", "web", "gateway.networking.k8s.io/gateway-name=wp")
		kubetest.Eventually(t, "the label is heard of", func() error {
			err := p.subscribeIn(x.namespace, cc, kubetest.Token(t, x.client, x.namespace, "web", "istio-ca", web), "node-1").next()
			if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "Gateway wp, which is not there") {
				return fmt.Errorf("got %w", err)
			}
			return nil
		})
	})
	t.Run("a proxy may not speak for another node", func(t *testing.T) {
		s := p.subscribeIn(x.namespace, cc, token, "node-2")
		if err := s.next(); status.Code(err) != codes.PermissionDenied {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a pod that is younger than what was heard", func(t *testing.T) {
		x.app("young", "node-1", "10.0.1.9")
		if _, err := p.request(cc, token, x.namespace, "young"); err != nil {
			t.Error(err)
		}
	})
	t.Run("a token of a pod that is deleted", func(t *testing.T) {
		if err := x.client.CoreV1().Pods(x.namespace).Delete(t.Context(), zt.Name, *metav1.NewDeleteOptions(0)); err != nil {
			t.Fatal(err)
		}
		kubetest.Eventually(t, "refused", func() error {
			if _, err := p.request(cc, token, x.namespace, "web"); status.Code(err) != codes.Unauthenticated {
				return fmt.Errorf("got %v", err)
			}
			return nil
		})
	})
}

func TestStatusAndAddressesAreWritten(t *testing.T) {
	x := install(t)
	x.define("authorizationpolicies.security.istio.io", "serviceentries.networking.istio.io", "gateways.gateway.networking.k8s.io")
	p := x.replica("one")
	p.ready()
	x.Apply(t, strings.ReplaceAll(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: good, namespace: OURS}
spec: {rules: [{from: [{source: {namespaces: [shop]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: audit, namespace: OURS}
spec: {action: AUDIT, rules: [{}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside, namespace: OURS}
spec: {hosts: [api.example.com, www.example.com], ports: [{number: 443, name: tls, protocol: TLS}], resolution: DNS}
---
apiVersion: v1
kind: Service
metadata: {name: bound, namespace: OURS, labels: {istio.io/use-waypoint: nowhere}}
spec: {ports: [{port: 80}]}
`, "OURS", x.namespace))
	get := func(what, path string) string {
		return x.Kubectl(t, "", "-n", x.namespace, "get", what, "-o", "jsonpath="+path)
	}
	expect := func(what, path, want string) {
		t.Helper()
		kubetest.Eventually(t, what, func() error {
			if got := get(what, path); !strings.Contains(got, want) {
				return fmt.Errorf("%s is %q, want %q", path, got, want)
			}
			return nil
		})
	}
	const conditions = `{range .status.conditions[*]}{.type}={.status} {.reason} {.observedGeneration};{end}`
	expect("authorizationpolicy/good", conditions, "ZtunnelAccepted=True Accepted 1;")
	expect("authorizationpolicy/audit", conditions, "ZtunnelAccepted=False UnsupportedValue 1;")
	expect("service/bound", conditions, "istio.io/WaypointBound=False WaypointIsNotReady")
	expect("serviceentry/outside", `{range .status.addresses[*]}{.host}={.value};{end}`, "api.example.com=240.240.")
	expect("serviceentry/outside", `{range .status.addresses[*]}{.host}={.value};{end}`, "www.example.com=2001:2::")

	// They are what proxies get.
	_, token := x.ztunnel("node-1")
	held := x.subscribe(p, token, "node-1")
	held.wait("the host", func(held map[string]*discoveryv3.Resource) bool {
		r := held[x.namespace+"/api.example.com"]
		return r != nil && len(r.Aliases) == 2 && strings.HasPrefix(r.Aliases[0], "/240.240.")
	})

	// Without a label nothing is said; with another generation it is said anew.
	x.Kubectl(t, "", "-n", x.namespace, "label", "service", "bound", "istio.io/use-waypoint-")
	kubetest.Eventually(t, "the condition goes", func() error {
		if got := get("service/bound", conditions); got != "" {
			return fmt.Errorf("it is %q", got)
		}
		return nil
	})
	x.Kubectl(t, "", "-n", x.namespace, "patch", "authorizationpolicy", "good", "--type=merge", "-p", `{"spec":{"action":"DENY"}}`)
	expect("authorizationpolicy/good", conditions, "ZtunnelAccepted=True Accepted 2;")

	// Nothing is written when nothing differs.
	version := get("authorizationpolicy/good", "{.metadata.resourceVersion}")
	x.Kubectl(t, "", "-n", x.namespace, "annotate", "serviceentry", "outside", "seen=1") // an event that passes by the writer
	expect("serviceentry/outside", "{.metadata.annotations.seen}", "1")
	if now := get("authorizationpolicy/good", "{.metadata.resourceVersion}"); now != version {
		t.Errorf("the policy was written again: version %s, was %s", now, version)
	}
}

func TestTaintGoesWhenTheAgentIsReady(t *testing.T) {
	x := install(t)
	node := "node-" + x.namespace
	_, err := x.client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}, Spec: corev1.NodeSpec{Taints: []corev1.Taint{
		{Key: "cni.istio.io/not-ready", Effect: corev1.TaintEffectNoSchedule}, {Key: "other", Effect: corev1.TaintEffectNoSchedule},
	}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	x.replica("one").ready()
	taints := func() string {
		return x.Kubectl(t, "", "get", "node", node, "-o", "jsonpath={.spec.taints[*].key}")
	}
	agent := kubetest.Pod(t, x.client, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: x.namespace, Name: "agent", Labels: map[string]string{"k8s-app": "ambit-cni-node"}},
		Spec:       corev1.PodSpec{NodeName: node},
	})
	if got := taints(); !strings.Contains(got, "cni.istio.io/not-ready") {
		t.Errorf("before the agent is Ready the taints are %q", got)
	}
	agent.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	if _, err := x.client.CoreV1().Pods(x.namespace).UpdateStatus(t.Context(), agent, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, "the taint goes, the other stays", func() error {
		if got := taints(); strings.Contains(got, "not-ready") && strings.Contains(got, "cni.istio.io") || !strings.Contains(got, "other") {
			return fmt.Errorf("taints are %q", got)
		}
		return nil
	})
}

// The other replica writes when the leader is gone, and both go on serving.
func TestAnotherReplicaLeads(t *testing.T) {
	x := install(t)
	one, two := x.replica("one"), x.replica("two")
	one.ready()
	two.ready()
	var leader, other *plane
	kubetest.Eventually(t, "one of them leads", func() error {
		_, first := one.get("/status?format=text")
		_, second := two.get("/status?format=text")
		switch leads := "leading: true"; {
		case strings.Contains(first, leads) && strings.Contains(second, leads):
			return fmt.Errorf("both")
		case strings.Contains(first, leads):
			leader, other = one, two
		case strings.Contains(second, leads):
			leader, other = two, one
		default:
			return fmt.Errorf("none")
		}
		return nil
	})
	if err := leader.stop(); err != nil {
		t.Error(err)
	}
	namespace := x.namespace + "-after"
	kubetest.Namespace(t, x.client, namespace, nil)
	x.waitRoot(namespace)
	other.waitStatus("leading: true")
}
