package waypoint

import (
	"context"
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

// Policies decide by caller, method and path, and the record names the one that
// decided; a change counts for what is under way, too.
func TestPolicies(t *testing.T) {
	w := newWorld(t)
	s := w.service("orders", "{name: http, port: 80, targetPort: 8080}", 1, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/orders/wait" {
			rw.WriteHeader(200)
			http.NewResponseController(rw).Flush()
			<-r.Context().Done()
			return
		}
		io.WriteString(rw, "ok")
	}))
	web, other := w.client("web").http(s, 80, false), w.client("other").http(s, 80, true)
	w.eventually("the service is served", func() bool { return get(t.Context(), web, "GET", "/").status == 200 })
	w.apply("policy", `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: orders, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  rules:
  - from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]
    to: [{operation: {methods: [GET], paths: ["/api/orders*"]}}]`)
	w.eventually("the policy is in force", func() bool { return get(t.Context(), web, "GET", "/x").status == 403 })
	for _, tt := range []struct {
		name, method, path string
		client             *http.Client
		want               int
	}{
		{"what the rule allows", "GET", "/api/orders/7", web, 200},
		{"another method", "DELETE", "/api/orders/7", web, 403},
		{"another path", "GET", "/admin", web, 403},
		{"dots into another path", "GET", "/api/orders/../../admin", web, 403},
		{"a second reading of the path", "GET", "/api/orders/%2e%2e%2f..%2fadmin", web, 400},
		{"another caller", "GET", "/api/orders/7", other, 403},
	} {
		a := get(t.Context(), tt.client, tt.method, tt.path)
		if a.status != tt.want || tt.want == 403 && a.body != "RBAC: access denied" {
			t.Errorf("%s: %d %q %v, want %d", tt.name, a.status, a.body, a.err, tt.want)
		}
	}
	w.wantRecord(map[string]string{"flags": "DENY", "decision": "shop/orders", "src.identity": "spiffe://cluster.local/ns/shop/sa/other"})
	// A policy that comes ends what it forbids.
	req, _ := http.NewRequestWithContext(t.Context(), "GET", "http://orders.shop/api/orders/wait", nil)
	resp, err := web.Do(req)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%v %v", resp, err)
	}
	defer resp.Body.Close()
	w.apply("deny", `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed, namespace: shop}
spec: {action: DENY, targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}], rules: [{}]}`)
	ended := make(chan error, 1)
	w.background("reader", func(context.Context) { _, err := io.ReadAll(resp.Body); ended <- err })
	select {
	case err := <-ended:
		if err == nil {
			t.Error("the answer that was cut looks complete")
		}
	case <-time.After(patience):
		t.Error("a request that is forbidden now goes on")
	}
}

// versions are two services behind routes of a third.
func versions(w *world) *service {
	app := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("X-Path", r.RequestURI)
		rw.Header().Set("X-Host", r.Host)
		rw.Header().Set("X-Added", strings.Join(r.Header["X-Added"], ","))
	})
	s := w.service("orders", "{name: http, port: 80, targetPort: 8080}", 1, app)
	w.service("v1", "{name: http, port: 80, targetPort: 8080}", 1, app)
	w.service("v2", "{name: http, port: 80, targetPort: 8080}", 1, app)
	return s
}

// Routes: header first, weights per request, and the filters.
func TestRoutes(t *testing.T) {
	w := newWorld(t)
	s := versions(w)
	w.apply("route", `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: canary, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: orders}]
  rules:
  - matches: [{headers: [{name: x-canary, value: "true"}]}]
    backendRefs: [{name: v2, port: 80}]
  - matches: [{path: {value: /old}}]
    filters: [{type: RequestRedirect, requestRedirect: {statusCode: 301, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]
  - matches: [{path: {value: /rewrite}}]
    filters:
    - {type: URLRewrite, urlRewrite: {hostname: other.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}
    - {type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: X-Added, value: a}], remove: [x-gone]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Set, value: b}]}}
    backendRefs: [{name: v1, port: 80}]
  - matches: [{path: {value: /missing}}]
    backendRefs: [{name: nothing, port: 80}]
  - matches: [{path: {value: /split}}]
    backendRefs: [{name: v1, port: 80, weight: 90}, {name: v2, port: 80, weight: 10}]
`)
	hc := w.client("web").http(s, 80, false)
	w.eventually("the route is in force", func() bool { return get(t.Context(), hc, "GET", "/", "X-Canary: true").pod() == "v2-0" })
	if a := get(t.Context(), hc, "GET", "/nothing"); a.status != 404 {
		t.Errorf("no route: %+v", a)
	}
	if a := get(t.Context(), hc, "GET", "/old/x?y=z"); a.status != 301 || a.header.Get("Location") != "http://orders.shop/new/x?y=z" {
		t.Errorf("redirect: %+v", a)
	}
	if a := get(t.Context(), hc, "GET", "/rewrite/x?y=z", "X-Gone: 1", "X-Added: 0"); a.header.Get("X-Path") != "/x?y=z" || a.header.Get("X-Host") != "other.example" || a.header.Get("X-Added") != "0,a" || a.header.Get("X-Set") != "b" {
		t.Errorf("rewrite: %+v", a)
	}
	if a := get(t.Context(), hc, "GET", "/missing"); a.status != 500 {
		t.Errorf("backend that is not there: %+v", a)
	}
	count := map[string]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 250 {
				a := get(t.Context(), hc, "GET", "/split")
				mu.Lock()
				count[a.pod()]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if n := count["v2-0"]; n < 160 || n > 240 || count["v1-0"]+n != 2000 {
		t.Errorf("of 2000 requests %v", count)
	}
}

// Retries, their limits, and timeouts.
func TestRetriesAndTimeouts(t *testing.T) {
	w := newWorld(t)
	var calls atomic.Int64
	s := w.service("orders", "{name: http, port: 80, targetPort: 8080}", 1, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		n := calls.Add(1)
		body, _ := io.ReadAll(r.Body)
		switch r.URL.Path {
		case "/flaky":
			if n%3 != 0 {
				rw.WriteHeader(503)
				return
			}
		case "/slow":
			<-r.Context().Done()
		}
		rw.Write(body)
	}))
	w.apply("route", `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: orders, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: orders}]
  rules:
  - matches: [{path: {value: /flaky}}]
    retry: {codes: [503], attempts: 3, backoff: 1ms}
    backendRefs: [{name: orders, port: 80}]
  - matches: [{path: {value: /slow}}]
    timeouts: {request: 200ms}
    backendRefs: [{name: orders, port: 80}]
  - backendRefs: [{name: orders, port: 80}]
`)
	for _, h2 := range []bool{false, true} {
		hc := w.client(fmt.Sprintf("web-%v", h2)).http(s, 80, h2)
		w.eventually("the route is in force", func() bool {
			calls.Store(0)
			return get(t.Context(), hc, "GET", "/flaky").status == 200
		})
		calls.Store(0)
		req, _ := http.NewRequestWithContext(t.Context(), "POST", "http://orders.shop/flaky", io.MultiReader(strings.NewReader("hello")))
		resp, err := hc.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 200 || string(body) != "hello" || calls.Load() != 3 {
			t.Errorf("http2 %v: %d %q after %d calls", h2, resp.StatusCode, body, calls.Load())
		}
		w.wantRecord(map[string]string{"tries": "3", "path": "/flaky"})
		start := time.Now()
		if a := get(t.Context(), hc, "GET", "/slow"); a.status != 504 || time.Since(start) > 5*time.Second {
			t.Errorf("timeout: %+v after %v", a, time.Since(start))
		}
		w.wantRecord(map[string]string{"flags": "UT", "path": "/slow"})
	}
}

// Copies go to another service, with their bodies, and nobody waits for them.
func TestMirror(t *testing.T) {
	w := newWorld(t)
	copies := make(chan string, 10)
	s := w.service("orders", "{name: http, port: 80, targetPort: 8080}", 1, echo)
	w.service("shadow", "{name: http, port: 80, targetPort: 8080}", 1, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		copies <- r.Method + " " + r.URL.Path + " " + string(body)
	}))
	w.apply("route", `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: orders, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: orders}]
  rules:
  - matches: [{path: {value: /mirror}}]
    filters: [{type: RequestMirror, requestMirror: {backendRef: {name: shadow, port: 80}}}]
    backendRefs: [{name: orders, port: 80}]
`)
	hc := w.client("web").http(s, 80, false)
	w.eventually("the route is in force", func() bool { return get(t.Context(), hc, "GET", "/mirror").status == 200 })
	req, _ := http.NewRequestWithContext(t.Context(), "POST", "http://orders.shop/mirror/x", strings.NewReader("hello"))
	resp, err := hc.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	for got := ""; got != "POST /mirror/x hello"; {
		select {
		case got = <-copies:
		case <-time.After(patience):
			t.Fatal("no copy came")
		}
	}
}

// Requests of one session stay at one endpoint and one backend, by a cookie or a
// header, and go elsewhere when it is gone.
func TestSessions(t *testing.T) {
	w := newWorld(t)
	app := http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, "ok") })
	s := w.service("orders", "{name: http, port: 80, targetPort: 8080}", 1, app)
	w.service("v1", "{name: http, port: 80, targetPort: 8080}", 3, app)
	w.service("v2", "{name: http, port: 80, targetPort: 8080}", 3, app)
	w.apply("route", `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: orders, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: orders}]
  rules:
  - matches: [{path: {value: /header}}]
    sessionPersistence: {type: Header, sessionName: x-session}
    backendRefs: [{name: v1, port: 80}, {name: v2, port: 80}]
  - sessionPersistence: {sessionName: sid, absoluteTimeout: 1h}
    backendRefs: [{name: v1, port: 80}, {name: v2, port: 80}]
`)
	hc := w.client("web").http(s, 80, false)
	w.eventually("the route is in force", func() bool { return get(t.Context(), hc, "GET", "/header").header.Get("X-Session") != "" })
	pods := map[string]bool{}
	for range 30 {
		first := get(t.Context(), hc, "GET", "/")
		cookie, _, _ := strings.Cut(first.header.Get("Set-Cookie"), ";")
		pods[first.pod()] = true
		for range 10 {
			if a := get(t.Context(), hc, "GET", "/", "Cookie: "+cookie); a.pod() != first.pod() || a.header.Get("Set-Cookie") != "" {
				t.Fatalf("with %s: %+v, want %s", cookie, a, first.pod())
			}
		}
	}
	if len(pods) < 4 {
		t.Errorf("30 sessions are at %v", pods)
	}
	first := get(t.Context(), hc, "GET", "/header")
	for range 10 {
		if a := get(t.Context(), hc, "GET", "/header", "X-Session: "+first.header.Get("X-Session")); a.pod() != first.pod() {
			t.Errorf("header: %+v, want %s", a, first.pod())
		}
	}
	// The endpoint goes, and the session moves.
	if err := os.Remove(filepath.Join(w.dir, first.pod()[:2]+".yaml")); err != nil {
		t.Fatal(err)
	}
	w.eventually("the session has moved", func() bool {
		a := get(t.Context(), hc, "GET", "/header", "X-Session: "+first.header.Get("X-Session"))
		return a.status == 200 && a.pod() != first.pod() && a.header.Get("X-Session") != ""
	})
}
