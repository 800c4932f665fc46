package waypoint

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A client that goes away ends its request at the endpoint, too, and the endpoint is
// not blamed for it.
func TestClientGoesAway(t *testing.T) {
	w := newWorldIn(t, "production")
	begun, gone := make(chan struct{}, 1), make(chan struct{}, 1)
	s := orderService(w, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			io.Copy(io.Discard, r.Body)
			begun <- struct{}{}
			<-r.Context().Done()
			gone <- struct{}{}
		}
	}))
	w.apply("rule", `
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: order-service, namespace: production}
spec: {host: order-service, trafficPolicy: {outlierDetection: {consecutive5xxErrors: 1, baseEjectionTime: 60s}}}
`)
	c := w.client("web")
	for _, tt := range []struct {
		name string
		h2   bool
		body string
	}{
		{"HTTP/1.1", false, ""}, {"HTTP/1.1, a body", false, "body"}, {"HTTP/2", true, ""}, {"HTTP/2, a body", true, "body"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			hc := c.http(s, 80, tt.h2)
			w.eventually("the service is served", func() bool {
				return get(t.Context(), hc, "GET", "/").status == 200 && w.condition("DestinationRule", "order-service") != ""
			})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var wg sync.WaitGroup
			wg.Go(func() {
				req, _ := http.NewRequestWithContext(ctx, "POST", "http://orders.shop/wait", strings.NewReader(tt.body))
				if resp, err := hc.Do(req); err == nil {
					resp.Body.Close()
					t.Errorf("an answer: %+v", resp)
				}
			})
			defer wg.Wait()
			<-begun
			cancel()
			select {
			case <-gone:
			case <-time.After(patience):
				t.Fatal("the application still works for a client that has gone")
			}
			w.wantRecord(map[string]string{"path": "/wait", "flags": "DC", "status": "499"})
			if a := get(t.Context(), hc, "GET", "/"); a.status != 200 {
				t.Errorf("the next client: %+v", a)
			}
		})
	}
}

// A client may send several requests and end its side behind them, as long as one
// follows: what is under way then has somebody who waits.
func TestRequestsInAdvance(t *testing.T) {
	w := newWorld(t)
	var seen atomic.Int64
	s := w.service("orders", "{name: http, port: 80, targetPort: 8080}", 1, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		seen.Add(1)
		if r.Context().Err() == nil {
			io.WriteString(rw, r.URL.Path)
		}
	}))
	c := w.client("web")
	w.eventually("the service is served", func() bool { return get(t.Context(), c.http(s, 80, false), "GET", "/").status == 200 })
	st, err := c.open(t.Context(), fmt.Sprintf("%s:80", s.vip))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	io.WriteString(st, "GET /1 HTTP/1.1\r\nHost: orders\r\n\r\nPOST /2 HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\nGET /3 HTTP/1.1\r\nHost: orders\r\n\r\n")
	in := bufio.NewReader(st)
	for _, want := range []string{"/1", "/2", "/3"} {
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(resp.Body); err != nil || string(got) != want {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
}

// A client that does not read its answer keeps no place longer than its route's timeout.
func TestClientThatDoesNotRead(t *testing.T) {
	w := newWorldIn(t, "production")
	large := make([]byte, 1<<20)
	s := orderService(w, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		for i := 0; r.URL.Path == "/large" && i < 64; i++ {
			if _, err := rw.Write(large); err != nil {
				return
			}
		}
	}))
	w.apply("rule", `
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: order-service, namespace: production}
spec: {host: order-service, trafficPolicy: {connectionPool: {http: {http2MaxRequests: 2}}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: order-service, namespace: production}
spec: {hosts: [order-service], http: [{timeout: 500ms, route: [{destination: {host: order-service}}]}]}
`)
	c := w.client("web")
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("http2=%v", h2), func(t *testing.T) {
			w.eventually("the rules are known", func() bool {
				return get(t.Context(), c.http(s, 80, false), "GET", "/").status == 200 && w.condition("DestinationRule", "order-service") != "" && w.condition("VirtualService", "order-service") != ""
			})
			hc := c.http(s, 80, h2)
			for range 2 {
				req, _ := http.NewRequestWithContext(t.Context(), "GET", "http://orders.shop/large", nil)
				resp, err := hc.Do(req)
				if err != nil || resp.StatusCode != 200 {
					t.Fatalf("%v %v", resp, err)
				}
				defer resp.Body.Close() // until then nobody reads it
			}
			w.eventually("both places are free", func() bool {
				return get(t.Context(), c.http(s, 80, false), "GET", "/").status == 200
			})
		})
	}
}
