package waypoint

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// An endpoint is put out for what it did, not for what a limit kept from it, nor for
// clients that went away.
func TestEndpointsAreBlamedForTheirOwnFaultsOnly(t *testing.T) {
	const rule = `
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: order-service, namespace: production}
spec:
  host: order-service
  trafficPolicy:
    connectionPool: {http: {http2MaxRequests: 1}}
    outlierDetection: {consecutive5xxErrors: 3, baseEjectionTime: 60s}
`
	w := newWorldIn(t, "production")
	var reached atomic.Int64
	held, release := make(chan struct{}, 1), make(chan struct{})
	s := orderService(w, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/hold":
			held <- struct{}{}
			<-release
		case "/wait":
			reached.Add(1)
			<-r.Context().Done()
		}
	}))
	w.apply("rule", rule)
	c := w.client("web")
	hc := c.http(s, 80, false)
	w.eventually("the rule is known", func() bool {
		return get(t.Context(), hc, "GET", "/").status == 200 && w.condition("DestinationRule", "order-service") != ""
	})
	var holding sync.WaitGroup
	w.eventually("a second request at once is refused", func() bool {
		holding.Go(func() { get(t.Context(), c.http(s, 80, false), "GET", "/hold") })
		<-held
		a := get(t.Context(), hc, "GET", "/")
		if a.status != 503 {
			release <- struct{}{}
			holding.Wait()
		}
		return a.status == 503
	})
	for range 10 {
		if a := get(t.Context(), hc, "GET", "/"); a.status != 503 {
			t.Fatalf("beyond the limit: %+v", a)
		}
	}
	release <- struct{}{}
	holding.Wait()
	w.eventually("the endpoint serves after what was refused", func() bool { return get(t.Context(), hc, "GET", "/").status == 200 })

	two := c.http(s, 80, true) // which tells the other side that it gives up
	w.eventually("five requests that were given up", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		get(ctx, two, "GET", "/wait")
		return reached.Load() >= 5
	})
	w.eventually("the endpoint serves after clients have gone", func() bool { return get(t.Context(), hc, "GET", "/").status == 200 })
}

// Where failures count apart an endpoint that nobody reaches is put out, and one that
// answers badly is not.
func TestFailuresThatCountApart(t *testing.T) {
	w := newWorld(t)
	s := w.outside("bank", "{number: 80, name: http, targetPort: 8080}", "", "") // the second is not there
	var asked atomic.Int64
	w.serveApp(s.pods[0], http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		rw.WriteHeader(500)
	}))
	w.rule("bank.example", "apart", "trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}, outlierDetection: {splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 1, consecutive5xxErrors: 0, baseEjectionTime: 600s, maxEjectionPercent: 100}}")
	hc := w.client("web").http(s, 80, false)
	tries := func() (n int) {
		for _, rec := range w.records() {
			if rec["tries"] != nil {
				n++
			}
		}
		return n
	}
	w.eventually("the endpoint that is not there is put out", func() bool {
		before := tries()
		for range 20 {
			if a := get(t.Context(), hc, "GET", "/"); a.status != 500 {
				return false
			}
		}
		return before > 0 && tries() == before
	})
	before, was := tries(), asked.Load()
	for range 50 {
		if a := get(t.Context(), hc, "GET", "/"); a.status != 500 {
			t.Fatalf("%+v", a)
		}
	}
	if n := asked.Load() - was; n != 50 || tries() != before {
		t.Errorf("%d of 50 requests reached the one that answers, %d were tried again", n, tries()-before)
	}
}
