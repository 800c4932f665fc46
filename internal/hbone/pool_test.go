package hbone

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/ambit-mesh/ambit/internal/memnet"
)

func TestPoolConnectionsReused(t *testing.T) {
	inBubble(t, nodeConfig{}, func(n *memNode) {
		a := n.open(Key{})
		wantEcho(t, a)
		b := n.open(Key{})
		wantEcho(t, b)
		a.Close()
		b.Close()
		wantEcho(t, n.open(Key{}))
		if got := n.dials(); got != 1 {
			t.Errorf("%d connections, want 1", got)
		}
	})
}

func TestPoolUniqueKeys(t *testing.T) {
	inBubble(t, nodeConfig{}, func(n *memNode) {
		keys := []Key{
			{}, {Source: "spiffe://td/ns/a/sa/b"}, {Destinations: "spiffe://td/ns/a/sa/b"},
			{SourceIP: netip.MustParseAddr("10.0.0.7")},
		}
		for range 2 {
			for _, k := range keys {
				wantEcho(t, n.open(k))
			}
		}
		if got := n.dials(); got != len(keys) {
			t.Errorf("%d connections, want one for each of %d keys", got, len(keys))
		}
	})
}

func TestPoolConnectionLimits(t *testing.T) {
	t.Run("beyond the cap another connection is made", func(t *testing.T) {
		inBubble(t, nodeConfig{pool: PoolConfig{StreamsPerConn: 3}}, func(n *memNode) {
			var open []*Stream
			for range 7 {
				open = append(open, n.open(Key{}))
			}
			if got := n.dials(); got != 3 {
				t.Errorf("7 streams on %d connections, want 3", got)
			}
			open[0].Close()
			synctest.Wait()
			open[0] = n.open(Key{})
			open = append(open, n.open(Key{}), n.open(Key{}))
			if got := n.dials(); got != 3 {
				t.Errorf("a connection below its cap is not used again: %d connections", got)
			}
			for _, s := range open {
				wantEcho(t, s)
			}
		})
	})
	t.Run("the peer's limit counts", func(t *testing.T) {
		inBubble(t, nodeConfig{server: ServerConfig{Limits: Limits{Streams: 2}}}, func(n *memNode) {
			for range 4 {
				wantEcho(t, n.open(Key{}))
			}
			if got := n.dials(); got != 2 {
				t.Errorf("4 streams on %d connections, want 2", got)
			}
		})
	})
}

func TestPoolServerGoAway(t *testing.T) {
	inBubble(t, nodeConfig{}, func(n *memNode) {
		n.pool.Close() // this test has servers of its own
		n.pool = NewPool(PoolConfig{}, nil)
		addr := netip.MustParseAddrPort("10.0.0.3:15008")
		target := n.target(Key{})
		target.Dial = func(ctx context.Context) (net.Conn, error) {
			return n.net.Dial(ctx, netip.MustParseAddr("10.0.0.1"), addr)
		}
		open := func() *Stream {
			s, err := n.pool.Open(n.t.Context(), target, request(t, "10.0.0.3:80"))
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		stop := n.serve(addr, ServerConfig{DrainTimeout: time.Minute})
		old := open()
		wantEcho(t, old)
		drained := make(chan struct{})
		go func() { stop(nil); close(drained) }()
		synctest.Wait()
		stopNew := n.serve(addr, ServerConfig{})
		fresh := open()
		wantEcho(t, fresh)
		wantEcho(t, old)
		if old.c == fresh.c {
			t.Error("a stream was opened on a connection that has got GOAWAY")
		}
		start := time.Now()
		old.Close()
		<-drained
		if d := time.Since(start); d > 5*time.Second {
			t.Errorf("the server drained %v after its last stream", d)
		}
		stopNew(errors.New("over"))
	})
}

func TestPoolServerDrainTimeoutCuts(t *testing.T) {
	inBubble(t, nodeConfig{}, func(n *memNode) {
		addr := netip.MustParseAddrPort("10.0.0.3:15008")
		target := n.target(Key{Source: "x"})
		target.Dial = func(ctx context.Context) (net.Conn, error) {
			return n.net.Dial(ctx, netip.MustParseAddr("10.0.0.1"), addr)
		}
		cause := make(chan error, 1)
		stop := n.serve(addr, ServerConfig{DrainTimeout: 7 * time.Second, Handle: func(ctx context.Context, in *Incoming) {
			in.Accept(nil)
			<-ctx.Done()
			cause <- context.Cause(ctx)
		}})
		s, err := n.pool.Open(n.t.Context(), target, request(t, "10.0.0.3:80"))
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		stop(nil)
		if d := time.Since(start); d != 7*time.Second {
			t.Errorf("cut after %v, want 7 s", d)
		}
		if err := <-cause; !errors.Is(err, ErrDrainTimeout) {
			t.Errorf("the handler's context ended with %v", err)
		}
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, ErrConnLost) {
			t.Errorf("Read = %v", err)
		}
	})
}

func TestPoolPerKeySerialDialling(t *testing.T) {
	inBubble(t, nodeConfig{}, func(n *memNode) {
		n.held = make(chan struct{})
		var wg sync.WaitGroup
		var failed atomic.Int32
		for range 90 {
			wg.Go(func() {
				if _, err := n.pool.Open(n.t.Context(), n.target(Key{}), request(n.t, "10.0.0.2:80")); err != nil {
					failed.Add(1)
				}
			})
		}
		synctest.Wait()
		close(n.held)
		wg.Wait()
		if got := n.dials(); got != 1 || failed.Load() > 0 {
			t.Errorf("a burst of 90 made %d connections, %d failed; want 1 and 0", got, failed.Load())
		}
	})
}

func TestPoolWaiterLeavesWithItsContext(t *testing.T) {
	inBubble(t, nodeConfig{}, func(n *memNode) {
		n.held = make(chan struct{})
		ctx, cancel := context.WithTimeout(n.t.Context(), time.Second)
		defer cancel()
		_, err := n.pool.Open(ctx, n.target(Key{}), request(t, "10.0.0.2:80"))
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Open = %v", err)
		}
		close(n.held)
		wantEcho(t, n.open(Key{})) // the dial was not abandoned
		if got := n.dials(); got != 1 {
			t.Errorf("%d connections, want 1", got)
		}
	})
}

func TestPoolIdleEviction(t *testing.T) {
	inBubble(t, nodeConfig{}, func(n *memNode) {
		s := n.open(Key{})
		wantEcho(t, s)
		c := s.c
		s.Close()
		pass(299 * time.Second)
		select {
		case <-c.done:
			t.Error("an idle connection is gone before 300 s")
		default:
		}
		pass(15 * time.Second)
		synctest.Wait()
		select {
		case <-c.done:
		default:
			t.Error("an idle connection is kept beyond 300 s")
		}
		if got := n.pool.String(); got != "hbone pool of 0 connections to 0 peers" {
			t.Error(got)
		}
		wantEcho(t, n.open(Key{}))
	})
}

func TestPoolIdleEvictionWithPersistentStream(t *testing.T) {
	inBubble(t, nodeConfig{}, func(n *memNode) {
		s := n.open(Key{})
		pass(time.Hour)
		wantEcho(t, s)
	})
}

func TestPoolLostPingMovesNewStreams(t *testing.T) {
	inBubble(t, nodeConfig{}, func(n *memNode) {
		old := n.open(Key{})
		n.conns[0].Stall(true)
		start := time.Now()
		_, err := old.Read(make([]byte, 1))
		if !errors.Is(err, ErrPingTimeout) {
			t.Errorf("Read = %v, want %v", err, ErrPingTimeout)
		}
		if d := time.Since(start); d > 40*time.Second {
			t.Errorf("the dead connection was noticed after %v, want at most 40 s", d)
		}
		wantEcho(t, n.open(Key{}))
		if got := n.dials(); got != 2 {
			t.Errorf("%d connections, want 2", got)
		}
	})
}

func TestPoolOpenTimeout(t *testing.T) {
	silent := func(ctx context.Context, _ *Incoming) { <-ctx.Done() }
	inBubble(t, nodeConfig{server: ServerConfig{Handle: silent}}, func(n *memNode) {
		start := time.Now()
		_, err := n.pool.Open(n.t.Context(), n.target(Key{}), request(n.t, "10.0.0.2:80"))
		if !errors.Is(err, ErrOpenTimeout) || time.Since(start) != 20*time.Second {
			t.Errorf("Open = %v after %v", err, time.Since(start))
		}
		if !Retryable(err) {
			t.Error("a CONNECT without an answer is not retryable")
		}
	})
}

// A ztunnel that has begun to drain never looks at a CONNECT that crosses its
// GOAWAY. The pool tries it on another connection.
func TestPoolConnectThatCrossesGoAway(t *testing.T) {
	var tries atomic.Int32
	var first atomic.Pointer[conn]
	handle := func(ctx context.Context, in *Incoming) {
		if tries.Add(1) > 1 {
			echo(ctx, in)
			return
		}
		c := in.s.c
		first.Store(c)
		c.mu.Lock()
		c.enqueueGoAway(1<<31-1, 0, "")
		c.mu.Unlock()
		c.push()
		<-ctx.Done()
	}
	inBubble(t, nodeConfig{server: ServerConfig{Handle: handle}}, func(n *memNode) {
		start := time.Now()
		s := n.open(Key{})
		if d := time.Since(start); d != 2*time.Second {
			t.Errorf("tried elsewhere after %v, want 2 s", d)
		}
		wantEcho(t, s)
		if n.dials() != 2 {
			t.Errorf("%d connections, want 2", n.dials())
		}
	})
}

func TestPoolRetire(t *testing.T) {
	inBubble(t, nodeConfig{}, func(n *memNode) {
		old, other := n.open(Key{Source: "a"}), n.open(Key{Source: "b"})
		n.pool.Retire(func(k Key) bool { return k.Source == "a" })
		fresh := n.open(Key{Source: "a"})
		if fresh.c == old.c {
			t.Error("a retired connection takes new streams")
		}
		if again := n.open(Key{Source: "b"}); again.c != other.c {
			t.Error("a connection that does not match was retired")
		}
		wantEcho(t, old)
		c := old.c
		old.Close()
		synctest.Wait()
		<-c.done // it ends with its last stream
	})
}

func TestPoolEnsure(t *testing.T) {
	inBubble(t, nodeConfig{}, func(n *memNode) {
		ctx, cancel := context.WithCancel(n.t.Context())
		defer cancel()
		alive, err := n.pool.Ensure(ctx, n.target(Key{}))
		if err != nil {
			t.Fatal(err)
		}
		pass(time.Hour)
		select {
		case <-alive:
			t.Fatal("the witness was given up for being idle")
		default:
		}
		n.conns[0].Stall(true)
		start := time.Now()
		<-alive
		if d := time.Since(start); d > 40*time.Second {
			t.Errorf("a dead witness was noticed after %v", d)
		}
	})
}

func TestPoolBulkGetsFurtherConnections(t *testing.T) {
	inBubble(t, nodeConfig{}, func(n *memNode) {
		for range 3 {
			s := n.open(Key{})
			s.c.noteBatch(1 << 20)
		}
		if got := n.dials(); got != 3 {
			t.Errorf("3 streams beside bulk on %d connections, want 3", got)
		}
		for _, c := range n.pool.peers[n.target(Key{}).Key].conns {
			c.noteBatch(1 << 20)
		}
		n.open(Key{})
		if got := n.dials(); got != 3 {
			t.Errorf("%d connections for bulk, want at most 3", got)
		}
		pass(2 * bulkMemory)
		n.open(Key{})
		if got := n.dials(); got != 3 {
			t.Errorf("%d connections without bulk, want 3", got)
		}
	})
}

func TestPoolSinglePoolStress(t *testing.T) {
	for _, tt := range []struct {
		name             string
		sources, streams int
	}{
		{"single source", 1, 150},
		{"multiple sources", 10, 20},
		{"many streams", 3, 400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t, nodeConfig{})
			var wg sync.WaitGroup
			for i := range tt.sources * tt.streams {
				wg.Go(func() {
					target := n.target()
					target.Key.Source = fmt.Sprint(i % tt.sources)
					s, err := n.pool.Open(n.t.Context(), target, request(t, "10.0.0.2:80"))
					if err != nil {
						t.Errorf("open: %v", err)
						return
					}
					defer s.Close()
					wantEchoAsync(t, s)
				})
			}
			wg.Wait()
		})
	}
}

// wantEchoAsync is wantEcho for goroutines that must not end the test.
func wantEchoAsync(t *testing.T, s *Stream) {
	msg := fmt.Sprintf("stream %d", s.id)
	s.Write([]byte(msg))
	s.CloseWrite()
	if got, err := io.ReadAll(s); err != nil || string(got) != msg {
		t.Errorf("echo of %q = %q, %v", msg, got, err)
	}
}

func TestPoolCloseWhileDialling(t *testing.T) {
	inBubble(t, nodeConfig{}, func(n *memNode) {
		n.held = make(chan struct{})
		got := make(chan error, 1)
		go func() {
			_, err := n.pool.Open(n.t.Context(), n.target(Key{}), request(n.t, "10.0.0.2:80"))
			got <- err
		}()
		synctest.Wait()
		go n.pool.Close()
		synctest.Wait()
		close(n.held)
		if err := <-got; !errors.Is(err, ErrDraining) {
			t.Errorf("Open = %v, want %v", err, ErrDraining)
		}
	})
}

func TestRetryable(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		want bool
	}{
		{"nobody listens", &DialError{StageDial, syscall.ECONNREFUSED}, true},
		{"dial timeout", &DialError{StageDial, context.DeadlineExceeded}, true},
		{"reset during TLS", &DialError{StageTLS, syscall.ECONNRESET}, true},
		{"identity does not match", &DialError{StageTLS, errors.New("peer is spiffe://td/ns/x/sa/y")}, false},
		{"the peer refuses our certificate", &DialError{StageH2, &net.OpError{Op: "remote error", Err: errors.New("bad certificate")}}, false},
		{"lost before SETTINGS", &DialError{StageH2, io.EOF}, true},
		{"503", &RefusedError{Status: 503}, true},
		{"401", &RefusedError{Status: 401}, false},
		{"400", &RefusedError{Status: 400}, false},
		{"GOAWAY", &GoAwayError{Unprocessed: true}, true},
		{"REFUSED_STREAM", &ResetError{Code: 7}, true},
		{"CANCEL", &ResetError{Code: 8}, false},
		{"no answer", ErrOpenTimeout, true},
		{"connection lost before the answer", &lostError{ErrPingTimeout}, true},
		{"the caller gave up", context.Canceled, false},
		{"pool closed", ErrDraining, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := Retryable(fmt.Errorf("open: %w", tt.err)); got != tt.want {
				t.Errorf("Retryable(%v) = %v", tt.err, got)
			}
		})
	}
}

// A peer that allows no streams is an error, not a loop of connections.
func TestPoolPeerAllowsNoStreams(t *testing.T) {
	inBubble(t, nodeConfig{}, func(n *memNode) {
		target := n.target(Key{Source: "zero"})
		conf, _ := n.certs.server(n.t.Context())
		target.Dial = func(context.Context) (net.Conn, error) {
			here, there := memnet.Pipe(netip.MustParseAddrPort("10.0.0.1:1"), memAddr)
			go func() {
				tc := tls.Server(there, conf)
				http2.NewFramer(tc, nil).WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 0})
				io.Copy(io.Discard, tc)
				there.Close()
			}()
			return here, nil
		}
		_, err := n.pool.Open(n.t.Context(), target, request(n.t, "10.0.0.2:80"))
		var dial *DialError
		if !errors.As(err, &dial) || !errors.Is(err, errNoStreams) {
			t.Errorf("Open = %v, want %v", err, errNoStreams)
		}
	})
}

// A peer whose connections take no streams at once, one after another, is given up, and
// none of them keeps the pool from closing.
func TestPoolPeerThatChangesItsMind(t *testing.T) {
	for _, tt := range []struct {
		name string
		then func(fr *http2.Framer)
	}{
		{"GOAWAY", func(fr *http2.Framer) { fr.WriteGoAway(0, http2.ErrCodeNo, nil) }},
		{"no streams any more", func(fr *http2.Framer) {
			fr.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 0})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, nodeConfig{}, func(n *memNode) {
				target := n.target(Key{Source: "fickle"})
				conf, _ := n.certs.server(n.t.Context())
				dials := 0
				target.Dial = func(context.Context) (net.Conn, error) {
					if dials++; dials > 20 {
						return nil, errors.New("dialed for ever")
					}
					here, there := memnet.Pipe(netip.MustParseAddrPort("10.0.0.1:1"), memAddr)
					go func() {
						tc := tls.Server(there, conf)
						var hello bytes.Buffer
						fr := http2.NewFramer(&hello, nil)
						fr.WriteSettings()
						tt.then(fr)
						tc.Write(hello.Bytes())
						io.Copy(io.Discard, tc)
						there.Close()
					}()
					return here, nil
				}
				start := time.Now()
				_, err := n.pool.Open(n.t.Context(), target, request(n.t, "10.0.0.2:80"))
				if dial, ok := errors.AsType[*DialError](err); !ok || dial.Stage != StageH2 || dials > 2*openTries {
					t.Errorf("Open = %v after %d dials, want an error of stage %s after %d", err, dials, StageH2, openTries)
				}
				n.pool.Close()
				if d := time.Since(start); d > 5*time.Second {
					t.Errorf("opening and closing took %v", d)
				}
			})
		})
	}
}

// A server that drains says GOAWAY twice and closes after the last stream, also
// when the client does not.
func TestServerDrainsByItself(t *testing.T) {
	n := newNode(t, nodeConfig{server: ServerConfig{DrainTimeout: time.Minute}})
	a := newAttacker(t, n)
	a.open()
	n.stop()
	for _, want := range []string{"first GOAWAY", "second GOAWAY"} {
		select {
		case code := <-a.goAway:
			if code != http2.ErrCodeNo {
				t.Errorf("%s: %v", want, code)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("no %s", want)
		}
	}
	a.fr.WriteData(1, true, nil)
	a.flush()
	select {
	case <-a.ended:
	case <-time.After(10 * time.Second):
		t.Error("the server does not close after the last stream")
	}
	if err := <-n.served; err != nil {
		t.Errorf("Serve = %v", err)
	}
}
