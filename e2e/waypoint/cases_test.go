package waypoint

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// applyCase applies manifests that users of other meshes have, unchanged.
func (w *world) applyCase(names ...string) {
	w.t.Helper()
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join("testdata", name+".yaml"))
		if err != nil {
			w.t.Fatal(err)
		}
		w.apply("case-"+name, string(text))
	}
}

// orderService is the service of the cases, of so many pods.
func orderService(w *world, app http.Handler, labels ...string) *service {
	return w.service("order-service", "{name: http, port: 80, targetPort: 8080}", max(1, len(labels)), app, labels...)
}

// authz-order-service: only api-service may GET or POST /api/orders*.
func TestCaseAuthzOrderService(t *testing.T) {
	w := newWorldIn(t, "production")
	s := orderService(w, echo)
	api, other := w.client("api-service").http(s, 80, false), w.client("web").http(s, 80, false)
	w.eventually("the service is served", func() bool { return get(t.Context(), other, "GET", "/").status == 200 })
	w.applyCase("authz-order-service")
	w.eventually("the policy is in force", func() bool { return get(t.Context(), other, "GET", "/").status == 403 })
	for _, tt := range []struct {
		c            *http.Client
		method, path string
		want         int
	}{
		{api, "GET", "/api/orders", 200}, {api, "POST", "/api/orders/1", 200}, {api, "DELETE", "/api/orders/1", 403}, {api, "GET", "/api/users", 403},
		{other, "GET", "/api/orders", 403}, {other, "POST", "/api/orders", 403},
	} {
		if a := get(t.Context(), tt.c, tt.method, tt.path); a.status != tt.want {
			t.Errorf("%s %s: %d, want %d", tt.method, tt.path, a.status, tt.want)
		}
	}
}

// deny-all refuses everyone; allow-orders lets the gateway do everything and the
// payment service read the status of one order.
func TestCaseDenyAllAndAllowOrders(t *testing.T) {
	w := newWorldIn(t, "production")
	s := orderService(w, echo)
	gw, pay, web := w.client("api-gateway").http(s, 80, false), w.client("payment-service").http(s, 80, true), w.client("web").http(s, 80, false)
	w.eventually("the service is served", func() bool { return get(t.Context(), gw, "GET", "/").status == 200 })
	w.applyCase("deny-all")
	w.eventually("everyone is refused", func() bool { return get(t.Context(), gw, "GET", "/").status == 403 })
	if a := get(t.Context(), web, "GET", "/"); a.status != 403 {
		t.Errorf("deny-all: web gets %d", a.status)
	}
	w.applyCase("allow-orders")
	w.eventually("the gateway may", func() bool { return get(t.Context(), gw, "DELETE", "/anything").status == 200 })
	for path, want := range map[string]int{
		"/api/orders/7/status": 200, "/api/orders/status": 403, "/api/orders/7/8/status": 403, "/api/orders/7/status/x": 403, "/api/orders/7": 403, "/api/orders/7%2f8/status": 403,
	} {
		if a := get(t.Context(), pay, "GET", path); a.status != want {
			t.Errorf("the payment service, GET %s: %d, want %d", path, a.status, want)
		}
	}
	if a := get(t.Context(), pay, "POST", "/api/orders/7/status"); a.status != 403 {
		t.Errorf("the payment service, POST: %d", a.status)
	}
	if a := get(t.Context(), web, "GET", "/api/orders/7/status"); a.status != 403 {
		t.Errorf("another caller: %d", a.status)
	}
}

// canary-virtual-service: the header goes to v2, the rest 90/10.
func TestCaseCanary(t *testing.T) {
	w := newWorldIn(t, "production")
	s := orderService(w, echo, "version: v1", "version: v2")
	w.applyCase("destination-rule", "canary-virtual-service")
	hc := w.client("web").http(s, 80, false)
	w.eventually("the header goes to v2", func() bool { return get(t.Context(), hc, "GET", "/", "X-Canary: true").pod() == "order-service-1" })
	for range 100 {
		if a := get(t.Context(), hc, "GET", "/", "x-canary: true"); a.pod() != "order-service-1" {
			t.Fatalf("with the header: %+v", a)
		}
	}
	var mu sync.Mutex
	count := map[string]int{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 250 {
				a := get(t.Context(), hc, "GET", "/")
				mu.Lock()
				count[a.pod()]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if n := count["order-service-1"]; n < 160 || n > 240 || n+count["order-service-0"] != 2000 {
		t.Errorf("of 2,000: %v, want 10 %% within 2 points at v2", count)
	}
}

// destination-rule: at most 100 connections; an endpoint with 5 errors is out for
// 30 s; the old name of a field is understood and said so.
func TestCaseDestinationRule(t *testing.T) {
	w := newWorldIn(t, "production")
	var sick atomic.Bool
	var open sync.WaitGroup
	hold := make(chan struct{})
	s := orderService(w, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/hold":
			<-hold
		case sick.Load() && strings.HasSuffix(rw.Header().Get("X-Pod"), "-0"):
			rw.WriteHeader(500)
		}
	}), "version: v1", "version: v1")
	w.applyCase("destination-rule")
	c := w.client("web")
	hc := c.http(s, 80, false)
	w.eventually("the rule is known", func() bool {
		return get(t.Context(), hc, "GET", "/").status == 200 && strings.Contains(w.condition("DestinationRule", "order-service"), "consecutive5xxErrors")
	})
	for range 150 {
		open.Go(func() { get(t.Context(), hc, "GET", "/hold") })
	}
	streams := func() (now int) {
		for _, p := range s.pods {
			p.mu.Lock()
			now += p.streams
			p.mu.Unlock()
		}
		return now
	}
	w.eventually("100 connections are open", func() bool { return streams() == 100 })
	for range 50 { // with 50 requests waiting
		get(t.Context(), c.http(s, 81, false), "GET", "/")
		if n := streams(); n > 100 {
			t.Errorf("%d connections are open, want at most 100", n)
		}
	}
	close(hold)
	open.Wait()
	// One endpoint becomes ill.
	sick.Store(true)
	bad, lastBad := 0, time.Now()
	for time.Since(lastBad) < 2*time.Second && bad < 20 {
		if a := get(t.Context(), hc, "GET", "/"); a.status == 500 {
			bad, lastBad = bad+1, time.Now()
		}
	}
	if bad != 5 {
		t.Errorf("%d errors reached the client before the endpoint was out, want 5", bad)
	}
}

// service-profile: GET is retried and ends after 2 s, POST is never retried and ends
// after 5 s.
func TestCaseServiceProfile(t *testing.T) {
	w := newWorldIn(t, "production")
	var calls atomic.Int64
	s := orderService(w, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Slow") != "" {
			<-r.Context().Done()
			return
		}
		io.Copy(io.Discard, r.Body)
		if n := calls.Add(1); n < 3 {
			rw.WriteHeader(503)
		}
	}))
	w.applyCase("service-profile")
	hc := w.client("web").http(s, 80, false)
	w.eventually("GET is retried", func() bool { calls.Store(0); return get(t.Context(), hc, "GET", "/api/orders/1").status == 200 })
	if n := calls.Load(); n != 3 {
		t.Errorf("GET: %d calls, want 3", n)
	}
	calls.Store(0)
	if a := get(t.Context(), hc, "POST", "/api/orders"); a.status != 503 || calls.Load() != 1 {
		t.Errorf("POST: %d after %d calls, want 503 after 1", a.status, calls.Load())
	}
	for _, tt := range []struct {
		method, path string
		want         time.Duration
	}{{"GET", "/api/orders/1", 2 * time.Second}, {"POST", "/api/orders", 5 * time.Second}} {
		start := time.Now()
		a := get(t.Context(), hc, tt.method, tt.path, "X-Slow: 1")
		if took := time.Since(start); a.status != 504 || took < tt.want || took > tt.want+2*time.Second {
			t.Errorf("%s: %d after %v, want 504 after %v", tt.method, a.status, took, tt.want)
		}
	}
}

// peer-authentication-strict is the node proxies' to enforce; the waypoint takes
// nobody without a certificate in any case.
func TestCasePeerAuthenticationStrict(t *testing.T) {
	w := newWorldIn(t, "production")
	s := orderService(w, echo)
	w.applyCase("peer-authentication-strict")
	hc := w.client("web").http(s, 80, false)
	w.eventually("mesh callers pass", func() bool { return get(t.Context(), hc, "GET", "/").status == 200 })
	resp, err := http.Get("http://" + w.w.Addr("tunnels").String() + "/")
	if err == nil {
		resp.Body.Close()
		t.Errorf("a plaintext caller gets %d", resp.StatusCode)
	}
}

// condition is what the control plane says about an object.
func (w *world) condition(kind, name string) string {
	resp, err := http.Get("http://" + w.status + "/status")
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	var all struct {
		Conditions []map[string]any `json:"conditions"`
	}
	json.Unmarshal(text, &all)
	for _, c := range all.Conditions {
		if line := fmt.Sprint(c); strings.Contains(line, kind) && strings.Contains(line, name) {
			return line
		}
	}
	return string(text)
}
