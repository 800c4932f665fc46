package zds

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// patience is how long a test waits for what must come at once.
const patience = 5 * time.Second

// end is a hand-made end of the conversation: bytes in, bytes out.
type end struct {
	t *testing.T
	c *net.UnixConn
}

// write sends a packet given in hex, with descriptors beside it.
func (e end) write(why, packet string, fds ...int) {
	e.t.Helper()
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if _, _, err := e.c.WriteMsgUnix(unhex(e.t, packet), oob, nil); err != nil {
		e.t.Fatalf("%s: %v", why, err)
	}
}

// want reads a packet and compares it with hex. It returns the namespace that
// came with it, if any.
func (e end) want(why, packet string) *netns.NS {
	e.t.Helper()
	got, ns := e.read(why)
	if want := unhex(e.t, packet); string(got) != string(want) {
		e.t.Fatalf("%s: got % x, want % x", why, got, want)
	}
	return ns
}

// read reads a packet and the namespace beside it.
func (e end) read(why string) ([]byte, *netns.NS) {
	e.t.Helper()
	e.c.SetReadDeadline(time.Now().Add(patience))
	data, oob := make([]byte, 2048), make([]byte, 128)
	n, oobn, flags, _, err := e.c.ReadMsgUnix(data, oob)
	if err != nil || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		e.t.Fatalf("%s: %v, flags %#x", why, err, flags)
	}
	fds, err := readRights(oob[:oobn])
	if err != nil || len(fds) > 1 {
		e.t.Fatalf("%s: descriptors %v, %v", why, fds, err)
	}
	if len(fds) == 0 {
		return data[:n], nil
	}
	ns, err := netns.FromFD(fds[0])
	if err != nil {
		e.t.Fatalf("%s: %v", why, err)
	}
	e.t.Cleanup(func() { ns.Close() })
	return data[:n], ns
}

// wantEnd wants the other side to close.
func (e end) wantEnd(why string) {
	e.t.Helper()
	e.c.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, 2048)
	for {
		if _, err := e.c.Read(buf); errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) {
			return
		} else if err != nil {
			e.t.Fatalf("%s: %v, want the connection closed", why, err)
		}
	}
}

// unhex reads hex with blanks, and text in quotes.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	var all []byte
	for i, part := range strings.Split(s, "'") {
		if i%2 == 1 {
			all = append(all, part...)
			continue
		}
		b, err := hex.DecodeString(strings.ReplaceAll(part, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	return all
}

// socketPath is a place for a socket: short, for the kernel allows 107 bytes.
func socketPath(t testing.TB) string { return filepath.Join(t.TempDir(), "z", "s") }

// listenAt is Listen that fails the test.
func listenAt(t testing.TB, path string) *net.UnixListener {
	t.Helper()
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// background runs fn until the test ends, and waits for it.
func background(t testing.TB, fn func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var g lifecycle.Group
	g.Go(ctx, "test", func(ctx context.Context) {
		if err := fn(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); g.Wait() })
}

// serverFixture is a running server.
type serverFixture struct {
	*Server
	t    *testing.T
	path string

	mu   sync.Mutex
	pods []Pod
	ends []error // of connections
}

// newServer runs a server whose snapshots are what setPods said last.
func newServer(t *testing.T, cfg ServerConfig) *serverFixture {
	t.Helper()
	f := &serverFixture{t: t, path: socketPath(t)}
	f.Server = NewServer(cfg, func() []Pod {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.pods
	}, ServerTrace{Disconnected: func(_ Peer, err error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.ends = append(f.ends, err)
	}})
	l := listenAt(t, f.path)
	background(t, func(ctx context.Context) error { return f.Serve(ctx, l) })
	return f
}

func (f *serverFixture) setPods(pods ...Pod) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pods = pods
}

// connect is a ztunnel that has not spoken yet.
func (f *serverFixture) connect() end {
	f.t.Helper()
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: f.path, Net: "unixpacket"})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { c.Close() })
	return end{f.t, c}
}

// connectEmpty is a ztunnel that has taken an empty snapshot.
func (f *serverFixture) connectEmpty() end {
	f.t.Helper()
	z := f.connect()
	z.write("hello", "08 01")
	z.want("an empty snapshot", "1a 00")
	z.write("ack", "0a 00")
	return z
}

// waitUntil waits until cond holds, asked again at every change of peers.
func (f *serverFixture) waitUntil(why string, cond func() bool) {
	f.t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		changed := f.Changed()
		if cond() {
			return
		}
		select {
		case <-changed:
		case <-timer.C:
			f.t.Fatalf("%s: did not happen", why)
		}
	}
}

// peerCount is how many ztunnels are connected.
func (f *serverFixture) peerCount() int {
	f.Server.mu.Lock()
	defer f.Server.mu.Unlock()
	return len(f.peers)
}

// start runs fn and gives its error later.
func start(t testing.TB, fn func() error) <-chan error {
	done := make(chan error, 1)
	var g lifecycle.Group
	g.Go(context.WithoutCancel(t.Context()), "test", func(context.Context) { done <- fn() })
	t.Cleanup(g.Wait)
	return done
}

// recorder is a handler that writes down what it is told.
type recorder struct {
	next chan string

	mu     sync.Mutex
	refuse map[string]error
}

func newRecorder() *recorder {
	return &recorder{refuse: map[string]error{}, next: make(chan string, 100)}
}

func (r *recorder) note(format string, args ...any) {
	r.next <- fmt.Sprintf(format, args...)
}

// refuseTo makes every message about uid fail.
func (r *recorder) refuseTo(uid string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refuse[uid] = err
}

func (r *recorder) refusal(uid string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refuse[uid]
}

func (r *recorder) Add(_ context.Context, uid string, info Info, ns *netns.NS) error {
	defer ns.Close()
	r.note("add %s %s/%s as %s in %d", uid, info.Namespace, info.Name, info.ServiceAccount, ns.ID().Inode)
	return r.refusal(uid)
}

func (r *recorder) Keep(_ context.Context, uid string) error {
	r.note("keep %s", uid)
	return r.refusal(uid)
}

func (r *recorder) Del(_ context.Context, uid string) error {
	r.note("del %s", uid)
	return r.refusal(uid)
}

func (r *recorder) Snapshot(_ context.Context, present map[string]bool) error {
	r.note("snapshot %v", present)
	return nil
}

func (r *recorder) Disconnected(err error) { r.note("disconnected %v", errors.Is(err, ErrProtocol)) }

// want waits for the next call.
func (r *recorder) want(t testing.TB, want string) {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case got := <-r.next:
		if got != want {
			t.Fatalf("handler was told %q, want %q", got, want)
		}
	case <-timer.C:
		t.Fatalf("handler was not told %q", want)
	}
}
