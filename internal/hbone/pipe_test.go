package hbone

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/net/http2"
)

func randomBytes(n int) []byte {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(p)
	return p
}

// "The END_STREAM flag on a DATA frame is treated as being equivalent to the
// TCP FIN bit." RFC 9113, section 8.5.
func TestCopyHalfCloseEachWay(t *testing.T) {
	t.Run("client ends first", func(t *testing.T) {
		n := newNode(t, nodeConfig{server: ServerConfig{Handle: proxyTo}})
		app := appListener(t, func(c *net.TCPConn) {
			all, _ := io.ReadAll(c)
			fmt.Fprintf(c, "got %s", all)
		})
		errs := make(chan error, 1)
		c := dialTCP(t, n.entry(app, errs))
		c.Write([]byte("question"))
		c.CloseWrite()
		if got, err := io.ReadAll(c); err != nil || string(got) != "got question" {
			t.Fatalf("answer = %q, %v", got, err)
		}
		if err := <-errs; err != nil {
			t.Errorf("Pipe = %v, want nil", err)
		}
	})
	t.Run("server ends first", func(t *testing.T) {
		n := newNode(t, nodeConfig{server: ServerConfig{Handle: proxyTo}})
		got := make(chan string, 1)
		app := appListener(t, func(c *net.TCPConn) {
			c.Write([]byte("hello"))
			c.CloseWrite()
			all, _ := io.ReadAll(c)
			got <- string(all)
		})
		errs := make(chan error, 1)
		c := dialTCP(t, n.entry(app, errs))
		if all, err := io.ReadAll(c); err != nil || string(all) != "hello" {
			t.Fatalf("greeting = %q, %v", all, err)
		}
		c.Write([]byte("late words"))
		c.CloseWrite()
		if g := <-got; g != "late words" {
			t.Errorf("after its end the server got %q", g)
		}
		if err := <-errs; err != nil {
			t.Errorf("Pipe = %v, want nil", err)
		}
	})
}

func TestCopyLargeTransfersAtBufferThresholds(t *testing.T) {
	n := newNode(t, nodeConfig{server: ServerConfig{Handle: proxyTo}})
	app := appListener(t, func(c *net.TCPConn) { io.Copy(c, c); c.CloseWrite() })
	entry := n.entry(app, nil)
	for _, size := range []int{0, 1, 1 << 10, 16<<10 - 1, 16 << 10, 16<<10 + 1, 256 << 10, 1<<20 - 9, 1 << 20, 1<<20 + 1, 5 << 20, 17 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			c := dialTCP(t, entry)
			want := randomBytes(size)
			go func() { c.Write(want); c.CloseWrite() }()
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes came back as %d, %v", size, len(got), err)
			}
		})
	}
}

// "A proxy treats any error in the TCP connection, which includes receiving a
// TCP segment with the RST bit set, as a stream error of type CONNECT_ERROR."
// RFC 9113, section 8.5.
func TestCopyResetMidWay(t *testing.T) {
	t.Run("by the client", func(t *testing.T) {
		n := newNode(t, nodeConfig{server: ServerConfig{Handle: proxyTo}})
		got := make(chan error, 1)
		app := appListener(t, func(c *net.TCPConn) {
			c.Write([]byte("x"))
			_, err := io.Copy(io.Discard, c)
			got <- err
		})
		errs := make(chan error, 1)
		c := dialTCP(t, n.entry(app, errs))
		io.ReadFull(c, make([]byte, 1))
		c.SetLinger(0)
		c.Close()
		if err := <-got; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the server read %v, want a reset", err)
		}
		var app2 *AppError
		if err := <-errs; !errors.As(err, &app2) || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("Pipe = %v, want a reset by the application", err)
		}
	})
	t.Run("by the server", func(t *testing.T) {
		n := newNode(t, nodeConfig{server: ServerConfig{Handle: proxyTo}})
		app := appListener(t, func(c *net.TCPConn) {
			io.ReadFull(c, make([]byte, 1))
			c.SetLinger(0)
		})
		errs := make(chan error, 1)
		c := dialTCP(t, n.entry(app, errs))
		c.Write([]byte("x"))
		if _, err := io.Copy(io.Discard, c); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client read %v, want a reset", err)
		}
		var reset *ResetError
		if err := <-errs; !errors.As(err, &reset) || reset.Local {
			t.Errorf("Pipe = %v, want a reset by the peer", err)
		}
	})
	t.Run("by a client that has ended", func(t *testing.T) {
		n := newNode(t, nodeConfig{server: ServerConfig{Handle: proxyTo}})
		got := make(chan error, 1)
		ended := make(chan struct{})
		app := appListener(t, func(c *net.TCPConn) {
			io.Copy(io.Discard, c)
			close(ended)
			for {
				if _, err := c.Write(make([]byte, 1<<10)); err != nil {
					got <- err
					return
				}
			}
		})
		c := dialTCP(t, n.entry(app, nil))
		c.CloseWrite()
		<-ended
		c.SetLinger(0)
		c.Close()
		if err := <-got; !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("the server wrote until %v, want a reset", err)
		}
	})
}

// What ends a Pipe from outside is a reset on both sides, and Pipe says why.
func TestPipeContextCutsBoth(t *testing.T) {
	n := newNode(t, nodeConfig{server: ServerConfig{Handle: proxyTo}})
	got := make(chan error, 1)
	app := appListener(t, func(c *net.TCPConn) {
		c.Write([]byte("x"))
		_, err := io.Copy(io.Discard, c)
		got <- err
	})
	s := n.open(app)
	why := errors.New("policy changed")
	ctx, cut := context.WithCancelCause(t.Context())
	addr := appListener(t, func(c *net.TCPConn) {
		var sent, received atomic.Uint64
		if err := s.Pipe(ctx, c, &sent, &received); !errors.Is(err, why) {
			t.Errorf("Pipe = %v, want %v", err, why)
		}
		if received.Load() != 1 {
			t.Errorf("received = %d, want 1", received.Load())
		}
	})
	c := dialTCP(t, addr)
	io.ReadFull(c, make([]byte, 1))
	cut(why)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client read %v, want a reset", err)
	}
	if err := <-got; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the server read %v, want a reset", err)
	}
}

// A tunnel that can be written no more is lost, and the application is reset, although
// the reader, which tells all others, does not know of it yet.
func TestPipeResetsWhenTheTunnelCannotBeWritten(t *testing.T) {
	n := newNode(t, nodeConfig{server: ServerConfig{Handle: proxyTo}})
	app := appListener(t, func(c *net.TCPConn) {
		c.Write([]byte("x"))
		io.Copy(io.Discard, c)
	})
	s := n.open(app)
	piped := make(chan error, 1)
	addr := appListener(t, func(c *net.TCPConn) {
		var sent, received atomic.Uint64
		piped <- s.Pipe(t.Context(), c, &sent, &received)
	})
	c := dialTCP(t, addr)
	io.ReadFull(c, make([]byte, 1))
	s.c.mu.Lock()
	s.c.send.stop(io.ErrShortWrite)
	s.c.mu.Unlock()
	c.CloseWrite()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client read %v, want a reset", err)
	}
	if err := <-piped; !errors.Is(err, ErrConnLost) {
		t.Errorf("Pipe = %v, want %v", err, ErrConnLost)
	}
	s.c.fail(io.ErrShortWrite)
	<-s.c.done
	n.pool.group.mu.Lock()
	defer n.pool.group.mu.Unlock()
	if len(n.pool.group.tails) != 0 {
		t.Error("the stream is remembered for ever")
	}
}

// RST_STREAM with CANCEL is a reset before the peer's END_STREAM. After it, the
// peer only wants no more: what it sent arrives, and then its end.
func TestPipeCancelByThePeer(t *testing.T) {
	for _, tt := range []struct {
		name  string
		ended bool
		want  error // of the application's read
	}{
		{"before END_STREAM", false, syscall.ECONNRESET},
		{"after END_STREAM", true, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t, nodeConfig{server: ServerConfig{Handle: proxyTo}})
			got := make(chan error, 1)
			var text []byte
			app := appListener(t, func(c *net.TCPConn) {
				c.Write([]byte("x"))
				var err error
				text, err = io.ReadAll(c)
				got <- err
			})
			a := newAttacker(t, n)
			a.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: appendRequest(nil, request(t, app)), EndHeaders: true})
			a.flush()
			<-a.answer
			a.fr.WriteData(1, tt.ended, []byte("last words"))
			a.fr.WriteRSTStream(1, http2.ErrCodeCancel)
			a.flush()
			if err := <-got; !errors.Is(err, tt.want) {
				t.Errorf("the application read %v, want %v", err, tt.want)
			}
			if tt.ended && string(text) != "last words" {
				t.Errorf("the application got %q", text)
			}
		})
	}
}

// A slow application gets everything, and the tunnel holds no more than the
// window for it.
func TestPipeSlowApplication(t *testing.T) {
	budget := NewBudget(0)
	n := newNode(t, nodeConfig{server: ServerConfig{Handle: proxyTo, Budget: budget}})
	want := randomBytes(24 << 20)
	start, got := make(chan struct{}), make(chan []byte, 1)
	app := appListener(t, func(c *net.TCPConn) {
		c.SetReadBuffer(64 << 10)
		<-start
		all, _ := io.ReadAll(c)
		got <- all
	})
	c := dialTCP(t, n.entry(app, nil))
	go func() { c.Write(want); c.CloseWrite() }()
	eventually(t, "a backlog builds up", func() bool { return budget.Used() > 2<<20 })
	if used := budget.Used(); used > streamWindow+2<<20 {
		t.Errorf("%d bytes are held for a slow application, the window is %d", used, streamWindow)
	}
	close(start)
	if all := <-got; !bytes.Equal(all, want) {
		t.Errorf("%d of %d bytes arrived intact", len(all), len(want))
	}
}

// The copy path allocates nothing per read, write, frame or record; what is
// left is one small object when a helper starts, about once in a MiB. crypto/tls
// allocates 24 bytes for each record that it reads, 64 times in a MiB; that is
// not counted. The bound leaves room for the race detector, under which
// sync.Pool forgets buffers.
func TestPipeAllocations(t *testing.T) {
	var got atomic.Int64
	app := appListener(t, func(c *net.TCPConn) {
		p := make([]byte, 1<<20)
		for {
			n, err := c.Read(p)
			if got.Add(int64(n)); err != nil {
				return
			}
		}
	})
	n := newNode(t, nodeConfig{server: ServerConfig{Handle: proxyTo}})
	c := dialTCP(t, n.entry(app, nil))
	chunk := make([]byte, 1<<20)
	send := func(mib int) {
		goal := got.Load() + int64(mib)<<20
		for range mib {
			c.Write(chunk)
		}
		eventually(t, "all arrives", func() bool { return got.Load() >= goal })
	}
	send(32)
	old := runtime.MemProfileRate
	runtime.MemProfileRate = 1
	defer func() { runtime.MemProfileRate = old }()
	before := ownAllocations()
	send(64)
	own := ownAllocations() - before
	t.Logf("%d allocations for 64 MiB", own)
	if own > 64*16 {
		t.Errorf("%d allocations for 64 MiB: something allocates per read or frame", own)
	}
}

// ownAllocations counts the allocations on the copy path of this package.
func ownAllocations() int64 {
	runtime.GC()
	runtime.GC() // the profile is as of the last but one
	records := make([]runtime.MemProfileRecord, 4000)
	n, _ := runtime.MemProfile(records, true)
	var sum int64
	for _, r := range records[:n] {
		if onCopyPath(r.Stack()) {
			sum += r.AllocObjects
		}
	}
	return sum
}

// onCopyPath reports whether a stack passes a connection's reader or a pipe,
// and not crypto/tls.
func onCopyPath(stack []uintptr) bool {
	frames, own := runtime.CallersFrames(stack), false
	for {
		f, more := frames.Next()
		if strings.HasPrefix(f.Function, "crypto/tls.") {
			return false
		}
		own = own || strings.Contains(f.Function, "hbone.(*conn).read") || strings.Contains(f.Function, "hbone.(*pipe)") ||
			strings.Contains(f.Function, "hbone.(*Stream).help") || strings.Contains(f.Function, "hbone.(*conn).drainQueue")
		if !more {
			return own
		}
	}
}

// An idle stream holds no buffer.
func TestPipeIdleHoldsNoBuffer(t *testing.T) {
	budget := NewBudget(0)
	n := newNode(t, nodeConfig{server: ServerConfig{Handle: proxyTo, Budget: budget}, pool: PoolConfig{Budget: budget}})
	entry := n.entry(appListener(t, func(c *net.TCPConn) { io.Copy(c, c) }), nil)
	for range 50 {
		c := dialTCP(t, entry)
		c.Write([]byte("x"))
		io.ReadFull(c, make([]byte, 1))
	}
	eventually(t, "all buffers are back", func() bool { return budget.Used() == 0 })
}

// What a handler leaves undone is done for it.
func TestServerHandlerLeaves(t *testing.T) {
	n := newNode(t, nodeConfig{server: ServerConfig{Handle: func(_ context.Context, in *Incoming) {
		if in.Authority.Port() == 1 {
			in.Accept(nil)
		}
	}}})
	_, err := n.pool.Open(t.Context(), n.target(), request(t, "10.0.0.1:80"))
	var refused *RefusedError
	if !errors.As(err, &refused) || refused.Status != 503 {
		t.Errorf("a request without an answer: %v, want 503", err)
	}
	if all, err := io.ReadAll(n.open("10.0.0.1:1")); err != nil || len(all) != 0 {
		t.Errorf("an accepted stream without a word: %q, %v, want its end", all, err)
	}
}

func TestServerCut(t *testing.T) {
	why := errors.New("pod is gone")
	cause := make(chan error, 1)
	n := newNode(t, nodeConfig{server: ServerConfig{Handle: func(ctx context.Context, in *Incoming) {
		in.Accept(nil)
		<-ctx.Done()
		cause <- context.Cause(ctx)
	}}})
	s := n.open("10.0.0.1:80")
	n.server.Cut(why)
	if err := <-cause; !errors.Is(err, why) {
		t.Errorf("the handler's context ended with %v", err)
	}
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, ErrConnLost) {
		t.Errorf("the client read %v", err)
	}
	if err := <-n.served; err != nil {
		t.Errorf("Serve = %v", err)
	}
}

// Headers travel both ways.
func TestHeaders(t *testing.T) {
	long := strings.Repeat("baggage ", 1000)
	n := newNode(t, nodeConfig{server: ServerConfig{Handle: func(_ context.Context, in *Incoming) {
		in.Accept(Header{{Name: "baggage", Value: in.Header.Get("baggage") + "!"}})
	}}})
	req := request(t, "web.shop.svc:80")
	req.Header = Header{{Name: "baggage", Value: long}, {Name: "forwarded", Value: `for="10.0.0.1:1"`}}
	s, err := n.pool.Open(t.Context(), n.target(), req)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got := s.Header().Get("baggage"); got != long+"!" {
		t.Errorf("%d bytes of baggage came back, want %d", len(got), len(long)+1)
	}
	req.Header = Header{{Name: "Upper", Value: "x"}}
	if _, err := n.pool.Open(t.Context(), n.target(), req); err == nil {
		t.Error("a name in upper case is sent")
	}
}
