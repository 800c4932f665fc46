package capture

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// listen listens on loopback and calls every connection one that was going to
// target; a zero target means "not redirected".
func listen(t *testing.T, target netip.AddrPort, trace Trace) (*Listener, *net.TCPListener) {
	t.Helper()
	var lc net.ListenConfig
	nl, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nl.Close() })
	l := NewListener(nl, trace)
	if target.IsValid() {
		l.original = func(*net.TCPConn) (netip.AddrPort, error) { return target, nil }
	}
	return l, nl.(*net.TCPListener)
}

// dial connects to l.
func dial(t *testing.T, l net.Listener) *net.TCPConn {
	t.Helper()
	var d net.Dialer
	c, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

func TestAcceptKeepsOriginalDestination(t *testing.T) {
	want := netip.MustParseAddrPort("10.9.9.9:80")
	l, nl := listen(t, netip.MustParseAddrPort("[::ffff:10.9.9.9]:80"), Trace{})
	client := dial(t, nl)
	c, err := l.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.TCP.Close()
	if c.Target != want {
		t.Errorf("target = %v, want %v", c.Target, want)
	}
	if got := c.Client.String(); got != client.LocalAddr().String() {
		t.Errorf("client = %v, want %v", got, client.LocalAddr())
	}
}

func TestLoopGuard(t *testing.T) {
	tests := []struct {
		name   string
		target netip.AddrPort // zero: where we listen
		refuse bool
	}{
		{name: "not redirected: our port was called by its number", refuse: true},
		{name: "redirected from our outbound port on loopback", target: netip.MustParseAddrPort("127.0.0.1:15001"), refuse: true},
		{name: "redirected from our tunnel port on IPv6 loopback", target: netip.MustParseAddrPort("[::1]:15008"), refuse: true},
		{name: "the tunnel port of another pod", target: netip.MustParseAddrPort("10.0.0.9:15008")},
		{name: "an application", target: netip.MustParseAddrPort("10.0.0.9:80")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var refused atomic.Int32
			l, nl := listen(t, tt.target, Trace{Refused: func(_, _ netip.AddrPort, err error) {
				if _, ok := errors.AsType[*LoopError](err); !ok {
					t.Errorf("refused because of %v, want a LoopError", err)
				}
				refused.Add(1)
			}})
			client := dial(t, nl)
			if tt.refuse {
				accepted := make(chan error, 1)
				go func() { _, err := l.Accept(t.Context()); accepted <- err }()
				if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("the client reads %v, want a reset", err)
				}
				nl.Close()
				if err := <-accepted; !errors.Is(err, net.ErrClosed) {
					t.Errorf("Accept = %v, want closed", err)
				}
				if refused.Load() != 1 {
					t.Errorf("%d refusals reported, want 1", refused.Load())
				}
				return
			}
			c, err := l.Accept(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			c.TCP.Close()
		})
	}
}

// Out of descriptors: Accept waits, reports, and goes on when some are free. The
// connection that had to wait is not lost.
func TestAcceptWhenDescriptorsRunOut(t *testing.T) {
	short := make(chan error, 1000)
	l, nl := listen(t, netip.MustParseAddrPort("10.9.9.9:80"), Trace{Short: func(err error, wait time.Duration) {
		if wait <= 0 || wait > longestWait {
			t.Errorf("wait of %v, want up to %v", wait, longestWait)
		}
		select {
		case short <- err:
		default:
		}
	}})
	dial(t, nl)
	giveBack := useUpDescriptors(t)
	accepted := make(chan error, 1)
	go func() {
		c, err := l.Accept(t.Context())
		if err == nil {
			c.TCP.Close()
		}
		accepted <- err
	}()
	select {
	case err := <-short:
		if !errors.Is(err, syscall.EMFILE) {
			t.Errorf("reported %v, want %v", err, syscall.EMFILE)
		}
	case err := <-accepted:
		t.Errorf("Accept = %v although descriptors have run out", err)
	}
	giveBack()
	if err := <-accepted; err != nil {
		t.Errorf("Accept = %v after descriptors were free again", err)
	}
}

// useUpDescriptors leaves this process without descriptors until the returned
// function is called.
func useUpDescriptors(t *testing.T) (giveBack func()) {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	low := limit
	low.Cur = 256
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	var held []*os.File
	for {
		f, err := os.Open(os.DevNull)
		if err != nil {
			break
		}
		held = append(held, f)
	}
	return func() {
		for _, f := range held {
			f.Close()
		}
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			t.Error(err)
		}
	}
}

func TestAcceptEndsWithItsContextDuringAWait(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("asked to stop")
	l := NewListener(failing{syscall.ENFILE}, Trace{Short: func(error, time.Duration) { cancel(why) }})
	if _, err := l.Accept(ctx); !errors.Is(err, why) {
		t.Errorf("Accept = %v, want %v", err, why)
	}
}

func TestAcceptReportsWhatIsBrokenForGood(t *testing.T) {
	l := NewListener(failing{syscall.EINVAL}, Trace{})
	if _, err := l.Accept(t.Context()); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("Accept = %v, want %v", err, syscall.EINVAL)
	}
}

// failing is a listener of the kernel's worst days.
type failing struct{ err error }

func (f failing) Accept() (net.Conn, error) { return nil, f.err }
func (f failing) Close() error              { return nil }
func (f failing) Addr() net.Addr            { return &net.TCPAddr{} }

// Serve hands out connections, stops with ctx, and waits for what lives.
func TestServeWaitsForItsConnections(t *testing.T) {
	l, nl := listen(t, netip.MustParseAddrPort("10.9.9.9:80"), Trace{})
	polite, stop := context.WithCancel(t.Context())
	life, cut := context.WithCancel(t.Context())
	defer cut()
	began, returned := make(chan struct{}), make(chan error, 1)
	go func() {
		returned <- l.Serve(polite, life, "test", func(life context.Context, c *Conn) {
			defer c.TCP.Close()
			close(began)
			<-life.Done()
		})
	}()
	dial(t, nl)
	<-began
	stop()
	select {
	case err := <-returned:
		t.Fatalf("Serve returned %v while a connection lives", err)
	case <-time.After(20 * time.Millisecond):
	}
	cut()
	if err := <-returned; err != nil {
		t.Errorf("Serve = %v, want nil after it was asked to stop", err)
	}
}

// One pod cannot use up the descriptors of all: beyond its share a connection is
// reset and reported, and there is room again when one has ended.
func TestServeKeepsAPodToItsShare(t *testing.T) {
	crowded := make(chan error, 10)
	l, nl := listen(t, netip.MustParseAddrPort("10.9.9.9:80"), Trace{Refused: func(_, _ netip.AddrPort, err error) { crowded <- err }})
	l.most = 2
	ctx, stop := context.WithCancel(t.Context())
	began, end, returned := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		returned <- l.Serve(ctx, t.Context(), "test", func(_ context.Context, c *Conn) {
			defer c.TCP.Close()
			began <- struct{}{}
			<-end
		})
	}()
	for range 2 {
		dial(t, nl)
		<-began
	}
	// A reset may come before the dialer has looked at its connection.
	knock := func() error {
		var d net.Dialer
		c, err := d.DialContext(t.Context(), "tcp", nl.Addr().String())
		if err != nil {
			return err
		}
		t.Cleanup(func() { c.Close() })
		_, err = c.Read(make([]byte, 1))
		return err
	}
	if err := knock(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the third client gets %v, want a reset", err)
	}
	if err := <-crowded; !isCrowd(err) {
		t.Errorf("reported %v, want a CrowdError", err)
	}
	end <- struct{}{}
	for served := false; !served; { // the one that ended may still be counted for a moment
		go func() { _ = knock() }()
		select {
		case <-began:
			served = true
		case err := <-crowded:
			if !isCrowd(err) {
				t.Fatalf("reported %v, want a CrowdError", err)
			}
		}
	}
	close(end)
	stop()
	if err := <-returned; err != nil {
		t.Errorf("Serve = %v", err)
	}
}

func isCrowd(err error) bool {
	_, ok := errors.AsType[*CrowdError](err)
	return ok
}

// A zone must not make two of one address: the guard against loops compares
// them.
func TestAddressesHaveNoZone(t *testing.T) {
	a := addrPort(&net.TCPAddr{IP: net.ParseIP("fe80::1"), Port: 15001, Zone: "eth0"})
	if want := netip.MustParseAddrPort("[fe80::1]:15001"); a != want {
		t.Errorf("addrPort = %v, want %v", a, want)
	}
}

func TestShareLeavesHalf(t *testing.T) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if got := Share(); got < leastShare || got > mostShare || (got > leastShare && uint64(got)*4 > limit.Cur) {
		t.Errorf("Share() = %d of %d descriptors: two directions of two each want more than half", got, limit.Cur)
	}
}

// Who asks only whether somebody takes connections is told by the end of his,
// and nobody else hears of it.
func TestSelfTestIsAnsweredAndNotHandedOut(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		l, nl := listen(t, netns.SelfTest(v6), Trace{Refused: func(_, target netip.AddrPort, err error) {
			t.Errorf("a self-test to %v was reported: %v", target, err)
		}})
		client := dial(t, nl)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var g lifecycle.Group
		g.Go(ctx, "accept", func(ctx context.Context) {
			if c, err := l.Accept(ctx); err == nil {
				t.Errorf("a self-test was handed out: %+v", c)
			}
		})
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the client reads %v, want the end", err)
		}
		nl.Close()
		g.Wait()
	}
}
