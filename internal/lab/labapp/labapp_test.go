package labapp

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs the programs in a namespace of the test's own; stop asks them to end, and
// ended is closed when they have.
func serve(t *testing.T, linger time.Duration) (socket string, stop func(), ended <-chan struct{}) {
	t.Helper()
	netnstest.Require(t)
	ns := netnstest.New(t)
	netnstest.Up(t, ns, "lo")
	socket = filepath.Join(t.TempDir(), "app.sock")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	var group lifecycle.Group
	group.Go(ctx, "programs", func(ctx context.Context) {
		defer close(done)
		// Sockets are made on this thread; the clients' too, by the dialer below.
		if err := ns.Do(func() error { return Run(ctx, Config{Pod: "test", Control: socket, Linger: linger}) }); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); group.Wait() })
	for {
		c, err := net.Dial("unix", socket)
		if err == nil {
			c.Close()
			return socket, cancel, done
		}
		if err := lifecycle.Sleep(t.Context(), time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
}

func TestProgramsEndAfterTheirLinger(t *testing.T) {
	for name, linger := range map[string]time.Duration{"at once": 0, "slowly": 100 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			_, stop, ended := serve(t, linger)
			start := time.Now()
			stop()
			select {
			case <-ended:
			case <-time.After(5 * time.Second):
				t.Fatal("still there 5 s after they were asked to end")
			}
			if took := time.Since(start); took < linger {
				t.Errorf("ended after %v, want not before %v", took, linger)
			}
		})
	}
}

// load runs a load on servers that the test plays, and returns its report.
func load(t *testing.T, answer func(net.Conn), enough func(Load) bool) Load {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var group lifecycle.Group
	defer group.Wait()
	defer ln.Close()
	group.Go(t.Context(), "server", func(ctx context.Context) {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			group.Go(ctx, "conn", func(context.Context) { defer c.Close(); answer(c) })
		}
	})
	stop := make(chan struct{})
	stopped := false
	c := &client{
		req: Request{Address: ln.Addr().String(), Rate: 400, Text: "mark", Timeout: 2 * time.Second}, stop: stop,
		tell: func(r Reply) {
			if !stopped && enough(*r.Load) {
				stopped = true
				close(stop)
			}
		},
	}
	return *c.load(t.Context()).Load
}

func TestLoadCountsWhatIsNotAnswered(t *testing.T) {
	got := load(t, func(net.Conn) {}, func(l Load) bool { return l.Failed > 20 })
	if got.OK != 0 || got.Sent != got.Failed || len(got.Failures) != maxFailures {
		t.Errorf("a server that answers nothing: %+v", got)
	}
	if !strings.Contains(got.Failures[0].Error, "ended") && !strings.Contains(got.Failures[0].Error, "reset") && !strings.Contains(got.Failures[0].Error, "broken pipe") {
		t.Errorf("first failure: %q", got.Failures[0].Error)
	}
}

func TestLoadIsHalfOnNewConnections(t *testing.T) {
	got := load(t, func(c net.Conn) {
		buf := make([]byte, 4096)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			if !strings.Contains(string(buf[:n]), "X-Marker: mark\r\n") {
				t.Error("a request without the marker")
			}
			if _, err := c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{\"pod\":\"one\"}")); err != nil {
				return
			}
		}
	}, func(l Load) bool { return l.OK > 150 })
	if got.Failed != 0 || got.OK != got.Sent || got.Servers["one"] != got.OK {
		t.Errorf("a good server: %+v", got)
	}
	if share := float64(got.New) / float64(got.Sent); share < 0.35 || share > 0.65 {
		t.Errorf("%d of %d requests on new connections, want about half", got.New, got.Sent)
	}
}
