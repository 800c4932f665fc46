package waypoint

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// counter is what a pipe counts with.
type counter struct{ n atomic.Uint64 }

// echo says what arrived.
var echo = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
	http.NewResponseController(rw).EnableFullDuplex() // the echo begins before the request has ended
	rw.Header().Set("Trailer", "X-Sum")
	rw.Header().Set("X-Path", r.RequestURI)
	rw.Header().Set("X-Host", r.Host)
	rw.Header().Set("X-Proto", r.Proto)
	rw.Header().Set("X-Xfcc", r.Header.Get("X-Forwarded-Client-Cert"))
	rw.WriteHeader(http.StatusEarlyHints)
	if r.Context().Err() != nil {
		return // a server whose client has gone may still be writing the header of these hints
	}
	rw.Header()["X-Many"] = r.Header["X-Many"]
	sum := sha256.New()
	n, _ := io.Copy(io.MultiWriter(rw, sum), r.Body)
	if n == 0 {
		io.WriteString(rw, "hello")
	}
	rw.Header().Set("X-Sum", fmt.Sprintf("%x", sum.Sum(nil)))
})

// A request goes through whole: path, host, repeated headers, an informational
// answer, a large body both ways, and trailers.
func TestRequestsGoThroughWhole(t *testing.T) {
	w := newWorld(t)
	s := w.service("orders", "{name: http, port: 80, targetPort: 8080}", 1, echo)
	c := w.client("web")
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("http2=%v", h2), func(t *testing.T) {
			hc := c.http(s, 80, h2)
			w.eventually("the service is served", func() bool { return get(t.Context(), hc, "GET", "/").status == 200 })
			hints := 0
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
				Got1xxResponse: func(int, textproto.MIMEHeader) error { hints++; return nil },
			})
			a := get(ctx, hc, "GET", "/a/./b//c?q=/../%2f", "Host: Orders.shop:80", "X-Many: 1", "X-Many: 2", "X-Forwarded-Client-Cert: By=me")
			if a.err != nil || a.status != 200 || a.body != "hello" || a.header.Get("X-Path") != "/a/b/c?q=/../%2f" || a.header.Get("X-Host") != "Orders.shop:80" {
				t.Errorf("answer %+v", a)
			}
			if a.header.Get("X-Xfcc") != "" {
				t.Error("a client's word about its certificate reached the application")
			}
			if hints != 1 {
				t.Errorf("%d informational answers, want 1", hints)
			}
			body := bytes.Repeat([]byte("0123456789abcdef"), 1<<17) // 2 MiB
			for _, known := range []bool{true, false} {
				var r io.Reader = bytes.NewReader(body)
				if !known {
					r = io.MultiReader(r) // of unknown length
				}
				req, _ := http.NewRequestWithContext(t.Context(), "POST", "http://orders.shop/up", r)
				resp, err := hc.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || !bytes.Equal(got, body) || resp.Trailer.Get("X-Sum") != fmt.Sprintf("%x", sha256.Sum256(body)) {
					t.Errorf("length known %v: %d bytes of %d came back, %v, trailer %v", known, len(got), len(body), err, resp.Trailer)
				}
			}
		})
	}
	s.pods[0].mu.Lock()
	defer s.pods[0].mu.Unlock()
	if n := len(s.pods[0].callers); n != 1 || s.pods[0].callers["cluster.local/ns/shop/sa/waypoint"] == 0 {
		t.Errorf("the endpoint saw %v", s.pods[0].callers)
	}
	w.wantRecord(map[string]string{"src.identity": "spiffe://cluster.local/ns/shop/sa/web", "src.workload": "caller-web", "src.namespace": "shop", "dst.workload": "orders-0", "status": "200"})
}

// A change of protocol is passed on, and bytes after it, half-close included.
func TestUpgrade(t *testing.T) {
	w := newWorld(t)
	s := w.service("orders", "{name: http, port: 80, targetPort: 8080}", 1, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		c, buf, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+r.Header.Get("Upgrade")+"\r\n\r\nfirst\n")
		io.Copy(c, buf)
		io.WriteString(c, "last\n")
	}))
	c := w.client("web")
	w.eventually("the service is served", func() bool {
		st, err := c.open(t.Context(), fmt.Sprintf("%s:80", s.vip))
		if err != nil {
			return false
		}
		st.Close()
		return true
	})
	st, err := c.open(t.Context(), fmt.Sprintf("%s:80", s.vip))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	io.WriteString(st, "GET /chat HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	in := bufio.NewReader(st)
	resp, err := http.ReadResponse(in, nil)
	if err != nil || resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "websocket" {
		t.Fatalf("%v %v", resp, err)
	}
	io.WriteString(st, "ping\n")
	st.CloseWrite()
	got, err := io.ReadAll(in)
	if err != nil || string(got) != "first\nping\nlast\n" {
		t.Errorf("after the change: %q, %v", got, err)
	}
}

// What is not HTTP goes through as it is: by the name of the port, or because it
// does not look like HTTP, or because nobody says anything first.
func TestBytes(t *testing.T) {
	w := newWorld(t)
	s := w.service("orders", "{name: tcp-db, port: 80, targetPort: 8080}, {name: odd, port: 81, targetPort: 8080}", 1, nil)
	c := w.client("web")
	for _, tt := range []struct {
		name string
		port int
		say  string
	}{
		{"named tcp, although it looks like HTTP", 80, "GET / HTTP/1.1\r\n\r\n"},
		{"nothing of HTTP", 81, "\x16\x03\x01 hello"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []byte
			w.eventually("bytes come back", func() bool {
				st, err := c.open(t.Context(), fmt.Sprintf("%s:%d", s.vip, tt.port))
				if err != nil {
					return false
				}
				defer st.Close()
				io.WriteString(st, tt.say)
				st.CloseWrite()
				got, err = io.ReadAll(st)
				return err == nil
			})
			if string(got) != tt.say {
				t.Errorf("%q came back", got)
			}
		})
	}
}

// Only what is bound to this waypoint is served.
func TestWhatIsNotServed(t *testing.T) {
	w := newWorld(t)
	s := w.service("orders", "{name: http, port: 80, targetPort: 8080}", 1, echo)
	free := w.ip()
	w.apply("free", fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: free, namespace: shop, labels: {istio.io/use-waypoint: none}}\nspec: {clusterIP: %s, selector: {app: orders}, ports: [{name: http, port: 80, targetPort: 8080}]}\n", free))
	c := w.client("web")
	w.eventually("the service is served", func() bool { return get(t.Context(), c.http(s, 80, false), "GET", "/").status == 200 })
	for name, authority := range map[string]string{
		"a service that is bound to none": fmt.Sprintf("%s:80", free), "a port that the service has not": fmt.Sprintf("%s:81", s.vip),
		"a pod": fmt.Sprintf("%s:8080", s.pods[0].ip), "nobody's address": "10.255.255.255:80", "our own port": w.w.Addr("stats").String(),
		"a name that nobody has": "nothing.shop.svc.cluster.local:80",
	} {
		if st, err := c.open(t.Context(), authority); err == nil {
			st.Close()
			t.Errorf("%s (%s) is served", name, authority)
		} else if !strings.Contains(err.Error(), "503") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.open(t.Context(), "orders.shop.svc.cluster.local:80"); err != nil {
		t.Errorf("by its name: %v", err)
	}
}

// Streams of a call go both ways at once, and the end of one is passed on. The
// answer begins before the client has said anything but the header, also on a
// connection where nothing else waits to be written.
func TestBothWaysAtOnce(t *testing.T) {
	w := newWorld(t)
	s := w.service("orders", "{name: grpc, port: 80, targetPort: 8080}", 1, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.WriteHeader(200)
		http.NewResponseController(rw).Flush()
		in := bufio.NewReader(r.Body)
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			fmt.Fprintf(rw, "re: %s", line)
			http.NewResponseController(rw).Flush()
		}
	}))
	hc := w.client("web").http(s, 80, true)
	w.eventually("the service is served", func() bool { return get(t.Context(), hc, "GET", "/").status == 200 })
	body, out := io.Pipe()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "POST", "http://orders.shop/", body)
	resp, err := hc.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	in := bufio.NewReader(resp.Body)
	for i := range 100 {
		fmt.Fprintf(out, "line %d\n", i)
		if got, err := in.ReadString('\n'); err != nil || got != fmt.Sprintf("re: line %d\n", i) {
			t.Fatalf("%q, %v", got, err)
		}
	}
	out.Close()
	if rest, err := io.ReadAll(in); err != nil || len(rest) > 0 {
		t.Errorf("after the end: %q, %v", rest, err)
	}
}

// When the waypoint stops, requests under way end well, and clients are told to go
// elsewhere.
func TestStop(t *testing.T) {
	w := newWorld(t)
	begun, release := make(chan struct{}, 10), make(chan struct{})
	s := w.service("orders", "{name: http, port: 80, targetPort: 8080}", 1, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			begun <- struct{}{}
			<-release
		}
		io.WriteString(rw, "done")
	}))
	c := w.client("web")
	answers := make(chan answer, 2)
	for _, h2 := range []bool{false, true} {
		hc := c.http(s, 80, h2)
		w.eventually("the service is served", func() bool { return get(t.Context(), hc, "GET", "/").status == 200 })
		w.background("request", func(ctx context.Context) { answers <- get(ctx, hc, "GET", "/wait") })
		<-begun
	}
	// A client of HTTP/1.1 keeps a connection, and does not know when it sends.
	kept, err := c.open(t.Context(), fmt.Sprintf("%s:80", s.vip))
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	in := bufio.NewReader(kept)
	ask := func() (*http.Response, error) {
		io.WriteString(kept, "GET / HTTP/1.1\r\nHost: orders\r\n\r\n")
		resp, err := http.ReadResponse(in, nil)
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		return resp, err
	}
	if _, err := ask(); err != nil {
		t.Fatal(err)
	}
	w.stop()
	w.eventually("it says that it is not ready", func() bool { return !w.w.Ready() })
	if resp, err := ask(); err != nil || resp.StatusCode != 200 || !resp.Close {
		t.Errorf("a request on a connection that was kept: %+v, %v; want an answer, and that it was the last", resp, err)
	}
	close(release)
	for range 2 {
		if a := <-answers; a.err != nil || a.body != "done" {
			t.Errorf("a request under way: %+v", a)
		}
	}
	select {
	case <-w.done:
	case <-time.After(patience):
		t.Fatal("the waypoint does not end")
	}
}
