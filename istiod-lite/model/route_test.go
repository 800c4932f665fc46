package model_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// routeText is a route of one rule with one backend.
func routeText(kind, ns, name, age, parent, backend string) string {
	hostnames := ""
	if kind == "TLSRoute" {
		hostnames = "hostnames: [orders.example], "
	}
	return fmt.Sprintf("apiVersion: gateway.networking.k8s.io/v1\nkind: %s\nmetadata: {name: %s, namespace: %s, creationTimestamp: 2026-01-%sT00:00:00Z}\nspec: {%sparentRefs: [%s], rules: [{backendRefs: [%s]}]}",
		kind, name, ns, age, hostnames, parent, backend)
}

// said is what is said about a route, one condition a line.
func said(m *model.Model, kind model.Kind, ns, name string) string {
	_, conditions := m.Look(model.Key{Kind: kind, Namespace: ns, Name: name})
	var lines []string
	for _, c := range conditions {
		lines = append(lines, c.String())
	}
	return strings.Join(lines, "\n")
}

const (
	toOrders = "{group: '', kind: Service, name: orders, namespace: shop}"
	orders80 = "{name: orders, namespace: shop, port: 80}"
)

// Of several kinds on one port the most special counts, and both statuses say it.
func TestRoutesOfSeveralKinds(t *testing.T) {
	m := applied(t, shopWithWaypoint,
		routeText("TCPRoute", "shop", "tcp", "01", toOrders, orders80),
		routeText("TCPRoute", "shop", "tcp-young", "02", toOrders, orders80),
		routeText("HTTPRoute", "shop", "http", "03", "{group: '', kind: Service, name: orders, port: 80}", orders80),
	)
	svc := resource[*waypointapi.Service](t, m, model.TypeWaypointService, "shop/orders.shop.svc.cluster.local")
	if len(svc.Tables) != 1 || fmt.Sprint(svc.Tables[0].Ports) != "[80]" || len(svc.Streams) != 1 || fmt.Sprint(svc.Streams[0].Ports) != "[81]" || len(svc.Streams[0].Routes) != 1 {
		t.Fatalf("tables %v, streams %v", svc.Tables, svc.Streams)
	}
	for _, tt := range []struct {
		kind       model.Kind
		name, want string
	}{
		{model.KindHTTPRoute, "http", "Accepted=True Accepted: on port 80 it comes before TCPRoute shop/tcp"},
		{model.KindTCPRoute, "tcp", "Accepted=True Accepted: on port 80 HTTPRoute shop/http comes first; on port 81 it comes before TCPRoute shop/tcp-young"},
		{model.KindTCPRoute, "tcp-young", "Accepted=False Conflicted: on port 80 HTTPRoute shop/http comes first; on port 81 TCPRoute shop/tcp comes first"},
	} {
		if got := said(m, tt.kind, "shop", tt.name); !strings.HasPrefix(got, "parentRefs[0]: "+tt.want) {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
	// A GRPCRoute comes and takes both ports.
	m.Apply(mustEvents(t, routeText("GRPCRoute", "shop", "grpc", "09", toOrders, orders80))...)
	svc = resource[*waypointapi.Service](t, m, model.TypeWaypointService, "shop/orders.shop.svc.cluster.local")
	if len(svc.Tables) != 1 || len(svc.Tables[0].Ports) != 0 || len(svc.Streams) != 0 {
		t.Errorf("with a GRPCRoute: tables %v, streams %v", svc.Tables, svc.Streams)
	}
	if got := said(m, model.KindHTTPRoute, "shop", "http"); !strings.Contains(got, "Accepted=False Conflicted: on port 80 GRPCRoute shop/grpc comes first") {
		t.Errorf("the HTTPRoute beside a GRPCRoute: %s", got)
	}
}

// Routes for all ports and for one are merged on that one.
func TestRoutesOfOneAndOfAllPorts(t *testing.T) {
	m := applied(t, shopWithWaypoint,
		routeText("HTTPRoute", "shop", "all", "01", toOrders, orders80),
		routeText("HTTPRoute", "shop", "one", "02", "{group: '', kind: Service, name: orders, sectionName: grpc}", orders80),
		routeText("HTTPRoute", "shop", "none", "02", "{group: '', kind: Service, name: orders, sectionName: grpc, port: 80}", orders80),
	)
	svc := resource[*waypointapi.Service](t, m, model.TypeWaypointService, "shop/orders.shop.svc.cluster.local")
	if len(svc.Tables) != 2 || len(svc.Tables[0].Routes) != 1 || len(svc.Tables[1].Routes) != 2 || svc.Tables[1].Ports[0] != 81 {
		t.Errorf("tables: %v", svc.Tables)
	}
	if got := said(m, model.KindHTTPRoute, "shop", "none"); !strings.Contains(got, "Accepted=False NoMatchingParent") {
		t.Errorf("a port that is not there: %s", got)
	}
}

// A route of a client's namespace leads to the parent's without being asked; into a
// third namespace only with a grant of it.
func TestRoutesAcrossNamespaces(t *testing.T) {
	const bank = "apiVersion: v1\nkind: Service\nmetadata: {name: ledger, namespace: bank}\nspec: {clusterIP: 10.96.0.7, ports: [{name: http, port: 80}]}"
	m := applied(t, shopWithWaypoint, bank,
		routeText("HTTPRoute", "clients", "own", "01", toOrders, orders80),
		routeText("HTTPRoute", "clients", "third", "02", toOrders, "{name: ledger, namespace: bank, port: 80}"),
	)
	if got := said(m, model.KindHTTPRoute, "clients", "own"); !strings.Contains(got, "ResolvedRefs=True") {
		t.Errorf("to the parent's namespace: %s", got)
	}
	if got := said(m, model.KindHTTPRoute, "clients", "third"); !strings.Contains(got, "ResolvedRefs=False RefNotPermitted") {
		t.Errorf("into a third namespace: %s", got)
	}
	grant := func(to string) string {
		return "apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: bank}\nspec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: clients}], to: [" + to + "]}"
	}
	backend := func() *waypointapi.Backend {
		svc := resource[*waypointapi.Service](t, m, model.TypeWaypointService, "shop/orders.shop.svc.cluster.local")
		return svc.Tables[0].Routes[1].Backends[0]
	}
	m.Apply(mustEvents(t, grant("{group: '', kind: Service, name: other}"))...)
	if backend().Broken == "" {
		t.Errorf("a grant for another service: %v", backend())
	}
	m.Apply(mustEvents(t, grant("{group: '', kind: Service}"))...)
	if b := backend(); b.Broken != "" || b.Service != "bank/ledger.bank.svc.cluster.local" {
		t.Errorf("with a grant: %v", b)
	}
	if got := said(m, model.KindHTTPRoute, "clients", "third"); !strings.Contains(got, "ResolvedRefs=True") {
		t.Errorf("with a grant: %s", got)
	}
	m.Apply(model.Event{Key: model.Key{Kind: model.KindReferenceGrant, Namespace: "bank", Name: "g"}})
	if backend().Broken == "" {
		t.Error("after the grant went the route still leads there")
	}
}

// What cannot be done is said, with the reason that the API has for it.
func TestReasonsOfRoutes(t *testing.T) {
	rules := func(rules string) string {
		return "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: shop}\nspec: {hostnames: [x.example], parentRefs: [" + toOrders + "], rules: " + rules + "}"
	}
	const good, bad = "{backendRefs: [{name: orders, port: 80}]}", "{filters: [{type: ExtensionRef, extensionRef: {group: x, kind: Thing, name: z}}], backendRefs: [{name: orders, port: 80}]}"
	for _, tt := range []struct{ name, route, want string }{
		{"good", rules("[" + good + "]"), "Accepted=True Accepted: spec.hostnames: means nothing"},
		{"one of two rules", rules("[" + good + ", " + bad + "]"), "PartiallyInvalid=True UnsupportedValue: Dropped Rule: spec.rules[1].filters[0]"},
		{"every rule", rules("[" + bad + "]"), "Accepted=False UnsupportedValue"},
		{"filters that contradict", rules("[{filters: [{type: RequestRedirect, requestRedirect: {port: 81}}, {type: URLRewrite, urlRewrite: {hostname: y.example}}]}]"), "Accepted=False IncompatibleFilters"},
		{"another kind of backend", rules("[{backendRefs: [{kind: Bucket, group: x, name: orders, port: 80}]}]"), "ResolvedRefs=False InvalidKind"},
		{"not bound", routeText("HTTPRoute", "shop", "r", "01", "{group: '', kind: Service, name: other}", orders80), "Accepted=False NoMatchingParent"},
		{"another's parent", routeText("HTTPRoute", "shop", "r", "01", "{name: edge}", orders80), ""},
	} {
		got := said(applied(t, shopWithWaypoint, tt.route), model.KindHTTPRoute, "shop", "r")
		if !strings.Contains(got, tt.want) || tt.want == "" && got != "" {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}
