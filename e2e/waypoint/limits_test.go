package waypoint

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// oneConnection is a service of so many pods that takes one connection in all.
func oneConnection(w *world, app http.Handler, labels ...string) *service {
	s := orderService(w, app, labels...)
	w.apply("rule", `
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: order-service, namespace: production}
spec: {host: order-service, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}, connectionPool: {tcp: {maxConnections: 1, connectTimeout: 10s}}}}
`)
	w.eventually("the rule is known", func() bool { return w.condition("DestinationRule", "order-service") != "" })
	return s
}

// Where one connection is allowed, requests go to several endpoints in turn: one that
// nobody uses makes room for another, whichever HTTP it speaks.
func TestOneConnectionForSeveralEndpoints(t *testing.T) {
	w := newWorldIn(t, "production")
	s := oneConnection(w, echo, "n: a", "n: b")
	c := w.client("web")
	one, two := c.http(s, 80, false), c.http(s, 80, true)
	w.eventually("the service is served", func() bool { return get(t.Context(), one, "GET", "/").status == 200 })
	pods := map[string]int{}
	for i := range 20 {
		a := get(t.Context(), []*http.Client{one, two}[i/2%2], "GET", "/")
		if a.status != 200 {
			t.Fatalf("request %d: %+v", i, a)
		}
		pods[a.pod()]++
	}
	if len(pods) != 2 {
		t.Errorf("endpoints %v", pods)
	}
}

// More requests than fit on the only connection wait for one of those on it to end,
// not for the connection.
func TestRequestsWaitForAPartOfAConnection(t *testing.T) {
	w := newWorldIn(t, "production")
	const fit, more = 100, 30
	var inside atomic.Int64
	full, release := make(chan struct{}), make(chan struct{})
	s := oneConnection(w, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/hold" {
			return
		}
		if inside.Add(1) == fit {
			close(full)
		}
		<-release
	}))
	c := w.client("web")
	w.eventually("the service is served", func() bool { return get(t.Context(), c.http(s, 80, true), "GET", "/").status == 200 })
	var wg sync.WaitGroup
	ask := func(hc *http.Client, path string, n int) {
		for range n {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				if a := get(ctx, hc, "GET", path); a.status != 200 {
					t.Errorf("%s: %+v", path, a)
				}
			})
		}
	}
	ask(c.http(s, 80, true), "/hold", fit)
	<-full
	ask(c.http(s, 80, true), "/", more)
	release <- struct{}{} // one leaves, and those who wait come in one after the other
	w.eventually("those who waited have been served", func() bool {
		n := 0
		for _, rec := range w.records() {
			if rec["path"] == "/" {
				n++
			}
		}
		return n > more
	})
	close(release)
	wg.Wait()
}

// What must not be done twice is not sent twice: the endpoint may have heard a request
// although it closed the connection without an answer.
func TestNothingIsDoneTwice(t *testing.T) {
	for _, tt := range []struct {
		method, body string
		want         int64 // how often it reaches the application, at most
	}{{"POST", "pay", 1}, {"POST", "", 1}, {"PATCH", "pay", 1}, {"GET", "", 2}} {
		t.Run(tt.method+" "+tt.body, func(t *testing.T) {
			w := newWorld(t)
			var done atomic.Int64
			s := w.service("orders", "{name: http, port: 80, targetPort: 8080}", 1, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/pay" {
					io.Copy(io.Discard, r.Body)
					done.Add(1)
					panic(http.ErrAbortHandler)
				}
			}))
			hc := w.client("web").http(s, 80, false)
			w.eventually("the service is served", func() bool { return get(t.Context(), hc, "GET", "/").status == 200 })
			for range 5 { // on a connection that was kept
				get(t.Context(), hc, "GET", "/")
				done.Store(0)
				req, _ := http.NewRequestWithContext(t.Context(), tt.method, "http://orders.shop/pay", strings.NewReader(tt.body))
				if resp, err := hc.Do(req); err == nil {
					resp.Body.Close()
				}
				if n := done.Load(); n < 1 || n > tt.want {
					t.Errorf("it was done %d times", n)
				}
			}
		})
	}
}
