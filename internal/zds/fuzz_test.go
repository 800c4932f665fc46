package zds

import (
	"context"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/netns"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// socketpair is a connection without a listener.
func socketpair(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "socketpair")
		c, err := net.FileConn(file)
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = c.(*net.UnixConn)
		t.Cleanup(func() { c.Close() })
	}
	return conns[0], conns[1]
}

// sink is a handler that accepts everything and keeps nothing.
type sink struct{}

func (sink) Add(_ context.Context, _ string, _ Info, ns *netns.NS) error { return ns.Close() }
func (sink) Keep(context.Context, string) error                          { return nil }
func (sink) Del(context.Context, string) error                           { return nil }
func (sink) Snapshot(context.Context, map[string]bool) error             { return nil }
func (sink) Disconnected(error)                                          {}

// openFDs counts the open descriptors of this process.
func openFDs(t testing.TB) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// send puts data, cut into packets at each 0xee byte, into c, with some
// descriptors beside each.
func send(c *net.UnixConn, data []byte, fd int, count uint8) {
	for part := range strings.SplitSeq(string(data), "\xee") {
		var oob []byte
		if n := int(count % 5); n > 0 {
			oob = unix.UnixRights([]int{fd, fd, fd, fd, fd}[:n]...)
		}
		c.WriteMsgUnix([]byte(part), oob, nil)
		count /= 5
	}
	c.CloseWrite()
}

// FuzzClient throws packets at ztunnel's end: it ends, and no descriptor is left
// open, whatever came.
func FuzzClient(f *testing.F) {
	f.Add(unhex(f, add1), uint8(1))
	f.Add(unhex(f, add1+"ee"+done+"ee"+del1), uint8(1))
	f.Add(unhex(f, keep1+"ee"+done+"ee"+done), uint8(0))
	f.Add(unhex(f, add1+"ee"+add1), uint8(2+5*4))
	f.Add([]byte{}, uint8(4))
	here, err := netns.Current()
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { here.Close() })
	f.Fuzz(func(t *testing.T, data []byte, count uint8) {
		before := openFDs(t)
		agent, ours := socketpair(t)
		here.WithFD(func(fd int) error { send(agent, data, fd, count); return nil })
		s := session{client: NewClient(ClientConfig{}, ClientTrace{}), conn: ours, handler: sink{}, present: map[string]bool{}}
		if err := s.run(t.Context()); err == nil {
			t.Error("the conversation ended without a reason")
		}
		ours.Close()
		agent.Close()
		if after := openFDs(t); after != before {
			t.Errorf("%d descriptors are open, %d before", after, before)
		}
	})
}

// FuzzServer throws packets at the agent's end.
func FuzzServer(f *testing.F) {
	f.Add(unhex(f, hello+"ee"+ok+"ee"+ok), uint8(0))
	f.Add(unhex(f, hello+"ee"+"0a 04 0a 02 'no'"+"ee"+ok), uint8(0))
	f.Add(unhex(f, hello+"ee"+ok), uint8(5))
	here, err := netns.Current()
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { here.Close() })
	f.Fuzz(func(t *testing.T, data []byte, count uint8) {
		before := openFDs(t)
		ztunnel, ours := socketpair(t)
		here.WithFD(func(fd int) error { send(ztunnel, data, fd, count); return nil })
		s := NewServer(ServerConfig{}, func() []Pod { return []Pod{{UID: "u1"}} }, ServerTrace{})
		var g lifecycle.Group
		g.Go(t.Context(), "test", func(ctx context.Context) { s.serve(ctx, ours) })
		g.Wait()
		ztunnel.Close()
		if s.Connected() {
			t.Error("a ztunnel that is gone counts as connected")
		}
		if after := openFDs(t); after != before {
			t.Errorf("%d descriptors are open, %d before", after, before)
		}
	})
}

// FuzzRequest checks what is let through: exactly one descriptor with an add,
// none with others, always a uid, and the same meaning when it is sent again.
func FuzzRequest(f *testing.F) {
	for _, p := range []string{add1, keep1, del1, done, "0a 04 0a 02 'u1'"} {
		f.Add(unhex(f, p), uint8(1))
		f.Add(unhex(f, p), uint8(0))
	}
	f.Fuzz(func(t *testing.T, data []byte, count uint8) {
		p := &packet{data: data, fds: make([]int, count%3)}
		req, err := decodeRequest(p)
		if err != nil {
			return
		}
		want := 0
		if req.GetAdd() != nil {
			want = 1
		}
		if len(p.fds) != want {
			t.Errorf("%v was let through with %d descriptors", req, len(p.fds))
		}
		if req.GetSnapshotSent() == nil && req.GetAdd().GetUid()+req.GetDel().GetUid()+req.GetKeep().GetUid() == "" {
			t.Errorf("%v was let through without a uid", req)
		}
		again, err := proto.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		twice, err := decodeRequest(&packet{data: again, fds: p.fds})
		if err != nil || !proto.Equal(req, twice) {
			t.Errorf("%v sent again is %v, %v", req, twice, err)
		}
	})
}
