package waypoint

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

// Retries to a service are bounded by its XBackendTrafficPolicy, whatever its routes
// say, and a request that would be tried again beyond that is answered 503.
func TestRetryConstraint(t *testing.T) {
	w := newWorld(t)
	var calls atomic.Int64
	s := w.service("orders", "{name: http, port: 80, targetPort: 8080}", 1, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/fails" {
			calls.Add(1)
			rw.WriteHeader(500)
		}
	}))
	w.apply("route", `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: again, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: orders}]
  rules: [{retry: {attempts: 1, codes: [500], backoff: 1ms}, backendRefs: [{name: orders, port: 80}]}]
`)
	w.apply("policy", `
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: {name: orders, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: orders}]
  retryConstraint: {budget: {percent: 10, interval: 1h}, minRetryRate: {count: 1, interval: 1h}}
`)
	hc := w.client("web").http(s, 80, false)
	w.eventually("the budget is in force", func() bool {
		return get(t.Context(), hc, "GET", "/fails").status == 503
	})
	if c := w.condition("XBackendTrafficPolicy", "orders"); !strings.Contains(c, "Accepted") || strings.Contains(c, "Invalid") {
		t.Errorf("the policy's condition: %s", c)
	}
	// What came before counts: 200 more requests that need no retry make room for 20.
	for range 200 {
		if a := get(t.Context(), hc, "GET", "/"); a.status != 200 {
			t.Fatalf("%+v", a)
		}
	}
	calls.Store(0)
	count := map[int]int{}
	for range 50 {
		count[get(t.Context(), hc, "GET", "/fails").status]++
	}
	retried := int(calls.Load()) - 50
	if retried < 20 || retried > 30 || count[500] != retried || count[503] != 50-retried {
		t.Errorf("of 50 requests %d were tried again, want some 20 to 25; answers %v", retried, count)
	}
	w.wantRecord(map[string]string{"flags": "URX", "details": "the retry budget of the service is used up", "status": "503"})
}

// A session that a service asks for holds where the route asks for none.
func TestSessionOfAService(t *testing.T) {
	w := newWorld(t)
	s := w.service("orders", "{name: http, port: 80, targetPort: 8080}", 3, echo)
	w.apply("policy", `
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: {name: orders, namespace: shop}
spec: {targetRefs: [{group: "", kind: Service, name: orders}], sessionPersistence: {sessionName: x-mine, type: Header}}
`)
	hc := w.client("web").http(s, 80, false)
	var first answer
	w.eventually("an answer names a session", func() bool {
		first = get(t.Context(), hc, "GET", "/")
		return first.header.Get("X-Mine") != ""
	})
	for range 30 {
		if a := get(t.Context(), hc, "GET", "/", "X-Mine: "+first.header.Get("X-Mine")); a.pod() != first.pod() {
			t.Fatalf("the session is at %s, and %s answered", first.pod(), a.pod())
		}
	}
	seen := map[string]bool{}
	for range 60 {
		seen[get(t.Context(), hc, "GET", "/").pod()] = true
	}
	if len(seen) != 3 {
		t.Errorf("without a session only %v answered", seen)
	}
}
