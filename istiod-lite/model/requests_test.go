package model_test

import (
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/internal/meshapi/securityapi"
	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// shopWithWaypoint is a namespace that is bound to a waypoint, with one service of
// two pods.
const shopWithWaypoint = `
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/use-waypoint: waypoint}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: shop}
spec: {gatewayClassName: ambit-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: v1
kind: Service
metadata: {name: waypoint, namespace: shop}
spec: {clusterIP: 10.96.0.9, ports: [{name: mesh, port: 15008}]}
---
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: orders}, ports: [{name: http, port: 80, targetPort: web}, {name: grpc, port: 81, targetPort: 9090}]}
---
apiVersion: v1
kind: Service
metadata: {name: other, namespace: shop, labels: {istio.io/use-waypoint: none}}
spec: {clusterIP: 10.96.0.2, selector: {app: other}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: orders-1, namespace: shop, labels: {app: orders, version: v1}}
spec: {serviceAccountName: orders, containers: [{name: c, ports: [{name: web, containerPort: 8080}]}]}
status: {podIP: 10.0.0.1, phase: Running}
---
`

// applied is a model of manifests.
func applied(t *testing.T, manifests ...string) *model.Model {
	t.Helper()
	m := model.New(model.Config{})
	m.Apply(mustEvents(t, strings.Join(manifests, "\n---\n"))...)
	return m
}

// resource finds a resource's content, or nil.
func resource[M any](t *testing.T, m *model.Model, kind model.Type, name string) M {
	t.Helper()
	var none M
	for _, r := range m.Resources() {
		if r.Type == kind && r.Name == name {
			message, err := r.Message()
			if err != nil {
				t.Fatal(err)
			}
			return message.(M)
		}
	}
	return none
}

// Who is bound to a waypoint is told so, with its routes, in the order of age; the
// waypoint itself is bound to nothing.
func TestWaypointServices(t *testing.T) {
	route := func(name, age, ns, parent, rules string) string {
		return "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: " + name + ", namespace: " + ns + ", creationTimestamp: " + age + "}\nspec: {parentRefs: [" + parent + "], rules: " + rules + "}"
	}
	const parent = "{group: '', kind: Service, name: orders, namespace: shop, port: 80}"
	m := applied(t, shopWithWaypoint,
		route("young", "2026-02-01T00:00:00Z", "shop", parent, "[{backendRefs: [{name: orders, port: 80}]}]"),
		route("old", "2026-01-01T00:00:00Z", "shop", parent, "[{backendRefs: [{name: gone, port: 80}, {name: other, port: 80, weight: 9}]}]"),
		route("of-a-client", "2026-01-01T00:00:00Z", "clients", parent, "[{}]"),
	)
	svc := resource[*waypointapi.Service](t, m, model.TypeWaypointService, "shop/orders.shop.svc.cluster.local")
	if svc == nil || svc.Waypoint.GetName() != "waypoint" || len(svc.Ports) != 2 || len(svc.Tables) != 2 {
		t.Fatalf("orders: %v", svc)
	}
	own, theirs := svc.Tables[0], svc.Tables[1]
	if len(own.Ports) != 1 || own.Ports[0] != 80 || own.InOrder || len(own.Routes) != 2 || !strings.Contains(own.Routes[0].Name, "shop/old") {
		t.Errorf("table of the service's namespace: %v", own)
	}
	backends := own.Routes[0].Backends
	if len(backends) != 2 || backends[0].Broken == "" || backends[1].Service != "shop/other.shop.svc.cluster.local" || backends[1].Weight != 9 {
		t.Errorf("backends: %v", backends)
	}
	if theirs.ClientNamespace != "clients" || len(theirs.Routes) != 1 {
		t.Errorf("table of a client's namespace: %v", theirs)
	}
	for _, name := range []string{"shop/waypoint.shop.svc.cluster.local", "shop/other.shop.svc.cluster.local"} {
		if s := resource[*waypointapi.Service](t, m, model.TypeWaypointService, name); s.GetWaypoint() != nil {
			t.Errorf("%s is bound: %v", name, s)
		}
	}
	_, conditions := m.Look(model.Key{Kind: model.KindHTTPRoute, Namespace: "shop", Name: "old"})
	if text := conditions[1].String(); !strings.Contains(text, "ResolvedRefs=False BackendNotFound") || !strings.Contains(text, "shop/gone") {
		t.Errorf("condition of a route with a backend that is not there: %v", conditions)
	}
	// The service comes, and the route is mended.
	m.Apply(mustEvents(t, "apiVersion: v1\nkind: Service\nmetadata: {name: gone, namespace: shop}\nspec: {clusterIP: 10.96.0.3, ports: [{name: http, port: 80}]}")...)
	svc = resource[*waypointapi.Service](t, m, model.TypeWaypointService, "shop/orders.shop.svc.cluster.local")
	if b := svc.Tables[0].Routes[0].Backends[0]; b.Broken != "" || b.Service != "shop/gone.shop.svc.cluster.local" {
		t.Errorf("after the service came: %v", b)
	}
}

// The endpoints of a bound service let in only its waypoint, on the ports that the
// service leads to.
func TestOnlyThroughTheWaypoint(t *testing.T) {
	const policy = "shop/ambit_through_waypoint_orders"
	tests := []struct {
		name, more string
		want       bool
	}{
		{"bound by its namespace", "", true},
		{"opted out, the service", "apiVersion: v1\nkind: Service\nmetadata: {name: orders, namespace: shop, labels: {ambit.dev/only-through-waypoint: 'false'}}\nspec: {clusterIP: 10.96.0.1, selector: {app: orders}, ports: [{name: http, port: 80, targetPort: web}]}", false},
		{"opted out, the namespace", "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {istio.io/use-waypoint: waypoint, ambit.dev/only-through-waypoint: 'false'}}", false},
		{"not bound", "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}", false},
		{"headless: there is no way through it", "apiVersion: v1\nkind: Service\nmetadata: {name: orders, namespace: shop}\nspec: {clusterIP: None, selector: {app: orders}, ports: [{name: http, port: 80, targetPort: web}]}", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := applied(t, shopWithWaypoint)
			if tt.more != "" {
				m.Apply(mustEvents(t, tt.more)...)
			}
			a := resource[*securityapi.Authorization](t, m, model.TypeAuthorization, policy)
			if (a != nil) != tt.want {
				t.Fatalf("policy: %v", a)
			}
			w := mustWorkload(t, m, "shop/orders-1")
			named := strings.Contains(strings.Join(w.AuthorizationPolicies, " "), policy)
			if named != tt.want {
				t.Errorf("the pod names %v", w.AuthorizationPolicies)
			}
			if !tt.want {
				return
			}
			clauses := a.Rules[0].Clauses
			principal, ports := clauses[0].Matches[0].NotPrincipals[0].GetExact(), clauses[1].Matches[0].DestinationPorts
			if a.Action != securityapi.Action_DENY || principal != "cluster.local/ns/shop/sa/waypoint" || len(ports) != 2 || ports[0] != 8080 || ports[1] != 9090 {
				t.Errorf("policy: %v", a)
			}
		})
	}
}

// Behind a waypoint a node proxy sees the waypoint: policies say nothing against
// it, because it asks the same ones about the client.
func TestPoliciesLetWaypointsPass(t *testing.T) {
	m := applied(t, shopWithWaypoint, `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow, namespace: shop}
spec: {selector: {matchLabels: {app: orders}}, rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}], to: [{operation: {paths: [/api/*/x, "/y*"], methods: [GET]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny, namespace: shop}
spec: {action: DENY, rules: [{from: [{source: {notNamespaces: [shop]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: elsewhere, namespace: quiet}
spec: {rules: [{from: [{source: {namespaces: [shop]}}]}]}`)
	const waypoint = "cluster.local/ns/shop/sa/waypoint"
	allow := resource[*securityapi.Authorization](t, m, model.TypeAuthorization, "shop/allow")
	if n := len(allow.Rules); n != 1 || allow.Rules[0].Clauses[0].Matches[0].Principals[0].GetExact() != waypoint {
		t.Errorf("below, ALLOW: %v", allow)
	}
	deny := resource[*securityapi.Authorization](t, m, model.TypeAuthorization, "shop/deny")
	if c := deny.Rules[0].Clauses; len(c) != 2 || c[1].Matches[0].NotPrincipals[0].GetExact() != waypoint {
		t.Errorf("below, DENY: %v", deny)
	}
	if other := resource[*securityapi.Authorization](t, m, model.TypeAuthorization, "quiet/elsewhere"); len(other.Rules) != 1 {
		t.Errorf("of a namespace without waypoints: %v", other)
	}
	whole := resource[*waypointapi.Authorization](t, m, model.TypeWaypointAuthorization, "shop/allow")
	paths := whole.Rules[0].Clauses[0].Matches[0].Request.Paths
	if len(paths) != 2 || strings.Join(paths[0].GetSegments().GetSegments(), " ") != "api * x" || paths[1].GetText().GetPrefix() != "/y" {
		t.Errorf("at the waypoint: %v", whole)
	}
	e := resource[*waypointapi.Endpoint](t, m, model.TypeWaypointEndpoint, "Kubernetes//Pod/shop/orders-1")
	if e == nil || e.Labels["version"] != "v1" || strings.Join(e.Policies, " ") != "shop/allow" {
		t.Errorf("endpoint: %v", e)
	}
	_, conditions := m.Look(model.Key{Kind: model.KindAuthorizationPolicy, Namespace: "shop", Name: "allow"})
	if text := conditions[0].String(); !strings.Contains(text, "is enforced by "+waypoint) {
		t.Errorf("condition: %s", text)
	}
}

// A policy that is attached by name counts where it is attached, and says so.
func TestAttachedPolicies(t *testing.T) {
	policy := func(name, ns, ref string) string {
		return "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: " + name + ", namespace: " + ns + "}\nspec: {targetRefs: [" + ref + "], rules: [{to: [{operation: {methods: [GET]}}]}]}"
	}
	m := applied(t, shopWithWaypoint,
		policy("to-service", "shop", "{group: '', kind: Service, name: orders}"),
		policy("to-gateway", "shop", "{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}"),
		policy("to-class", "istio-system", "{group: gateway.networking.k8s.io, kind: GatewayClass, name: ambit-waypoint}"),
		policy("to-unbound", "shop", "{group: '', kind: Service, name: other}"),
		policy("to-nothing", "shop", "{group: apps, kind: Deployment, name: orders}"),
	)
	svc := resource[*waypointapi.Service](t, m, model.TypeWaypointService, "shop/orders.shop.svc.cluster.local")
	if got := strings.Join(svc.Policies, " "); got != "istio-system/to-class shop/to-gateway shop/to-service" {
		t.Errorf("policies of the service: %s", got)
	}
	for name, want := range map[string]string{"to-service": "True Accepted", "to-gateway": "True Accepted", "to-unbound": "False AncestorNotBound", "to-nothing": "False TargetNotFound"} {
		_, conditions := m.Look(model.Key{Kind: model.KindAuthorizationPolicy, Namespace: "shop", Name: name})
		if len(conditions) != 1 || !strings.Contains(conditions[0].String(), "WaypointAccepted="+want) {
			t.Errorf("%s: %v, want %s", name, conditions, want)
		}
		if a := resource[*securityapi.Authorization](t, m, model.TypeAuthorization, "shop/"+name); a != nil {
			t.Errorf("%s is sent to node proxies", name)
		}
	}
}
