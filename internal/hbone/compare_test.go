//lint:file-ignore SA1019 the comparator is the transport and the server of x/net/http2, whatever they are called

package hbone

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// twoHops is a chain client TCP -> outbound proxy -> TLS on loopback -> inbound
// proxy -> application TCP; entry is where clients connect.
type twoHops struct {
	entry string
	cpu   func() time.Duration // used by the proxies; nil: they share our process
}

// ourHops is the chain made of this package.
func ourHops(b testing.TB, app string) twoHops {
	n := newNode(b, nodeConfig{server: ServerConfig{Handle: proxyTo}})
	return twoHops{entry: n.entry(app, nil)}
}

// theirs is a client and a server of x/net/http2, with frames of 1 MiB.
type theirs struct {
	transport *http2.Transport
	addr      string
}

// newTheirs starts a server with handle.
func newTheirs(b testing.TB, certs *testCerts, handle http.HandlerFunc) *theirs {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	conf, _ := certs.server(b.Context())
	srv := &http2.Server{
		MaxConcurrentStreams: 2000, MaxReadFrameSize: maxFrame,
		MaxUploadBufferPerConnection: connWindow, MaxUploadBufferPerStream: streamWindow,
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	wg.Go(func() {
		for {
			raw, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[raw] = true
			mu.Unlock()
			wg.Go(func() {
				tc := tls.Server(raw, conf)
				if tc.Handshake() == nil {
					srv.ServeConn(tc, &http2.ServeConnOpts{Handler: handle})
				}
				raw.Close()
			})
		}
	})
	h := &theirs{transport: theirTransport(b, certs), addr: ln.Addr().String()}
	b.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return h
}

// theirTransport is the client.
func theirTransport(b testing.TB, certs *testCerts) *http2.Transport {
	conf, _ := certs.client(b.Context())
	t := &http2.Transport{TLSClientConfig: conf, MaxReadFrameSize: maxFrame}
	b.Cleanup(t.CloseIdleConnections)
	return t
}

// open sends a CONNECT and returns the two directions.
func (h *theirs) open(ctx context.Context, app string) (*io.PipeWriter, *http.Response, error) {
	pr, pw := io.Pipe()
	req := (&http.Request{
		Method: http.MethodConnect, URL: &url.URL{Scheme: "https", Host: h.addr}, Host: app, Body: pr,
	}).WithContext(ctx)
	res, err := h.transport.RoundTrip(req)
	return pw, res, err
}

// theirHops is the same chain made of the client and the server of
// x/net/http2, with frames of 1 MiB and buffers of 256 KiB.
func theirHops(b testing.TB, app string) twoHops {
	h := newTheirs(b, newCerts(b), pooled.inbound)
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.Context()))
	entry := appListener(b, func(c *net.TCPConn) { pooled.outbound(ctx, c, h, app) })
	b.Cleanup(cancel)
	return twoHops{entry: entry}
}

// copier makes the buffers of 256 KiB of the comparator: fresh ones for each
// direction, as a program does that thinks no further, or pooled ones.
type copier struct{ pool *sync.Pool }

// pooled and fresh are the two.
var (
	pooled = copier{&sync.Pool{New: func() any { b := make([]byte, 256<<10); return &b }}}
	fresh  = copier{}
)

// copy copies without the shortcuts of io.Copy.
func (c copier) copy(dst io.Writer, src io.Reader) {
	var buf []byte
	if c.pool == nil {
		buf = make([]byte, 256<<10)
	} else {
		p := c.pool.Get().(*[]byte)
		defer c.pool.Put(p)
		buf = *p
	}
	io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, buf)
}

// flushWriter flushes after each write.
type flushWriter struct {
	w http.ResponseWriter
	f http.Flusher
}

func (f flushWriter) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	f.f.Flush()
	return n, err
}

// inbound serves a CONNECT.
func (c copier) inbound(w http.ResponseWriter, r *http.Request) {
	app, err := net.Dial("tcp", r.Host)
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	defer app.Close()
	f := w.(http.Flusher)
	w.WriteHeader(http.StatusOK)
	f.Flush()
	done := make(chan struct{})
	go func() {
		c.copy(app, r.Body)
		app.(*net.TCPConn).CloseWrite()
		close(done)
	}()
	c.copy(flushWriter{w, f}, app)
	<-done
}

// outbound carries one connection of a client.
func (cp copier) outbound(ctx context.Context, c *net.TCPConn, h *theirs, app string) {
	w, res, err := h.open(ctx, app)
	if err != nil {
		return
	}
	defer res.Body.Close()
	done := make(chan struct{})
	go func() {
		cp.copy(w, c)
		w.Close()
		close(done)
	}()
	cp.copy(c, res.Body)
	c.CloseWrite()
	<-done
}
