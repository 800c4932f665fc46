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

	"golang.org/x/net/http2"
)

// twoHops is a chain client TCP -> outbound proxy -> TLS on loopback -> inbound
// proxy -> application TCP; entry is where clients connect.
type twoHops struct {
	entry string
	warm  func() // makes the tunnel
}

// ourHops is the chain made of this package.
func ourHops(b testing.TB, app string) twoHops {
	n := newNode(b, nodeConfig{server: ServerConfig{Handle: proxyTo}})
	return twoHops{entry: n.entry(app, nil)}
}

// theirHops is the same chain made of the client and the server of
// x/net/http2, with frames of 1 MiB and buffers of 256 KiB.
func theirHops(b testing.TB, app string) twoHops {
	certs := newCerts(b)
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
					srv.ServeConn(tc, &http2.ServeConnOpts{Handler: http.HandlerFunc(theirInbound)})
				}
				raw.Close()
			})
		}
	})
	clientConf, _ := certs.client(b.Context())
	transport := &http2.Transport{TLSClientConfig: clientConf, MaxReadFrameSize: maxFrame}
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.Context()))
	entry := appListener(b, func(c *net.TCPConn) { theirOutbound(ctx, c, transport, ln.Addr().String(), app) })
	b.Cleanup(func() {
		cancel()
		ln.Close()
		transport.CloseIdleConnections()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return twoHops{entry: entry}
}

// their256K are the buffers of the comparator.
var their256K = sync.Pool{New: func() any { b := make([]byte, 256<<10); return &b }}

// theirCopy copies without the shortcuts of io.Copy.
func theirCopy(dst io.Writer, src io.Reader) {
	buf := their256K.Get().(*[]byte)
	defer their256K.Put(buf)
	io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, *buf)
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

// theirInbound serves a CONNECT.
func theirInbound(w http.ResponseWriter, r *http.Request) {
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
		theirCopy(app, r.Body)
		app.(*net.TCPConn).CloseWrite()
		close(done)
	}()
	theirCopy(flushWriter{w, f}, app)
	<-done
}

// theirOutbound carries one connection of a client.
func theirOutbound(ctx context.Context, c *net.TCPConn, transport *http2.Transport, proxy, app string) {
	pr, pw := io.Pipe()
	req := (&http.Request{
		Method: http.MethodConnect, URL: &url.URL{Scheme: "https", Host: proxy}, Host: app, Body: pr,
	}).WithContext(ctx)
	res, err := transport.RoundTrip(req)
	if err != nil {
		return
	}
	defer res.Body.Close()
	done := make(chan struct{})
	go func() {
		theirCopy(pw, c)
		pw.Close()
		close(done)
	}()
	theirCopy(c, res.Body)
	c.CloseWrite()
	<-done
}
