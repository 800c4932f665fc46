package waypoint

import (
	"strings"
	"testing"
)

// A rule that names a RateLimit lets so many requests through, to each caller its own;
// other rules do not count, and without the object its requests are not answered.
func TestRateLimit(t *testing.T) {
	w := newWorld(t)
	s := w.service("orders", "{name: http, port: 80, targetPort: 8080}", 1, echo)
	w.apply("route", `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: limited, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: orders}]
  rules:
  - matches: [{path: {value: /slow}}]
    filters: [{type: ExtensionRef, extensionRef: {group: ambit.dev, kind: RateLimit, name: few}}]
    backendRefs: [{name: orders, port: 80}]
  - backendRefs: [{name: orders, port: 80}]
`)
	web, other := w.client("web").http(s, 80, false), w.client("other").http(s, 80, false)
	w.eventually("without the object its requests are not answered, and others are", func() bool {
		return get(t.Context(), web, "GET", "/slow").status == 500 && get(t.Context(), web, "GET", "/").status == 200
	})
	w.apply("limit", `
apiVersion: ambit.dev/v1alpha1
kind: RateLimit
metadata: {name: few, namespace: shop}
spec: {requests: 3, per: 1h, perIdentity: true}
`)
	w.eventually("the limit is in force", func() bool { return get(t.Context(), web, "GET", "/slow").status == 429 })
	// The caller that has used up its own keeps no other one out.
	got := map[int]int{}
	for range 10 {
		got[get(t.Context(), other, "GET", "/slow").status]++
	}
	if got[200] != 3 || got[429] != 7 {
		t.Errorf("of 10 requests of another caller: %v, want 3 answered", got)
	}
	for range 10 {
		if a := get(t.Context(), web, "GET", "/"); a.status != 200 {
			t.Fatalf("a request of another rule: %+v", a)
		}
	}
	w.wantRecord(map[string]string{"flags": "RL", "status": "429"})
	if c := w.condition("RateLimit", "few"); !strings.Contains(c, "HTTPRoute shop/limited") {
		t.Errorf("the limit's condition: %s", c)
	}
}
