package waypoint

import (
	"fmt"
	"strings"
	"testing"
)

// Policies that are attached to the service or to its waypoint are enforced there, and
// nothing else is.
func TestAttachedPolicies(t *testing.T) {
	const service, gateway = `{group: "", kind: Service, name: orders}`, `{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}`
	for _, tt := range []struct {
		name, target, spec string
		headers            []string
		web, other         int // what each client gets
	}{
		{"to the service, by caller", service, "rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]}]", nil, 200, 403},
		{"to the service, by header", service, "action: DENY, rules: [{when: [{key: 'request.headers[x-bad]', values: ['1']}]}]", []string{"X-Bad: 1"}, 403, 403},
		{"to the Gateway", gateway, "action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/other]}}]}]", nil, 200, 403},
		{"to the Gateway, letting nobody in", gateway, "action: ALLOW", nil, 403, 403},
		{"to another service", `{group: "", kind: Service, name: nobody}`, "action: ALLOW", nil, 200, 200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			s := w.service("orders", "{name: http, port: 80, targetPort: 8080}", 1, echo)
			web, other := w.client("web").http(s, 80, false), w.client("other").http(s, 80, true)
			w.eventually("the service is served", func() bool { return get(t.Context(), web, "GET", "/").status == 200 })
			w.apply("policy", "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec: {targetRefs: ["+tt.target+"], "+tt.spec+"}\n")
			w.eventually("the policy is in force", func() bool {
				return get(t.Context(), web, "GET", "/", tt.headers...).status == tt.web && get(t.Context(), other, "GET", "/", tt.headers...).status == tt.other
			})
			if a := get(t.Context(), web, "GET", "/"); len(tt.headers) > 0 && a.status != 200 {
				t.Errorf("without the header: %d", a.status)
			}
		})
	}
}

// What a waypoint sends requests to beside services with tunnels.
func TestBackendsOfOtherKinds(t *testing.T) {
	w := newWorld(t)
	w.gateway("labels: {istio.io/waypoint-for: all}")
	// Pods without a tunnel are called in plaintext.
	plain := &service{w: w, name: "plain", vip: w.ip(), pods: []*pod{{name: "plain-0", ip: w.ip(), callers: map[string]int{}}}}
	w.serveApp(plain.pods[0], echo)
	w.apply("plain", fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: plain, namespace: shop}\nspec: {clusterIP: %s, selector: {app: plain}, ports: [{name: http, port: 80, targetPort: 8080}]}\n---\n%s",
		plain.vip, strings.ReplaceAll(w.podManifest("plain-0", "plain", plain.pods[0].ip, "app: plain"), "ambient.istio.io/redirection: enabled", "a: b")))
	// A host outside has an address of its own, and endpoints that are no pods.
	outside := &service{w: w, name: "outside", vip: w.ip(), pods: []*pod{{name: "outside", ip: w.ip(), callers: map[string]int{}}}}
	w.serveApp(outside.pods[0], echo)
	w.apply("outside", fmt.Sprintf(`
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside, namespace: shop}
spec: {hosts: [outside.example], addresses: [%s], ports: [{number: 80, name: http, targetPort: 8080}], resolution: STATIC, endpoints: [{address: %s}]}
`, outside.vip, outside.pods[0].ip))
	// A pod that is bound is served by its own address, too.
	bound := w.service("bound", "{name: http, port: 80, targetPort: 8080}", 1, echo)
	byAddress := &service{w: w, name: "bound", vip: bound.pods[0].ip}
	web := w.client("web")
	for _, tt := range []struct {
		name string
		to   *service
		port int
		want string // pod
	}{
		{"a backend that speaks no tunnel, and is called in plaintext", plain, 80, "plain-0"},
		{"a host outside, by ServiceEntry", outside, 80, "outside"},
		{"a pod that is bound itself, by its address", byAddress, 8080, "bound-0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			hc := web.http(tt.to, tt.port, false)
			var a answer
			w.eventually(tt.name, func() bool { a = get(t.Context(), hc, "GET", "/"); return a.status == 200 })
			if a.pod() != tt.want {
				t.Errorf("%q answered", a.pod())
			}
		})
	}
}
