package model_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/istiod-lite/files"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// tokens is a RequestAuthentication of a namespace.
func tokens(namespace, name, spec string) string {
	return "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: " + name + ", namespace: " + namespace + "}\nspec: " + spec
}

// saidOf is the first condition of an object, as text.
func saidOf(m *model.Model, kind model.Kind, namespace, name string) string {
	_, conditions := m.Look(model.Key{Kind: kind, Namespace: namespace, Name: name})
	var all []string
	for _, c := range conditions {
		all = append(all, c.String())
	}
	return strings.Join(all, "; ")
}

// Where a RequestAuthentication counts, and what its author is told.
func TestRequestAuthentication(t *testing.T) {
	const rules = `jwtRules: [{issuer: "https://us", jwksUri: "https://us/keys"}]`
	tests := []struct {
		name, manifest, condition string
		service, endpoint         bool
	}{
		{"on a service", tokens("shop", "a", `{targetRefs: [{kind: Service, group: "", name: orders}], `+rules+`}`), "WaypointAccepted=True", true, false},
		{"on a service, by the older name of its group", tokens("shop", "a", `{targetRefs: [{kind: Service, group: core, name: orders}], `+rules+`}`), "WaypointAccepted=True", true, false},
		{"on the waypoint", tokens("shop", "a", `{targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: waypoint}], `+rules+`}`), "WaypointAccepted=True", true, false},
		{"on the class, in the root namespace", tokens("istio-system", "a", `{targetRefs: [{kind: GatewayClass, group: gateway.networking.k8s.io, name: ambit-waypoint}], `+rules+`}`), "WaypointAccepted=True", true, false},
		{"on the class, elsewhere", tokens("shop", "a", `{targetRefs: [{kind: GatewayClass, group: gateway.networking.k8s.io, name: ambit-waypoint}], `+rules+`}`), "TargetNotFound", false, false},
		{"on a service without a waypoint", tokens("shop", "a", `{targetRefs: [{kind: Service, group: "", name: other}], `+rules+`}`), "AncestorNotBound", false, false},
		{"on workloads", tokens("shop", "a", `{selector: {matchLabels: {app: orders}}, `+rules+`}`), "WaypointAccepted=True Accepted: enforced by cluster.local/ns/shop/sa/waypoint", false, true},
		{"on a namespace", tokens("shop", "a", `{`+rules+`}`), "enforced by cluster.local/ns/shop/sa/waypoint", false, false},
		{"on a namespace without a waypoint", tokens("bank", "a", `{`+rules+`}`), "AncestorNotBound", false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := applied(t, shopWithWaypoint, tt.manifest)
			ns := "shop"
			for _, other := range []string{"istio-system", "bank"} {
				if strings.Contains(tt.manifest, "namespace: "+other) {
					ns = other
				}
			}
			if got := saidOf(m, model.KindRequestAuthentication, ns, "a"); !strings.Contains(got, tt.condition) {
				t.Errorf("condition %q, want %q", got, tt.condition)
			}
			if resource[*waypointapi.Authentication](t, m, model.TypeWaypointAuthentication, ns+"/a") == nil {
				t.Error("waypoints hear nothing of it")
			}
			svc := resource[*waypointapi.Service](t, m, model.TypeWaypointService, "shop/orders.shop.svc.cluster.local")
			if got := slices.Contains(svc.GetAuthentications(), ns+"/a"); got != tt.service {
				t.Errorf("attached to the service: %v", got)
			}
			e := resource[*waypointapi.Endpoint](t, m, model.TypeWaypointEndpoint, "Kubernetes//Pod/shop/orders-1")
			if got := slices.Contains(e.GetAuthentications(), ns+"/a"); got != tt.endpoint {
				t.Errorf("selects the pod: %v", got)
			}
		})
	}
}

// What one rule becomes.
func TestTokenRule(t *testing.T) {
	m := applied(t, shopWithWaypoint, tokens("shop", "a", `
  jwtRules:
  - {issuer: "https://us"}
  - {issuer: them, jwks: '{"keys":[{}]}', audiences: [x], timeout: 2s, forwardOriginalToken: true, outputPayloadToHeader: x-p, spaceDelimitedClaims: [w],
     fromHeaders: [{name: X-T, prefix: "t "}], fromParams: [p], fromCookies: [c], outputClaimToHeaders: [{header: x-g, claim: a.b}]}`))
	a := resource[*waypointapi.Authentication](t, m, model.TypeWaypointAuthentication, "shop/a")
	first, second := a.GetRules()[0], a.GetRules()[1]
	if !first.GetDiscover() || len(first.GetLocations()) != 2 || first.GetLocations()[0].GetPrefix() != "Bearer " || first.GetLocations()[1].GetParameter() != "access_token" {
		t.Errorf("a rule that says nothing: %v", first)
	}
	if second.GetInline() == "" || second.GetTimeout().AsDuration().Seconds() != 2 || !second.GetForward() || second.GetPayloadHeader() != "x-p" || len(second.GetLocations()) != 3 ||
		second.GetClaimHeaders()[0].GetClaim() != "a.b" || second.GetWordClaims()[0] != "w" || second.GetAudiences()[0] != "x" {
		t.Errorf("a rule that says everything: %v", second)
	}
}

// Rules that would refuse everybody, or nobody, in silence.
func TestValidateRequestAuthentication(t *testing.T) {
	for spec, want := range map[string]string{
		`{jwtRules: [{jwksUri: "https://x/k"}]}`:                                     "issuer",
		`{jwtRules: [{issuer: x, jwksUri: "ftp://x/k"}]}`:                            "https or http",
		`{jwtRules: [{issuer: x}]}`:                                                  "discovered",
		`{jwtRules: [{issuer: x, jwks: "{}"}]}`:                                      "no keys",
		`{jwtRules: [{issuer: x, jwks: "x"}]}`:                                       "jwks",
		`{jwtRules: [{issuer: x, jwks: '{"keys":[{}]}', jwksUri: "https://x"}]}`:     "beside",
		`{jwtRules: [{issuer: "https://x", outputPayloadToHeader: "a b"}]}`:          "letters",
		`{jwtRules: [{issuer: "https://x", fromCookies: [""]}]}`:                     "fromCookies",
		`{jwtRules: [{issuer: "https://x", timeout: 0s}]}`:                           "timeout",
		`{selector: {matchLabels: {a: b}}, targetRefs: [{kind: Service, name: x}]}`:  "beside targetRefs",
		`{jwtRules: [{issuer: "https://x", outputClaimToHeaders: [{header: x-a}]}]}`: "outputClaimToHeaders",
		`{jwtRules: [{issuer: "https://x", fromHeaders: [{prefix: "x "}]}]}`:         "fromHeaders",
	} {
		if _, err := files.Decode("t.yaml", []byte(tokens("shop", "a", spec))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", spec, err, want)
		}
	}
}

// mesh is the configuration of the mesh.
func mesh(namespace, name, text string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + ", namespace: " + namespace + "}\ndata:\n  mesh: |\n    " + strings.ReplaceAll(text, "\n", "\n    ") + "\n"
}

// Providers come from the configuration of the mesh, and policies say whether theirs
// is there.
func TestProviders(t *testing.T) {
	const custom = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask, namespace: shop}
spec: {action: CUSTOM, provider: {name: sso}, targetRefs: [{kind: Service, group: "", name: orders}], rules: [{}]}`
	const sso = `extensionProviders:
- {name: sso, envoyExtAuthzHttp: {service: sso.shop.svc.cluster.local, port: 80, pathPrefix: /p, statusOnError: "503", includeRequestHeadersInCheck: [cookie], failOpen: true, timeout: 3s}}
- {name: traces, zipkin: {service: z, port: 1}}
trustDomain: cluster.local`
	tests := []struct {
		name, mesh, condition string
		known                 bool
	}{
		{"known", mesh("istio-system", "istio", sso), "WaypointAccepted=True", true},
		{"no configuration", "", "not among the extensionProviders", false},
		{"another ConfigMap", mesh("istio-system", "other", sso), "not among the extensionProviders", false},
		{"of another namespace", mesh("shop", "istio", sso), "not among the extensionProviders", false},
		{"empty", mesh("istio-system", "istio", "{}"), "not among the extensionProviders", false},
		{"traces only", mesh("istio-system", "istio", "extensionProviders: [{name: sso, zipkin: {service: z, port: 1}}]"), "not among the extensionProviders", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := applied(t, shopWithWaypoint, custom)
			if tt.mesh != "" {
				m.Apply(mustEvents(t, tt.mesh)...)
			}
			if got := saidOf(m, model.KindAuthorizationPolicy, "shop", "ask"); !strings.Contains(got, tt.condition) {
				t.Errorf("condition %q, want %q", got, tt.condition)
			}
			p := resource[*waypointapi.Provider](t, m, model.TypeWaypointProvider, "sso")
			if (p != nil) != tt.known {
				t.Fatalf("provider %v", p)
			}
			if p != nil && (p.Service != "sso.shop.svc.cluster.local" || p.Port != 80 || !p.FailOpen || p.StatusOnError != 503 || p.Timeout.AsDuration().Seconds() != 3 || p.Http.PathPrefix != "/p" || p.Http.IncludeHeaders[0] != "cookie") {
				t.Errorf("provider %v", p)
			}
		})
	}
	for text, want := range map[string]string{
		"extensionProviders: [{name: a, envoyExtAuthzGrpc: {service: x}}]":                                                               "port is 0",
		"extensionProviders: [{name: a, envoyExtAuthzGrpc: {port: 1}}]":                                                                  "service is missing",
		"extensionProviders: [{name: a, envoyExtAuthzGrpc: {service: x, port: 1, statusOnError: ok}}]":                                   "statusOnError",
		"extensionProviders: [{name: a, envoyExtAuthzGrpc: {service: x, port: 1}}, {name: a, envoyExtAuthzGrpc: {service: x, port: 1}}]": "twice",
		"extensionProviders: 7": "unexpected token 7",
	} {
		if _, err := files.Decode("t.yaml", []byte(mesh("istio-system", "istio", text))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// A selector policy of HTTP says where it is enforced.
func TestWhereASelectorPolicyIsEnforced(t *testing.T) {
	policy := func(ns, spec string) string {
		return "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: " + ns + "}\nspec: " + spec
	}
	for _, tt := range []struct{ name, manifest, ns, want, not string }{
		{"HTTP, and a waypoint", policy("shop", `{selector: {matchLabels: {app: orders}}, rules: [{to: [{operation: {methods: [GET]}}]}]}`), "shop", "WaypointAccepted=True Accepted: enforced by cluster.local/ns/shop/sa/waypoint", ""},
		{"HTTP, and no waypoint", policy("bank", `{selector: {matchLabels: {app: orders}}, rules: [{to: [{operation: {methods: [GET]}}]}]}`), "bank", "ZtunnelAccepted=True UnsupportedValue", "WaypointAccepted"},
		{"AUDIT, and a waypoint", policy("shop", `{selector: {matchLabels: {app: orders}}, action: AUDIT, rules: [{}]}`), "shop", "WaypointAccepted=True", ""},
		{"CUSTOM of nobody, and a waypoint", policy("shop", `{selector: {matchLabels: {app: orders}}, action: CUSTOM, provider: {name: x}, rules: [{}]}`), "shop", "WaypointAccepted=False UnsupportedValue: requests that match are refused", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := saidOf(applied(t, shopWithWaypoint, tt.manifest), model.KindAuthorizationPolicy, tt.ns, "p")
			if !strings.Contains(got, tt.want) || tt.not != "" && strings.Contains(got, tt.not) {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}
