package zds

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
)

// agentFixture is a hand-made agent.
type agentFixture struct {
	t *testing.T
	l *net.UnixListener
	h *recorder
}

// newAgent listens, and runs a client that connects to it.
func newAgent(t *testing.T) agentFixture {
	t.Helper()
	path := socketPath(t)
	f := agentFixture{t, listenAt(t, path), newRecorder()}
	c := NewClient(ClientConfig{Path: path}, ClientTrace{})
	background(t, func(ctx context.Context) error { return c.Run(ctx, f.h) })
	return f
}

// accept takes the client's next connection, up to its hello.
func (f agentFixture) accept() end {
	f.t.Helper()
	f.l.SetDeadline(time.Now().Add(patience))
	c, err := f.l.AcceptUnix()
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { c.Close() })
	z := end{f.t, c}
	z.want("hello", hello)
	return z
}

// withFD calls fn with the descriptor of ns.
func withFD(t testing.TB, ns *netns.NS, fn func(fd int)) {
	t.Helper()
	if err := ns.WithFD(func(fd int) error { fn(fd); return nil }); err != nil {
		t.Fatal(err)
	}
}

func TestClientAnswersByteForByte(t *testing.T) {
	f := newAgent(t)
	ns := netnstest.New(t)
	f.h.refuseTo("u9", errors.New("not now"))
	a := f.accept()
	withFD(t, ns, func(fd int) { a.write("add", add1, fd) })
	f.h.want(t, fmt.Sprintf("add u1 shop/web as front in %d", ns.ID().Inode))
	a.want("ack of the add", ok)
	a.write("keep", "2a 04 0a 02 'u2'")
	f.h.want(t, "keep u2")
	a.want("ack of the keep", ok)
	withFD(t, ns, func(fd int) { a.write("add that fails", "0a 06 0a 02 'u9' 12 00", fd) })
	f.h.want(t, fmt.Sprintf("add u9 / as  in %d", ns.ID().Inode))
	a.want("an answer that says why", "0a 09 0a 07 'not now'")
	a.write("end of the snapshot", done)
	f.h.want(t, "snapshot map[u1:true u2:true u9:true]")
	a.want("ack of the snapshot", ok)
	a.write("del", del1)
	f.h.want(t, "del u1")
	a.want("ack of the del", ok)
}

func TestDelWithinASnapshotTakesThePodOutOfIt(t *testing.T) {
	f := newAgent(t)
	a := f.accept()
	a.write("keep", keep1)
	f.h.want(t, "keep u1")
	a.want("ack", ok)
	a.write("del", del1)
	f.h.want(t, "del u1")
	a.want("ack", ok)
	a.write("end", done)
	f.h.want(t, "snapshot map[]")
	a.want("ack", ok)
}

func TestClientEndsConversationsThatBreakTheProtocol(t *testing.T) {
	ns := netnstest.New(t)
	for _, tt := range []struct {
		name   string
		packet string
		fds    int
		want   string // in the answer
	}{
		{"missing workload_info rejected", "0a 04 0a 02 'u1'", 1, "without workload_info"},
		{"add without a descriptor", add1, 0, "0 descriptors"},
		{"add with two descriptors", add1, 2, "2 descriptors"},
		{"add with more descriptors than there is room for", add1, 5, "descriptors"},
		{"add without a uid", "0a 02 12 00", 1, "without a uid"},
		{"del with a descriptor", del1, 1, "needs none"},
		{"del with the uid in field 1", "12 04 0a 02 'u1'", 0, "without a uid"},
		{"keep after the snapshot", keep1, 0, "after the snapshot"},
		{"a second snapshot", done, 0, "second snapshot"},
		{"unknown payload", "32 00", 0, "not known here"},
		{"not a message", "ff ff ff", 0, "request"},
		{"text that is not UTF-8", "12 04 12 02 ff fe", 0, "request"},
		{"a packet of 1025 bytes", strings.Repeat("00", 1025), 0, "1024 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newAgent(t)
			a := f.accept()
			a.write("end of the snapshot", done)
			f.h.want(t, "snapshot map[]")
			a.want("ack", ok)
			withFD(t, ns, func(fd int) { a.write(tt.name, tt.packet, []int{fd, fd, fd, fd, fd}[:tt.fds]...) })
			answer, _ := a.read("an answer that says why")
			if !strings.Contains(string(answer), tt.want) {
				t.Errorf("answer = %q, want %q in it", answer, tt.want)
			}
			a.wantEnd("the client hangs up")
			f.h.want(t, "disconnected true")
			again := f.accept()
			again.write("the next conversation", done)
			f.h.want(t, "snapshot map[]")
		})
	}
}

func TestDescriptorOfSomethingElseIsRefusedAndNothingMore(t *testing.T) {
	f := newAgent(t)
	a := f.accept()
	devNull, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer devNull.Close()
	a.write("add", add1, int(devNull.Fd()))
	answer, _ := a.read("an answer that says why")
	if !strings.Contains(string(answer), "not a network namespace") {
		t.Errorf("answer = %q", answer)
	}
	a.write("the conversation goes on", del1)
	f.h.want(t, "del u1")
	a.want("ack", ok)
}

func TestLongErrorsAreCut(t *testing.T) {
	f := newAgent(t)
	f.h.refuseTo("u1", errors.New(strings.Repeat("é", 2000)))
	a := f.accept()
	a.write("del", del1)
	answer, _ := a.read("the answer")
	if len(answer) > packetSize || len(answer) < errorSize {
		t.Errorf("the answer has %d bytes, want at most %d", len(answer), packetSize)
	}
	if _, err := decodeAck(&packet{data: answer}); err != nil {
		t.Errorf("the answer cannot be read: %v", err)
	}
}

func TestClientComesBackWhenTheAgentDoes(t *testing.T) {
	f := newAgent(t)
	f.accept().c.Close()
	f.h.want(t, "disconnected false")
	a := f.accept()
	a.write("keep", keep1)
	f.h.want(t, "keep u1")
	a.c.Close()
	f.h.want(t, "disconnected false")
	b := f.accept()
	b.write("a snapshot starts from nothing", done)
	f.h.want(t, "snapshot map[]")
}
