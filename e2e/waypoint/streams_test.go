package waypoint

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// calls is how many streams the pods of a service have taken in.
func (s *service) calls() (n int) {
	for _, p := range s.pods {
		p.mu.Lock()
		for _, c := range p.callers {
			n += c
		}
		p.mu.Unlock()
	}
	return n
}

// greeting is the first message of TLS by which a client asks for a server.
func greeting(t *testing.T, server string) []byte {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	done := make(chan []byte)
	go func() {
		defer close(done)
		head := make([]byte, 5)
		if _, err := io.ReadFull(b, head); err != nil {
			return
		}
		body := make([]byte, int(head[3])<<8|int(head[4]))
		io.ReadFull(b, body)
		b.Close()
		done <- append(head, body...)
	}()
	_ = tls.Client(a, &tls.Config{ServerName: server}).HandshakeContext(t.Context())
	return <-done
}

// exchangeBytes sends bytes to a port and reads as many back; false when the
// connection broke off.
func exchangeBytes(ctx context.Context, c *client, s *service, port int, content []byte) bool {
	stream, err := c.open(ctx, fmt.Sprintf("%s:%d", s.vip, port))
	if err != nil {
		return false
	}
	defer stream.Close()
	stream.SetDeadline(time.Now().Add(patience))
	if _, err := stream.Write(content); err != nil {
		return false
	}
	back := make([]byte, len(content))
	_, err = io.ReadFull(stream, back)
	return err == nil && bytes.Equal(back, content)
}

// TCPRoute: connections by weight, a share without a backend is refused, and
// policies about connections still count.
func TestTCPRoute(t *testing.T) {
	w := newWorld(t)
	s := w.service("db", "{name: tcp, port: 90, targetPort: 8080}", 1, nil)
	v1 := w.service("db1", "{name: tcp, port: 90, targetPort: 8080}", 1, nil)
	v2 := w.service("db2", "{name: tcp, port: 90, targetPort: 8080}", 1, nil)
	c, other := w.client("web"), w.client("other")
	w.eventually("the service is served", func() bool { return exchangeBytes(t.Context(), c, s, 90, []byte("x")) })
	route := func(backends string) string {
		return "apiVersion: gateway.networking.k8s.io/v1\nkind: TCPRoute\nmetadata: {name: db, namespace: shop}\nspec: {parentRefs: [{group: '', kind: Service, name: db}], rules: [{backendRefs: [" + backends + "]}]}"
	}
	w.apply("route", route("{name: db1, port: 90, weight: 80}, {name: db2, port: 90, weight: 20}"))
	before := 0
	w.eventually("the route is in force", func() bool {
		before = v1.calls() + v2.calls()
		return exchangeBytes(t.Context(), c, s, 90, []byte("GET / HTTP/1.1\r\n\r\n")) && before > 0
	})
	one := v1.calls()
	before = one + v2.calls()
	for range 500 {
		if !exchangeBytes(t.Context(), c, s, 90, []byte("hello")) {
			t.Fatal("a connection broke off")
		}
	}
	if n, all := v1.calls()-one, v1.calls()+v2.calls()-before; all != 500 || n < 350 || n > 450 {
		t.Errorf("of %d connections %d went to the first, want 500 and 80 %%", all, n)
	}
	w.wantRecord(map[string]string{"route": "TCPRoute shop/db[0]"})

	w.apply("route", route("{name: db1, port: 90, weight: 1}, {name: nothing, port: 90, weight: 1}"))
	good, bad := 0, 0
	w.eventually("half is refused", func() bool {
		good, bad = 0, 0
		for range 40 {
			if exchangeBytes(t.Context(), c, s, 90, []byte("hello")) {
				good++
			} else {
				bad++
			}
		}
		return good > 8 && bad > 8
	})
	w.apply("route", route("{name: db1, port: 90}"))
	w.eventually("nothing is refused", func() bool {
		for range 20 {
			if !exchangeBytes(t.Context(), other, s, 90, []byte("x")) {
				return false
			}
		}
		return true
	})
	w.apply("policy", "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: db, namespace: shop}\nspec: {targetRefs: [{group: '', kind: Service, name: db}], rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]}]}")
	w.eventually("the other one is refused", func() bool { return !exchangeBytes(t.Context(), other, s, 90, []byte("x")) })
	w.eventually("the first one is not", func() bool { return exchangeBytes(t.Context(), c, s, 90, []byte("x")) })
	w.wantRecord(map[string]string{"flags": "DENY", "src.identity": "spiffe://cluster.local/ns/shop/sa/other"})
}

// TLSRoute: the server that a client asks for decides, its bytes pass as they are,
// and who asks for none that is there is refused.
func TestTLSRoute(t *testing.T) {
	w := newWorld(t)
	s := w.service("edge", "{name: tls, port: 443, targetPort: 8080}", 1, nil)
	a := w.service("a", "{name: tls, port: 443, targetPort: 8080}", 1, nil)
	b := w.service("b", "{name: tls, port: 443, targetPort: 8080}", 1, nil)
	route := func(name, hosts, backend string) string {
		return "apiVersion: gateway.networking.k8s.io/v1\nkind: TLSRoute\nmetadata: {name: " + name + ", namespace: shop}\nspec: {hostnames: [" + hosts + "], parentRefs: [{group: '', kind: Service, name: edge, port: 443}], rules: [{backendRefs: [{name: " + backend + ", port: 443}]}]}"
	}
	w.apply("route", route("a", "a.example", "a")+"\n---\n"+route("wild", `"*.example"`, "b"))
	c := w.client("web")
	w.eventually("the routes are in force", func() bool {
		before := a.calls()
		return exchangeBytes(t.Context(), c, s, 443, greeting(t, "a.example")) && a.calls() > before
	})
	for _, tt := range []struct {
		name    string
		content []byte
		want    *service
	}{
		{"its name", greeting(t, "A.example"), a},
		{"a name below", greeting(t, "x.y.example"), b},
		{"no name of a route", greeting(t, "other.test"), nil},
		{"no TLS", []byte("GET / HTTP/1.1\r\n\r\n"), nil},
	} {
		was := map[*service]int{a: a.calls(), b: b.calls(), s: s.calls()}
		ok := exchangeBytes(t.Context(), c, s, 443, tt.content)
		if ok != (tt.want != nil) {
			t.Errorf("%s: answered %v", tt.name, ok)
		}
		for x, n := range was {
			if got := x.calls() - n; got != 0 && x != tt.want || got == 0 && x == tt.want {
				t.Errorf("%s: %d connections to %s", tt.name, got, x.name)
			}
		}
	}
	w.wantRecord(map[string]string{"flags": "NR"})
}

// GRPCRoute: methods of services, and a share for each backend; what leads nowhere
// is unavailable.
func TestGRPCRoute(t *testing.T) {
	w := newWorld(t)
	app := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "application/grpc")
		rw.Header().Set("Trailer:Grpc-Status", "0")
	})
	s := w.service("orders", "{name: grpc, port: 80, targetPort: 8080}", 1, app)
	w.service("v1", "{name: grpc, port: 80, targetPort: 8080}", 1, app)
	w.service("v2", "{name: grpc, port: 80, targetPort: 8080}", 1, app)
	w.apply("route", `
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: orders, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: orders}]
  rules:
  - matches: [{method: {service: shop.Orders, method: Get}}]
    filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-set, value: a}]}}]
    backendRefs: [{name: v2, port: 80}]
  - matches: [{method: {service: shop.Orders}}]
    backendRefs: [{name: v1, port: 80, weight: 70}, {name: v2, port: 80, weight: 30}]
  - matches: [{method: {service: shop.Gone}}]
    backendRefs: [{name: nothing, port: 80}]
`)
	hc := w.client("web").http(s, 80, true)
	call := func(path string) answer { return get(t.Context(), hc, "POST", path, "Content-Type: application/grpc") }
	w.eventually("the route is in force", func() bool { return call("/shop.Orders/Get").pod() == "v2-0" })
	if a := call("/shop.Orders/Get"); a.header.Get("X-Set") != "a" {
		t.Errorf("filter: %+v", a)
	}
	count := map[string]int{}
	for range 500 {
		count[call("/shop.Orders/Put").pod()]++
	}
	if n := count["v1-0"]; n < 300 || n > 400 || n+count["v2-0"] != 500 {
		t.Errorf("of 500: %v, want 70 %% at v1", count)
	}
	if a := call("/shop.Gone/Get"); a.status != 200 || a.header.Get("Grpc-Status") != "14" {
		t.Errorf("no backend: %+v", a)
	}
	if a := call("/shop.Other/Get"); a.status != 200 || a.header.Get("Grpc-Status") != "12" {
		t.Errorf("no route: %+v", a)
	}
}
