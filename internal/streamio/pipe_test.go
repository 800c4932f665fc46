package streamio

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen.
const patience = 10 * time.Second

// rig is a client and a server application with a Pipe between them.
type rig struct {
	client, server *net.TCPConn // the applications' ends
	counters       *Counters
	cancel         context.CancelCauseFunc
	done           chan error // what Pipe returned
}

// newRig starts a Pipe between two fresh connections.
func newRig(tb testing.TB, copies bool) *rig {
	tb.Helper()
	client, in := tcpPair(tb)
	out, server := tcpPair(tb)
	return startRig(tb, client, in, out, server, copies)
}

// startRig runs a Pipe between in and out, by copying if copies is set.
func startRig(tb testing.TB, client, in, out, server *net.TCPConn, copies bool) *rig {
	tb.Helper()
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(tb.Context()))
	r := &rig{client: client, server: server, counters: new(Counters), cancel: cancel, done: make(chan error, 1)}
	var wg sync.WaitGroup
	wg.Go(func() {
		err := pipeWith(ctx, in, out, r.counters, copies)
		in.Close()
		out.Close()
		r.done <- err
	})
	tb.Cleanup(func() {
		cancel(errors.New("test is over"))
		wg.Wait()
	})
	return r
}

// wait returns what Pipe returned.
func (r *rig) wait(t *testing.T) error {
	t.Helper()
	select {
	case err := <-r.done:
		return err
	case <-time.After(patience):
		t.Fatal("Pipe has not returned")
		return nil
	}
}

// tcpPair returns both ends of a TCP connection over loopback.
func tcpPair(tb testing.TB) (near, far *net.TCPConn) {
	tb.Helper()
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		tb.Fatal(err)
	}
	defer ln.Close()
	near, err = net.DialTCP("tcp", nil, ln.Addr().(*net.TCPAddr))
	if err != nil {
		tb.Fatal(err)
	}
	far, err = ln.AcceptTCP()
	if err != nil {
		tb.Fatal(err)
	}
	deadline := time.Now().Add(3 * patience)
	near.SetDeadline(deadline)
	far.SetDeadline(time.Time{})
	tb.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

// eachWay runs test with splice and with the copy that stands in for it.
func eachWay(t *testing.T, test func(t *testing.T, copies bool)) {
	t.Run("splice", func(t *testing.T) { test(t, false) })
	t.Run("copy", func(t *testing.T) { test(t, true) })
}

func send(t *testing.T, c *net.TCPConn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatalf("write: %v", err)
	}
}

func wantRead(t *testing.T, why string, c *net.TCPConn, text string) {
	t.Helper()
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		t.Fatalf("%s: read %q, %v, want %q", why, got, err, text)
	}
}

func wantEOF(t *testing.T, why string, c *net.TCPConn) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Fatalf("%s: read %d, %v, want the end", why, n, err)
	}
}

func wantReset(t *testing.T, why string, c *net.TCPConn) {
	t.Helper()
	_, err := io.Copy(io.Discard, c)
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("%s: read ended with %v, want a reset", why, err)
	}
}

func TestCopyHalfCloseByTheClient(t *testing.T) {
	eachWay(t, func(t *testing.T, copies bool) {
		r := newRig(t, copies)
		send(t, r.client, "question")
		r.client.CloseWrite()
		wantRead(t, "data comes first", r.server, "question")
		wantEOF(t, "then the end of this direction", r.server)
		send(t, r.server, "answer")
		wantRead(t, "the other direction is open", r.client, "answer")
		r.server.CloseWrite()
		wantEOF(t, "and ends when the server says so", r.client)
		if err := r.wait(t); err != nil {
			t.Errorf("Pipe = %v, want nil: both directions ended", err)
		}
		r.wantCounts(t, 8, 6)
	})
}

func TestCopyHalfCloseByTheServer(t *testing.T) {
	eachWay(t, func(t *testing.T, copies bool) {
		r := newRig(t, copies)
		send(t, r.server, "banner")
		r.server.CloseWrite()
		wantRead(t, "server speaks first", r.client, "banner")
		wantEOF(t, "and has ended", r.client)
		send(t, r.client, "late words")
		r.client.CloseWrite()
		wantRead(t, "the other direction is open", r.server, "late words")
		wantEOF(t, "and ends", r.server)
		if err := r.wait(t); err != nil {
			t.Errorf("Pipe = %v, want nil", err)
		}
		r.wantCounts(t, 10, 6)
	})
}

func (r *rig) wantCounts(t *testing.T, sent, received uint64) {
	t.Helper()
	if s, v := r.counters.Sent.Load(), r.counters.Received.Load(); s != sent || v != received {
		t.Errorf("counted %d sent and %d received, want %d and %d", s, v, sent, received)
	}
}

// A reset of either side, at any point, is a reset for the other.
func TestResetStaysReset(t *testing.T) {
	tests := []struct {
		name   string
		before func(t *testing.T, r *rig)
		breaks func(r *rig) *net.TCPConn
		side   Side
	}{
		{name: "client breaks while idle", breaks: func(r *rig) *net.TCPConn { return r.client }, side: Client},
		{name: "server breaks while idle", breaks: func(r *rig) *net.TCPConn { return r.server }, side: Server},
		{name: "client breaks after it has ended its sending", before: func(t *testing.T, r *rig) {
			r.client.CloseWrite()
			wantEOF(t, "the end arrives", r.server)
		}, breaks: func(r *rig) *net.TCPConn { return r.client }, side: Client},
		{name: "server breaks after it has ended its sending", before: func(t *testing.T, r *rig) {
			r.server.CloseWrite()
			wantEOF(t, "the end arrives", r.client)
		}, breaks: func(r *rig) *net.TCPConn { return r.server }, side: Server},
		{name: "client breaks after the server has ended its sending", before: func(t *testing.T, r *rig) {
			r.server.CloseWrite()
			wantEOF(t, "the end arrives", r.client)
		}, breaks: func(r *rig) *net.TCPConn { return r.client }, side: Client},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			eachWay(t, func(t *testing.T, copies bool) {
				r := newRig(t, copies)
				send(t, r.client, "hello")
				wantRead(t, "it works", r.server, "hello")
				if tt.before != nil {
					tt.before(t, r)
				}
				breaker := tt.breaks(r)
				other := r.client
				if breaker == r.client {
					other = r.server
				}
				reset(breaker)
				err := r.wait(t)
				ce, ok := errors.AsType[*CopyError](err)
				if !ok || ce.Side != tt.side {
					t.Errorf("Pipe = %v, want a CopyError of the %v", err, tt.side)
				}
				wantGone(t, other)
			})
		})
	}
}

// wantGone checks that c was reset: after an end has been read, a reset shows
// as EPIPE on the next send and not on a read.
func wantGone(t *testing.T, c *net.TCPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var errno int
	deadline := time.Now().Add(patience)
	for errno == 0 && time.Now().Before(deadline) {
		raw.Control(func(fd uintptr) { errno, _ = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ERROR) })
	}
	if e := syscall.Errno(errno); e != syscall.ECONNRESET && e != syscall.EPIPE {
		t.Errorf("socket of the other side has error %v, want a reset", e)
	}
}

func TestCopyResetMidWay(t *testing.T) {
	eachWay(t, func(t *testing.T, copies bool) {
		r := newRig(t, copies)
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() {
			block := make([]byte, 256<<10)
			for {
				if _, err := r.server.Write(block); err != nil {
					return
				}
			}
		})
		if _, err := io.CopyN(io.Discard, r.client, 4<<20); err != nil {
			t.Fatal(err)
		}
		reset(r.server)
		wantReset(t, "a cut transfer is not a complete one", r.client)
		if err := r.wait(t); err == nil {
			t.Error("Pipe = nil, want the reset")
		}
		if got := r.counters.Received.Load(); got < 4<<20 {
			t.Errorf("counted %d bytes, the client has read %d", got, 4<<20)
		}
	})
}

func TestReceiverThatGoesAwayStopsTheSender(t *testing.T) {
	eachWay(t, func(t *testing.T, copies bool) {
		r := newRig(t, copies)
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() {
			block := make([]byte, 256<<10)
			for {
				if _, err := r.client.Write(block); err != nil {
					return // the reset has come through
				}
			}
		})
		if _, err := io.CopyN(io.Discard, r.server, 1<<20); err != nil {
			t.Fatal(err)
		}
		r.server.Close() // with unread bytes: the kernel sends a reset
		if err := r.wait(t); err == nil {
			t.Error("Pipe = nil, want an error: bytes were lost")
		}
	})
}

func TestContextCutsBothSidesWithAReset(t *testing.T) {
	eachWay(t, func(t *testing.T, copies bool) {
		r := newRig(t, copies)
		send(t, r.client, "hello")
		wantRead(t, "it works", r.server, "hello")
		why := errors.New("policy took the permit back")
		r.cancel(why)
		if err := r.wait(t); err != why {
			t.Errorf("Pipe = %v, want the cause %v", err, why)
		}
		wantReset(t, "a cut is not an end", r.client)
		wantReset(t, "a cut is not an end", r.server)
	})
}

func TestContextThatHasEndedMovesNothing(t *testing.T) {
	r := func() *rig {
		client, in := tcpPair(t)
		out, server := tcpPair(t)
		why := errors.New("never allowed")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(why)
		c := new(Counters)
		if err := Pipe(ctx, in, out, c); err != why {
			t.Errorf("Pipe = %v, want %v", err, why)
		}
		return &rig{client: client, server: server, counters: c}
	}()
	wantReset(t, "the client is cut", r.client)
	wantReset(t, "the server is cut", r.server)
}

// Both directions carry different random bytes at once; a third party reads
// slowly so that every buffer on the way fills.
func TestCopyLargeTransfers(t *testing.T) {
	const size = 48<<20 + 12345
	eachWay(t, func(t *testing.T, copies bool) {
		r := newRig(t, copies)
		var wg sync.WaitGroup
		var sums [4][32]byte
		wg.Go(func() { sums[0] = sendRandom(t, r.client, 1, size) })
		wg.Go(func() { sums[1] = sumOf(t, r.server) })
		wg.Go(func() { sums[2] = sendRandom(t, r.server, 2, size) })
		wg.Go(func() { sums[3] = sumOf(t, r.client) })
		wg.Wait()
		if sums[0] != sums[1] || sums[2] != sums[3] {
			t.Error("what arrived is not what was sent")
		}
		if err := r.wait(t); err != nil {
			t.Errorf("Pipe = %v, want nil", err)
		}
		r.wantCounts(t, size, size)
	})
}

// A step changes from buffer to pipe and back at bufferSize, and a pipe is full
// at pipeSize; around those every byte counts.
func TestCopyTransfersAtBufferThresholds(t *testing.T) {
	var sizes []int
	for _, threshold := range []int{0, bufferSize, 2 * bufferSize, pipeSize, 2 * pipeSize} {
		sizes = append(sizes, max(threshold-1, 0), threshold, threshold+1)
	}
	eachWay(t, func(t *testing.T, copies bool) {
		r := newRig(t, copies)
		var total uint64
		for i, size := range sizes {
			out := make([]byte, size)
			rand.NewChaCha8([32]byte{byte(i)}).Read(out)
			var wg sync.WaitGroup
			wg.Go(func() { r.client.Write(out) })
			in := make([]byte, size)
			if _, err := io.ReadFull(r.server, in); err != nil || !bytes.Equal(in, out) {
				t.Fatalf("%d bytes: %v, or they differ", size, err)
			}
			wg.Wait()
			total += uint64(size)
		}
		r.client.Close()
		r.server.Close()
		if err := r.wait(t); err != nil {
			t.Errorf("Pipe = %v, want nil", err)
		}
		r.wantCounts(t, total, 0)
	})
}

// An eventfd can be read but not spliced.
func TestWhatCannotBeSplicedIsCopied(t *testing.T) {
	fd, _, errno := syscall.Syscall(syscall.SYS_EVENTFD2, 7, syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if errno != 0 {
		t.Fatal(errno)
	}
	defer syscall.Close(int(fd))
	l := load{bulk: true} // the last step was large: this one tries to splice
	defer l.release()
	n, err := l.fill(int(fd))
	if n != 8 || err != nil || !l.copies || l.pipe != nil || l.buf == nil || l.buf[0] != 7 {
		t.Errorf("fill = %d, %v, copies %v; want the 8 bytes in a buffer, and no more tries", n, err, l.copies)
	}
}

func TestCopyWriteZeroEndsInAnError(t *testing.T) {
	p, err := newPipe()
	if err != nil {
		t.Fatal(err)
	}
	syscall.Close(p.w) // now a splice out of it moves 0 bytes, without error
	p.w = p.r
	defer syscall.Close(p.r)
	near, _ := tcpPair(t)
	raw, err := near.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	l := load{len: 5, pipe: p}
	raw.Control(func(fd uintptr) {
		if n, err := l.drain(int(fd)); n != 0 || !errors.Is(err, io.ErrNoProgress) {
			t.Errorf("drain = %d, %v, want ErrNoProgress", n, err)
		}
	})
}

// sendRandom sends size bytes in writes of random length, ends, and returns
// their sum.
func sendRandom(t *testing.T, c *net.TCPConn, seed byte, size int) (sum [32]byte) {
	src := rand.NewChaCha8([32]byte{seed})
	lengths := rand.New(rand.NewPCG(uint64(seed), 0))
	h := sha256.New()
	for size > 0 {
		block := make([]byte, min(size, 1+lengths.IntN(300<<10)))
		src.Read(block)
		h.Write(block)
		if _, err := c.Write(block); err != nil {
			t.Errorf("write: %v", err)
			return sum
		}
		size -= len(block)
	}
	c.CloseWrite()
	h.Sum(sum[:0])
	return sum
}

// sumOf reads c to its end and returns the sum.
func sumOf(t *testing.T, c *net.TCPConn) (sum [32]byte) {
	h := sha256.New()
	if _, err := io.Copy(h, c); err != nil {
		t.Errorf("read: %v", err)
	}
	h.Sum(sum[:0])
	return sum
}

func TestCountersMoveWhileTheConnectionLives(t *testing.T) {
	eachWay(t, func(t *testing.T, copies bool) {
		r := newRig(t, copies)
		send(t, r.client, "12345")
		wantRead(t, "arrives", r.server, "12345")
		deadline := time.Now().Add(patience)
		for r.counters.Sent.Load() != 5 {
			if time.Now().After(deadline) {
				t.Fatalf("counted %d bytes, want 5, while the connection lives", r.counters.Sent.Load())
			}
		}
	})
}

// An idle connection must not hold descriptors besides its sockets, nor a
// buffer, whatever it has carried.
func TestIdleConnectionsHoldNothing(t *testing.T) {
	const n = 20
	pipes.drop()
	rigs := make([]*rig, n)
	for i := range rigs {
		rigs[i] = newRig(t, false)
	}
	before := openDescriptors(t) // sockets only: no byte has moved
	block := make([]byte, 4<<20) // enough to be spliced
	for _, r := range rigs {
		var wg sync.WaitGroup
		wg.Go(func() { r.client.Write(block) })
		if _, err := io.CopyN(io.Discard, r.server, int64(len(block))); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
	}
	// One after the other they need one pipe; the pool may keep a few more
	// when a direction is late in giving its pipe back.
	if more := openDescriptors(t) - before; more < 2 || more > 2*4 {
		t.Errorf("%d idle connections hold %d descriptors more than their sockets, want those of a few idle pipes", n, more)
	}
}

func TestPipesAreUsedAgainAndBounded(t *testing.T) {
	var pool pipePool
	defer pool.drop()
	first, err := pool.get()
	if err != nil {
		t.Fatal(err)
	}
	pool.put(first)
	again, err := pool.get()
	if err != nil || again != first {
		t.Errorf("get = %p, %v, want the pipe that was put back, %p", again, err, first)
	}
	var many []*pipe
	for range idlePipes + 5 {
		p, err := pool.get()
		if err != nil {
			t.Fatal(err)
		}
		many = append(many, p)
	}
	for _, p := range append(many, again) {
		pool.put(p)
	}
	if len(pool.idle) != idlePipes {
		t.Errorf("the pool keeps %d pipes, want %d", len(pool.idle), idlePipes)
	}
}

// drop closes all idle pipes.
func (p *pipePool) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, idle := range p.idle {
		idle.close()
	}
	p.idle = nil
}

// openDescriptors counts the descriptors of this process.
func openDescriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func TestAllocationsDoNotGrowWithBytes(t *testing.T) {
	eachWay(t, func(t *testing.T, copies bool) {
		r := newRig(t, copies)
		out, in := make([]byte, 1<<20), make([]byte, 1<<20)
		more := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for range more {
				r.client.Write(out)
			}
		})
		allocs := testing.AllocsPerRun(50, func() {
			more <- struct{}{}
			if _, err := io.ReadFull(r.server, in); err != nil {
				t.Error(err)
			}
		})
		close(more)
		wg.Wait()
		if allocs > 0 {
			t.Errorf("%v allocations for 1 MiB, want 0", allocs)
		}
	})
}

func TestSplitWritesArriveInOrder(t *testing.T) {
	eachWay(t, func(t *testing.T, copies bool) {
		r := newRig(t, copies)
		want := bytes.Repeat([]byte("0123456789"), 1000)
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() {
			for b := range bytes.SplitSeq(want, []byte("5")) {
				r.client.Write(b)
				r.client.Write([]byte("5"))
			}
			r.client.CloseWrite()
		})
		got, err := io.ReadAll(r.server)
		if err != nil || !bytes.Equal(bytes.TrimSuffix(got, []byte("5")), want) {
			t.Errorf("read %d bytes, %v; they differ from what was sent", len(got), err)
		}
	})
}
