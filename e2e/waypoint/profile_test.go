package waypoint

import (
	"net/http"
	"testing"
)

// Conditions of a ServiceProfile that stand in each other tell its routes apart: those
// of one have a timeout here.
func TestProfileConditions(t *testing.T) {
	w := newWorldIn(t, "production")
	s := orderService(w, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Slow") != "" {
			<-r.Context().Done()
		}
	}))
	w.apply("profile", `
apiVersion: linkerd.io/v1alpha2
kind: ServiceProfile
metadata: {name: order-service.production.svc.cluster.local, namespace: production}
spec:
  routes:
  - name: no reads of orders but the first
    condition: {all: [{pathRegex: /orders/.*}, {not: {any: [{pathRegex: /orders/1}, {method: PUT}]}}]}
    timeout: 200ms
  - name: the rest
    condition: {not: {method: NOBODY}}
    timeout: 1s
`)
	hc := w.client("web").http(s, 80, false)
	route := func(method, path string) string {
		get(t.Context(), hc, method, path)
		rec := w.records()
		if len(rec) == 0 { // it is written behind the answer
			return ""
		}
		name, _ := rec[len(rec)-1]["route"].(string)
		return name
	}
	const orders, rest = "ServiceProfile production/order-service.production.svc.cluster.local no reads of orders but the first", "ServiceProfile production/order-service.production.svc.cluster.local the rest"
	for _, tt := range []struct{ method, path, want string }{
		{"GET", "/orders/2", orders}, {"GET", "/orders/1", rest}, {"PUT", "/orders/2", rest}, {"GET", "/", rest},
	} {
		w.eventually(tt.method+" "+tt.path+" takes "+tt.want, func() bool { return route(tt.method, tt.path) == tt.want })
	}
	if a := get(t.Context(), hc, "GET", "/orders/2", "X-Slow: 1"); a.status != 504 {
		t.Errorf("%+v, want 504", a)
	}
}
