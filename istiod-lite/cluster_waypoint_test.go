package istiodlite_test

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/e2e/kubetest"
	istiodlite "github.com/ambit-mesh/ambit/istiod-lite"
	"github.com/ambit-mesh/ambit/istiod-lite/gateways"
)

// waypointSettings are those of an installation.
func waypointSettings(t testing.TB) gateways.Settings {
	t.Helper()
	s, err := istiodlite.ParseWaypoints(`{"image": "example.com/waypoint:v1"}`)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// gatewayOf asks for a waypoint.
const gatewayOf = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: NAME, namespace: OURS, annotations: {ANNOTATIONS}}
spec: {gatewayClassName: ambit-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
`

// waypoints is a cluster whose control plane makes them.
type waypoints struct {
	*installation
	plane *plane
}

func newWaypoints(t *testing.T) waypoints {
	t.Helper()
	x := install(t)
	x.define("gatewayclasses.gateway.networking.k8s.io", "gateways.gateway.networking.k8s.io")
	p := x.replica("one")
	p.ready()
	return waypoints{x, p}
}

// ask makes a Gateway.
func (w waypoints) ask(name, annotations string) {
	w.t.Helper()
	w.Apply(w.t, strings.NewReplacer("NAME", name, "OURS", w.namespace, "ANNOTATIONS", annotations).Replace(gatewayOf))
}

// get reads a part of an object.
func (w waypoints) get(what, path string) string {
	w.t.Helper()
	return w.Kubectl(w.t, "", "-n", w.namespace, "get", "--ignore-not-found", what, "-o", "jsonpath="+path)
}

// expect waits until a part of an object holds a text.
func (w waypoints) expect(what, path, want string) {
	w.t.Helper()
	kubetest.Eventually(w.t, what, func() error {
		if got := w.get(what, path); !strings.Contains(got, want) {
			return fmt.Errorf("%s of %s is %q, want %q", path, what, got, want)
		}
		return nil
	})
}

const gatewayConditions = `{range .status.conditions[*]}{.type}={.status} {.reason} {.observedGeneration};{end}`

func TestGatewayBecomesAWaypoint(t *testing.T) {
	w := newWaypoints(t)
	const accepted = `{.spec.controllerName} {.status.conditions[?(@.type=="Accepted")].status}`
	w.expect("gatewayclass/ambit-waypoint", accepted, "ambit.dev/waypoint-controller True")
	w.expect("gatewayclass/istio-waypoint", accepted, "ambit.dev/waypoint-controller True")

	w.ask("wp", "")
	uid := w.get("gateway/wp", "{.metadata.uid}")
	for _, what := range []string{"deployment/wp", "service/wp", "serviceaccount/wp", "horizontalpodautoscaler/wp", "poddisruptionbudget/wp"} {
		w.expect(what, "{.metadata.ownerReferences[0].uid}", uid)
	}
	w.expect("deployment/wp", "{.spec.replicas}", "2")
	w.expect("deployment/wp", "{.spec.template.spec.containers[0].image}", "example.com/waypoint:v1")
	w.expect("gateway/wp", gatewayConditions, "Accepted=True Accepted 1;Programmed=False Pending 1;")

	// An instance runs: the Gateway has an address, and its listener too.
	kubetest.Pod(t, w.client, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "wp-1", Labels: map[string]string{"gateway.networking.k8s.io/gateway-name": "wp"}},
		Spec:       corev1.PodSpec{ServiceAccountName: "wp", NodeName: "node-1"},
		Status:     corev1.PodStatus{PodIP: "10.9.9.8", Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
	})
	w.expect("gateway/wp", gatewayConditions, "Programmed=True Programmed 1;")
	w.expect("gateway/wp", "{.status.addresses[*].value}", "wp."+w.namespace+".svc.cluster.local")
	w.expect("gateway/wp", `{.status.listeners[0].name} {.status.listeners[0].attachedRoutes} {.status.listeners[0].conditions[?(@.type=="Programmed")].status}`, "mesh 0 True")

	// What somebody changes is put right, what somebody removes comes back.
	w.Kubectl(t, "", "-n", w.namespace, "patch", "deployment", "wp", "--type=json", "-p", `[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"other"}]`)
	w.expect("deployment/wp", "{.spec.template.spec.containers[0].image}", "example.com/waypoint:v1")
	w.Kubectl(t, "", "-n", w.namespace, "delete", "poddisruptionbudget", "wp")
	w.expect("poddisruptionbudget/wp", "{.metadata.name}", "wp")

	// How many instances there are is the autoscaler's to say, but not fewer than asked.
	w.Kubectl(t, "", "-n", w.namespace, "scale", "deployment", "wp", "--replicas=5")
	w.ask("wp", `ambit.dev/waypoint-replicas: "3"`)
	w.expect("horizontalpodautoscaler/wp", "{.spec.minReplicas}", "3")
	w.expect("deployment/wp", "{.spec.replicas}", "5")
	// Unless it is to be a fixed number.
	w.ask("wp", `ambit.dev/waypoint-replicas: "3", ambit.dev/waypoint-max-replicas: "3"`)
	w.expect("deployment/wp", "{.spec.replicas}", "3")
	kubetest.Eventually(t, "the autoscaler goes", func() error {
		if got := w.get("horizontalpodautoscaler/wp", "{.metadata.name}"); got != "" {
			return fmt.Errorf("it is there: %s", got)
		}
		return nil
	})
	w.ask("wp", `ambit.dev/waypoint-replicas: "2"`)
	w.expect("horizontalpodautoscaler/wp", "{.spec.minReplicas}", "2")
	if got := w.get("deployment/wp", "{.spec.replicas}"); got != "3" {
		t.Errorf("when the autoscaler takes over there are %s instances, want the 3 that there were", got)
	}
}

func TestGatewaysThatCannotBecomeWaypoints(t *testing.T) {
	w := newWaypoints(t)
	w.Kubectl(t, "", "-n", w.namespace, "create", "deployment", "taken", "--image=other")
	const why = `{range .status.conditions[*]}{.type}={.status} {.reason} {.message};{end}`
	w.ask("taken", "")
	w.expect("gateway/taken", why, "Programmed=False Invalid Deployment "+w.namespace+"/taken is there and does not belong to this Gateway")
	if got := w.get("deployment/taken", "{.spec.template.spec.containers[0].image}"); got != "other" {
		t.Errorf("somebody else's Deployment runs %s now", got)
	}
	w.ask("bad", `ambit.dev/waypoint-replicas: many`)
	w.expect("gateway/bad", why, "Accepted=False InvalidParameters annotation ambit.dev/waypoint-replicas")
	w.ask("bad", `ambit.dev/waypoint-replicas: "1"`)
	w.expect("deployment/bad", "{.spec.replicas}", "1")

	w.Apply(t, strings.NewReplacer("OURS", w.namespace).Replace(`
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: plain, namespace: OURS}
spec: {gatewayClassName: ambit-waypoint, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: laid, namespace: OURS}
spec:
  gatewayClassName: ambit-waypoint
  infrastructure: {parametersRef: {group: "", kind: ConfigMap, name: parameters}}
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: theirs}
spec: {controllerName: example.com/other}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: theirs, namespace: OURS}
spec: {gatewayClassName: theirs, listeners: [{name: http, port: 80, protocol: HTTP}]}
`))
	w.expect("gateway/plain", why, "Accepted=False ListenersNotValid")
	w.expect("gateway/laid", why, "Accepted=False InvalidParameters parametersRef: there is no ConfigMap "+w.namespace+"/parameters")
	w.Kubectl(t, "", "-n", w.namespace, "create", "configmap", "parameters", "--from-literal=deployment=spec: {template: {spec: {priorityClassName: high}}}")
	w.expect("deployment/laid", "{.spec.template.spec.priorityClassName}", "high")

	if got := w.get("deployment/theirs", "{.metadata.name}") + w.get("deployment/plain", "{.metadata.name}"); got != "" {
		t.Errorf("made for Gateways of others, or without a listener for tunnels: %s", got)
	}
	if got := w.get("gateway/theirs", `{.status.conditions[?(@.type=="Accepted")].status}`); got == "True" || got == "False" {
		t.Errorf("Accepted=%s was written into a Gateway of somebody else's class", got)
	}
}

// A ServiceProfile is read, and answered in its status, by our definition of it.
func TestServiceProfileIsAnswered(t *testing.T) {
	w := newWaypoints(t)
	w.define("serviceprofiles.linkerd.io")
	w.ask("wp", "")
	w.Apply(t, strings.ReplaceAll(`
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: OURS, labels: {istio.io/use-waypoint: wp}}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: linkerd.io/v1alpha2
kind: ServiceProfile
metadata: {name: orders.OURS.svc.cluster.local, namespace: OURS}
spec: {routes: [{name: r, condition: {method: GET, pathRegex: /x}, isRetryable: true, timeout: 2s}]}
`, "OURS", w.namespace))
	profile := "serviceprofile/orders." + w.namespace + ".svc.cluster.local"
	w.expect(profile, gatewayConditions, "WaypointAccepted=True Accepted 1;")
	w.Kubectl(t, "", "-n", w.namespace, "patch", profile, "--type=merge", "-p", `{"spec":{"opaquePorts":["25"]}}`)
	w.expect(profile, gatewayConditions, "WaypointAccepted=False PartiallyInvalid 2;")
	w.Kubectl(t, "", "-n", w.namespace, "delete", "service", "orders")
	w.expect(profile, gatewayConditions, "WaypointAccepted=False AncestorNotBound")
}

// A backend policy is answered at each of its targets; of two the older one counts.
func TestBackendPolicyIsAnswered(t *testing.T) {
	w := newWaypoints(t)
	w.define("xbackendtrafficpolicies.gateway.networking.x-k8s.io")
	w.ask("wp", "")
	policy := func(name string) string {
		return strings.NewReplacer("OURS", w.namespace, "NAME", name).Replace(`
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: {name: NAME, namespace: OURS}
spec: {targetRefs: [{group: "", kind: Service, name: orders}], retryConstraint: {budget: {percent: 10}}}
`)
	}
	w.Apply(t, strings.ReplaceAll(`
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: OURS, labels: {istio.io/use-waypoint: wp}}
spec: {ports: [{name: http, port: 80}]}
`, "OURS", w.namespace)+"---"+policy("b"))
	const ancestors = `{range .status.ancestors[*]}{.controllerName} {.ancestorRef.kind}/{.ancestorRef.name} {range .conditions[*]}{.type}={.status} {.reason} {.observedGeneration};{end}{end}`
	w.expect("xbackendtrafficpolicy/b", ancestors, "ambit.dev/mesh-controller Service/orders Accepted=True Accepted 1;")
	w.Apply(t, policy("c")) // not older, and its name comes later
	w.expect("xbackendtrafficpolicy/c", ancestors, "Service/orders Accepted=False Conflicted 1;")
	w.Kubectl(t, "", "-n", w.namespace, "delete", "xbackendtrafficpolicy", "b")
	w.expect("xbackendtrafficpolicy/c", ancestors, "Service/orders Accepted=True Accepted 1;")
	w.Kubectl(t, "", "-n", w.namespace, "delete", "service", "orders")
	w.expect("xbackendtrafficpolicy/c", ancestors, "Accepted=False TargetNotFound")
}
