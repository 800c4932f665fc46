//lint:file-ignore SA1019 x/net/http2 is the other end here, and is not deprecated before Go 1.27.

package http2

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/http2"

	"github.com/ambit-mesh/ambit/waypoint/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair is a TCP connection over loopback.
func pair(t testing.TB) (a, b net.Conn) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var wg sync.WaitGroup
	wg.Go(func() { b, err = ln.Accept() })
	a, dialErr := net.Dial("tcp", ln.Addr().String())
	wg.Wait()
	if err := errors.Join(err, dialErr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// echo answers with what was asked.
func echo(s *Stream) {
	req := s.Request()
	var fields message.Fields
	fields.Add("X-Method", req.Method)
	fields.Add("x-path", req.Target.String())
	fields.Add("x-host", req.Host)
	for v := range req.Fields.Values("x-many") {
		fields.Add("x-many", v)
	}
	if c := req.Fields.Get("cookie"); c != "" {
		fields.Add("x-cookie", c)
	}
	resp := &message.Response{Status: 200, Fields: fields, Length: message.Unknown}
	if req.Body == nil {
		resp.Length = 0
		s.Respond(resp, true)
		s.Flush()
		return
	}
	s.Respond(&message.Response{Status: 103, Fields: message.Fields{{Name: "link", Value: "x"}}}, false)
	s.Respond(resp, false)
	s.Flush()
	buf := make([]byte, 8<<10)
	for {
		n, err := req.Body.Read(buf)
		if werr := s.Write(buf[:n], false); werr != nil {
			return
		}
		if req.Body.Buffered() == 0 || err != nil {
			s.Flush()
		}
		if err == io.EOF {
			s.Trailers(append(message.Fields{{Name: "x-sum", Value: "1"}}, req.Body.Trailer()...))
			s.Flush()
			return
		}
		if err != nil {
			return
		}
	}
}

// serve runs our server side on a connection until the test ends.
func serve(t testing.TB, c net.Conn, handle func(*Stream)) *Conn {
	x := NewServer(c, handle)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := x.Serve(nil); err != nil {
			t.Logf("server: %v", err)
		}
	})
	t.Cleanup(func() { x.Close(); wg.Wait() })
	return x
}

// A client of others, against our server.
func theirClient(t testing.TB, handle func(*Stream)) *http2.ClientConn {
	a, b := pair(t)
	serve(t, b, handle)
	tr := &http2.Transport{AllowHTTP: true, DialTLSContext: func(context.Context, string, string, *tls.Config) (net.Conn, error) { return nil, errors.New("no") }}
	cc, err := tr.NewClientConn(a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return cc
}

func TestServerWithAnotherClient(t *testing.T) {
	cc := theirClient(t, echo)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			body := bytes.Repeat([]byte{byte('a' + i)}, i*300_000)
			req, _ := http.NewRequestWithContext(t.Context(), "PUT", fmt.Sprintf("http://Shop:80/a/../b/%d?q", i), io.NopCloser(bytes.NewReader(body)))
			req.Header["X-Many"] = []string{"1", "2"}
			req.Header["Cookie"] = []string{"a=b; c=d"}
			req.Trailer = http.Header{"X-Tail": {"t"}}
			resp, err := cc.RoundTrip(req)
			if err != nil {
				t.Error(err)
				return
			}
			got, err := io.ReadAll(resp.Body)
			if err != nil || !bytes.Equal(got, body) {
				t.Errorf("%d bytes of %d came back, %v", len(got), len(body), err)
			}
			if h := resp.Header; h.Get("X-Path") != fmt.Sprintf("/b/%d?q", i) || h.Get("X-Host") != "shop" || len(h["X-Many"]) != 2 || h.Get("X-Cookie") != "a=b; c=d" {
				t.Errorf("header %v", h)
			}
			if resp.Trailer.Get("X-Sum") != "1" || resp.Trailer.Get("X-Tail") != "t" {
				t.Errorf("trailer %v", resp.Trailer)
			}
		})
	}
	wg.Wait()
}

// Our client, against a server of others.
func TestClientWithAnotherServer(t *testing.T) {
	a, b := pair(t)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer a.Close()
	wg.Go(func() {
		(&http2.Server{}).ServeConn(b, &http2.ServeConnOpts{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Trailer", "X-Sum")
			w.Header().Set("X-Path", r.URL.String())
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(201)
			io.Copy(w, r.Body)
			w.Header().Set("X-Sum", "1"+r.Trailer.Get("X-Tail"))
		})})
	})
	c := NewClient(a)
	wg.Go(func() { c.Serve(nil) })
	for _, size := range []int{0, 1, 1 << 20} {
		body := bytes.Repeat([]byte("x"), size)
		if !c.Reserve(100) {
			t.Fatal("no place")
		}
		s, err := c.Open(&message.Request{Method: "POST", Authority: "shop", Target: message.Target{Path: "/p"}, Length: message.Unknown, Fields: message.Fields{{Name: "Trailer", Value: "X-Tail"}}}, false)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			s.Write(body, false)
			s.Trailers(message.Fields{{Name: "X-Tail", Value: "t"}})
			s.Flush()
		})
		var resp *message.Response
		for informational := 0; ; informational++ {
			if resp, err = s.Response(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !resp.Informational() {
				if informational != 1 {
					t.Errorf("%d informational answers", informational)
				}
				break
			}
		}
		got, err := readAll(resp.Body)
		if err != nil || !bytes.Equal(got, body) || resp.Status != 201 || resp.Fields.Get("x-path") != "/p" || resp.Body.Trailer().Get("x-sum") != "1t" {
			t.Errorf("size %d: %d bytes, %v, %+v, trailer %v", size, len(got), err, resp, resp.Body.Trailer())
		}
		s.Reset(http2.ErrCodeCancel)
	}
}

// readAll reads a body to its end.
func readAll(b message.Body) ([]byte, error) {
	var all []byte
	buf := make([]byte, 1000)
	for {
		n, err := b.Read(buf)
		all = append(all, buf[:n]...)
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
	}
}

// raw is the other end of a connection, frame by frame.
type raw struct {
	*http2.Framer
	c net.Conn
}

// rawClient speaks to our server by hand.
func rawClient(t *testing.T, handle func(*Stream)) *raw {
	a, b := pair(t)
	serve(t, b, handle)
	io.WriteString(a, http2.ClientPreface)
	r := &raw{Framer: http2.NewFramer(a, a), c: a}
	r.WriteSettings()
	return r
}

// wantGoAway reads until the connection is ended and says with which code.
func (r *raw) goAway() http2.ErrCode {
	r.c.SetReadDeadline(time.Now().Add(10 * time.Second))
	for {
		f, err := r.ReadFrame()
		if err != nil {
			return http2.ErrCode(999)
		}
		if g, ok := f.(*http2.GoAwayFrame); ok {
			return g.ErrCode
		}
	}
}

// Attacks and mistakes of peers end with a reason, not with memory or CPU.
func TestPeersThatBreakRules(t *testing.T) {
	// A request: :method GET, :scheme http, :path /, then :authority a.
	get := []byte{0x82, 0x86, 0x84, 0x01, 1, 'a'}
	headers := func(r *raw, id uint32, block []byte, end bool) {
		r.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndStream: end, EndHeaders: true})
	}
	wait := func(s *Stream) { readAll(s) }
	tests := []struct {
		name   string
		attack func(r *raw)
		want   http2.ErrCode
	}{
		{"rapid reset", func(r *raw) {
			for id := uint32(1); id < 40000; id += 2 {
				headers(r, id, get, false)
				if r.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
					return
				}
			}
		}, http2.ErrCodeEnhanceYourCalm},
		{"flood of PING", func(r *raw) {
			for range 10000 {
				if r.WritePing(false, [8]byte{}) != nil {
					return
				}
			}
		}, http2.ErrCodeEnhanceYourCalm},
		{"flood of SETTINGS", func(r *raw) {
			for range 10000 {
				if r.WriteSettings() != nil {
					return
				}
			}
		}, http2.ErrCodeEnhanceYourCalm},
		{"header without an end", func(r *raw) {
			r.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: get})
			for range 100 {
				if r.WriteContinuation(1, false, bytes.Repeat([]byte{0x82}, 1000)) != nil {
					return
				}
			}
		}, http2.ErrCodeEnhanceYourCalm},
		{"header bomb", func(r *raw) {
			block := append(bytes.Clone(get), 0x40, 1, 'x', 0x7f, 0x81, 0x1e)
			block = append(block, bytes.Repeat([]byte("y"), 4000)...)
			block = append(block, bytes.Repeat([]byte{0xbe}, 1000)...)
			headers(r, 1, block, true)
		}, http2.ErrCodeEnhanceYourCalm},
		{"empty DATA", func(r *raw) {
			headers(r, 1, get, false)
			for range 10000 {
				if r.WriteData(1, false, nil) != nil {
					return
				}
			}
		}, http2.ErrCodeEnhanceYourCalm},
		{"more than the window", func(r *raw) {
			headers(r, 1, get, false)
			for range 20 {
				if r.WriteData(1, false, make([]byte, maxFrame)) != nil {
					return
				}
			}
		}, http2.ErrCodeFlowControl},
		{"even stream", func(r *raw) { headers(r, 2, get, true) }, http2.ErrCodeProtocol},
		{"interrupted header", func(r *raw) {
			r.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: get})
			r.WritePing(false, [8]byte{})
		}, http2.ErrCodeProtocol},
		{"frame too large", func(r *raw) {
			headers(r, 1, get, false)
			r.WriteRawFrame(http2.FrameData, 0, 1, make([]byte, maxFrame+1))
		}, http2.ErrCodeFrameSize},
		{"push promise", func(r *raw) {
			r.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, BlockFragment: get, EndHeaders: true})
		}, http2.ErrCodeProtocol},
		{"DATA of no stream", func(r *raw) { r.WriteRawFrame(http2.FrameData, 0, 7, []byte("x")) }, http2.ErrCodeProtocol},
		{"block that cannot be decoded", func(r *raw) { headers(r, 1, []byte{0xff, 0xff, 0xff, 0xff, 0xff}, true) }, http2.ErrCodeCompression},
		{"window of zero", func(r *raw) { r.WriteRawFrame(http2.FrameWindowUpdate, 0, 0, make([]byte, 4)) }, http2.ErrCodeFlowControl},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			handle := wait
			if tt.name == "more than the window" {
				handle = func(s *Stream) { s.Context(t.Context()); <-s.c.done }
			}
			r := rawClient(t, handle)
			var wg sync.WaitGroup
			wg.Go(func() { tt.attack(r) })
			if got := r.goAway(); got != tt.want {
				t.Errorf("ended with %v, want %v", got, tt.want)
			}
			r.c.Close()
			wg.Wait()
		})
	}
}

// A peer that measures the path sends a PING for each answer that it has received, as
// gRPC does: however many these are, they are no flood.
func TestPingsForWhatWasReceived(t *testing.T) {
	r := rawClient(t, echo)
	var block []byte
	for _, f := range []string{":method POST", ":scheme http", ":path /", ":authority a"} {
		name, value, _ := strings.Cut(f, " ")
		block = appendRaw(block, name, value)
	}
	r.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndHeaders: true})
	r.c.SetDeadline(time.Now().Add(20 * time.Second))
	const rounds = 3000 // many times what is allowed of others
	answered := 0
	r.WriteData(1, false, []byte("x"))
	for answered < rounds {
		f, err := r.ReadFrame()
		if err != nil {
			t.Fatalf("after %d rounds: %v", answered, err)
		}
		switch f := f.(type) {
		case *http2.DataFrame:
			r.WritePing(false, [8]byte{1})
			if answered%1000 == 999 {
				r.WriteWindowUpdate(0, 1000)
				r.WriteWindowUpdate(1, 1000)
			}
		case *http2.PingFrame:
			answered++
			r.WriteData(1, false, []byte("x"))
		case *http2.GoAwayFrame:
			t.Fatalf("after %d rounds: %v", answered, f)
		}
	}
}

// Requests that do not mean one thing never reach a handler.
func TestMalformedRequestsAreRefused(t *testing.T) {
	base := ":method GET,:scheme http,:path /,:authority a"
	tests := []struct{ name, fields string }{
		{"no path", ":method GET,:scheme http,:authority a"},
		{"no authority", ":method GET,:scheme http,:path /"},
		{"two paths", base + ",:path /b"},
		{"pseudo field behind others", ":method GET,:scheme http,:path /,x y,:authority a"},
		{"name in upper case", base + ",X y"},
		{"name with a line end", base + ",x\r\ny z"},
		{"value with a line end", base + ",x y\r\nz: w"},
		{"value with a zero", base + ",x y\x00"},
		{"connection field", base + ",connection close"},
		{"transfer encoding", base + ",transfer-encoding chunked"},
		{"upgrade", base + ",upgrade h2c"},
		{"te other than trailers", base + ",te gzip"},
		{"host differs", base + ",host b"},
		{"bad length", base + ",content-length 1x"},
		{"two lengths", base + ",content-length 1,content-length 1"},
		{"length but no body", base + ",content-length 5"},
		{"path without a slash", ":method GET,:scheme http,:path x,:authority a"},
		{"path with a line end", ":method GET,:scheme http,:path /x\r\ny,:authority a"},
		{"path that goes up", ":method GET,:scheme http,:path /../x,:authority a"},
		{"method with a line end", ":method GET\r\nX,:scheme http,:path /,:authority a"},
		{"CONNECT", ":method CONNECT,:authority a"},
		{"extended CONNECT", ":method CONNECT,:protocol websocket,:scheme http,:path /,:authority a"},
		{"status in a request", base + ",:status 200"},
		{"authority with a path", ":method GET,:scheme http,:path /,:authority a/b"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := rawClient(t, func(*Stream) { t.Error("a handler was called") })
			var block []byte
			for f := range strings.SplitSeq(tt.fields, ",") {
				name, value, _ := strings.Cut(f, " ")
				if tt.name == "name with a line end" && strings.HasPrefix(f, "x\r\n") {
					name, value = "x\r\ny", "z"
				}
				block = appendRaw(block, name, value)
			}
			r.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndStream: true, EndHeaders: true})
			r.c.SetReadDeadline(time.Now().Add(10 * time.Second))
			for {
				f, err := r.ReadFrame()
				if err != nil {
					t.Fatal(err)
				}
				switch f.(type) {
				case *http2.HeadersFrame, *http2.RSTStreamFrame:
					return
				}
			}
		})
	}
}

// appendRaw encodes a field as it is.
func appendRaw(p []byte, name, value string) []byte {
	p = append(p, 0, byte(len(name)))
	p = append(p, name...)
	p = append(p, byte(len(value)))
	return append(p, value...)
}

// Drain: what is under way ends well, what comes later is refused as not looked
// at, and then the connection ends.
func TestDrain(t *testing.T) {
	a, b := pair(t)
	release := make(chan struct{})
	srv := serve(t, b, func(s *Stream) { <-release; echo(s) })
	c := NewClient(a)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { c.Serve(nil) })
	open := func() (*Stream, error) {
		if !c.Reserve(10) {
			return nil, ErrUnprocessed
		}
		s, err := c.Open(&message.Request{Method: "GET", Authority: "a", Target: message.Target{Path: "/"}}, true)
		if err == nil {
			s.Flush()
		}
		return s, err
	}
	s, err := open()
	if err != nil {
		t.Fatal(err)
	}
	for srv.streamsNow() == 0 {
		if srv.ended() {
			t.Fatal("the connection ended")
		}
	}
	srv.Drain()
	for c.Usable() {
	}
	if _, err := open(); !errors.Is(err, ErrUnprocessed) {
		t.Errorf("a request after GOAWAY: %v", err)
	}
	close(release)
	if resp, err := s.Response(t.Context()); err != nil || resp.Status != 200 {
		t.Errorf("the request under way: %v, %v", resp, err)
	}
	s.Reset(http2.ErrCodeCancel)
	<-c.Done()
}

// slowConn is a connection whose writes wait at a gate, and which tells when it is
// closed.
type slowConn struct {
	net.Conn
	gate   chan struct{}
	once   sync.Once
	closed chan struct{}
}

func (c *slowConn) Write(p []byte) (int, error) {
	<-c.gate
	return c.Conn.Write(p)
}

func (c *slowConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// The connection does not end before the last words of its last stream are out.
func TestDrainWithLastWords(t *testing.T) {
	a, b := net.Pipe()
	slow := &slowConn{Conn: b, gate: make(chan struct{}), closed: make(chan struct{})}
	x := NewServer(slow, echo)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer a.Close()
	wg.Go(func() { io.Copy(io.Discard, a) })

	x.mu.Lock()
	x.leaving, x.upTo = true, 1 // as after GOAWAY; the stream has just been removed
	x.out.add(http2.FrameData, http2.FlagDataEndStream, 1, []byte("last words"))
	x.mu.Unlock()
	x.closeIfOver() // as the farewell's timer does in this moment
	wg.Go(x.flush)
	x.closeIfOver()
	select {
	case <-slow.closed:
		t.Error("closed before what was said had gone out")
	default:
	}
	close(slow.gate)
	<-slow.closed
}

func (c *Conn) streamsNow() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.streams)
}

func (c *Conn) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// Whatever a peer sends, the server ends, and has not read more than there was.
func FuzzServer(f *testing.F) {
	f.Add([]byte(http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00" + "\x00\x00\x06\x01\x05\x00\x00\x00\x01\x82\x86\x84\x01\x01a"))
	f.Fuzz(func(t *testing.T, p []byte) {
		a, b := net.Pipe()
		x := NewServer(b, echo)
		var wg sync.WaitGroup
		wg.Go(func() { x.Serve(nil) })
		wg.Go(func() { io.Copy(io.Discard, a) })
		a.Write(p)
		a.Close()
		wg.Wait()
		if n := x.streamsNow(); n > 0 {
			t.Errorf("%d streams are left", n)
		}
	})
}
