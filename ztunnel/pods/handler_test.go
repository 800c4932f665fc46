package pods

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
	"github.com/ambit-mesh/ambit/internal/zds"
)

func TestAdd(t *testing.T) {
	b := newBench(t)
	ns := netnstest.New(t)
	b.mustAdd("a", ns)
	b.wantPods("a up")
	wantListeners(t, ns, true)
	netnstest.Do(t, ns, func() error {
		text, err := os.ReadFile("/proc/sys/net/ipv4/tcp_migrate_req")
		if err == nil && strings.TrimSpace(string(text)) != "1" {
			t.Errorf("tcp_migrate_req is %q: connections that wait are lost in an upgrade", text)
		}
		return err
	})
	b.del("a")
	b.wantPods()
	wantListeners(t, ns, false)
	b.wantCount(1, 1)
}

func TestAddIsIdempotent(t *testing.T) {
	b := newBench(t)
	ns := netnstest.New(t)
	b.mustAdd("a", ns)
	b.mustAdd("a", ns)
	b.wantPods("a up")
	b.wantCount(1, 0)
}

func TestAddFailsThenIsRetried(t *testing.T) {
	b := newBench(t)
	b.snapshotOf()
	ns := netnstest.New(t)
	squatter := squat(t, ns)
	if err := b.add("a", ns); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Fatalf("Add = %v, want that the address is in use", err)
	}
	b.wantPods("a pending")
	if got := b.ready.Pending(); len(got) != 1 || got[0] != "pod shop/a" {
		t.Errorf("readiness waits for %q, want the pod", got)
	}
	squatter.Close()
	b.wantPods("a up")
	if got := b.ready.Pending(); len(got) != 0 {
		t.Errorf("readiness waits for %q, want nothing", got)
	}
	wantListeners(t, ns, true)
}

func TestAddThenDelBeforeRetry(t *testing.T) {
	b := newBench(t)
	b.snapshotOf()
	ns := netnstest.New(t)
	squatter := squat(t, ns)
	if b.add("a", ns) == nil {
		t.Fatal("Add succeeded on a port that is taken")
	}
	b.del("a")
	squatter.Close()
	b.wantPods()
	if got := b.ready.Pending(); len(got) != 0 {
		t.Errorf("readiness waits for %q, want nothing", got)
	}
	b.mustAdd("other", netnstest.New(t)) // by now the retry has passed
	wantListeners(t, ns, false)
	b.wantCount(1, 0)
}

func TestAddAndDelBeforeSnapshot(t *testing.T) {
	b := newBench(t)
	ns := netnstest.New(t)
	b.mustAdd("a", ns)
	if got := b.ready.Pending(); len(got) != 1 || got[0] != snapshotTask {
		t.Errorf("readiness waits for %q, want the snapshot", got)
	}
	b.del("a")
	b.snapshotOf()
	b.wantPods()
	if got := b.ready.Pending(); len(got) != 0 {
		t.Errorf("readiness waits for %q, want nothing", got)
	}
}

func TestKeepWithNewSnapshot(t *testing.T) {
	b := newBench(t)
	b.mustAdd("a", netnstest.New(t))
	b.snapshotOf("a")
	b.Disconnected(errors.New("the agent restarts"))
	if got := b.ready.Pending(); len(got) != 1 || got[0] != snapshotTask {
		t.Errorf("without the agent readiness waits for %q, want the snapshot", got)
	}
	b.wantPods("a up")
	if err := b.Keep(t.Context(), "a"); err != nil {
		t.Errorf("Keep of a pod that is here: %v", err)
	}
	if err := b.Keep(t.Context(), "b"); err == nil {
		t.Error("Keep of a pod that is not here succeeded")
	}
	b.snapshotOf("a")
	b.wantPods("a up")
	b.wantCount(1, 0)
	if got := b.ready.Pending(); len(got) != 0 {
		t.Errorf("readiness waits for %q, want nothing", got)
	}
}

func TestMissingInSnapshotIsRemoved(t *testing.T) {
	b := newBench(t)
	gone, stays := netnstest.New(t), netnstest.New(t)
	b.mustAdd("gone", gone)
	b.mustAdd("stays", stays)
	b.snapshotOf("stays")
	b.wantPods("stays up")
	wantListeners(t, gone, false)
	wantListeners(t, stays, true)
}

func TestNewNamespaceRestarts(t *testing.T) {
	b := newBench(t)
	before, after := netnstest.New(t), netnstest.New(t)
	b.mustAdd("a", before)
	b.mustAdd("a", after)
	b.wantPods("a up")
	wantListeners(t, before, false)
	wantListeners(t, after, true)
	b.wantCount(2, 1)
}

func TestMissingWorkloadInfoIsRejected(t *testing.T) {
	b := newBench(t)
	clone, err := netnstest.New(t).Clone()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Add(t.Context(), "a", zds.Info{}, clone); err == nil {
		t.Error("a pod without a name was taken")
	}
	b.wantPods()
}

func TestDelOfUnknownIsNoError(t *testing.T) {
	b := newBench(t)
	b.del("nobody")
	b.wantPods()
}

// The agent goes before it has taken our hello, then after it: we are not ready,
// and come back until an agent tells all. When that one goes we are not ready
// again, and serve on.
func TestAnnounceFailure(t *testing.T) {
	b := newBench(t)
	ns := netnstest.New(t)
	path := filepath.Join(t.TempDir(), "z", "s")
	l, err := zds.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var group lifecycle.Group
	defer group.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	group.Go(ctx, "zds client", func(ctx context.Context) {
		_ = zds.NewClient(zds.ClientConfig{Path: path}, zds.ClientTrace{}).Run(ctx, b)
	})

	waiting := func(when string) {
		t.Helper()
		if got := b.ready.Pending(); len(got) != 1 || got[0] != snapshotTask {
			t.Errorf("%s readiness waits for %q, want the snapshot", when, got)
		}
	}
	for _, takesHello := range []bool{false, true} {
		if err := l.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		c, err := l.AcceptUnix()
		if err != nil {
			t.Fatal(err)
		}
		if takesHello {
			if n, err := c.Read(make([]byte, 64)); n == 0 || err != nil {
				t.Errorf("hello has %d bytes, %v", n, err)
			}
		}
		waiting("while nothing is told")
		c.Close()
	}
	if err := l.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	agent, leave := context.WithCancel(ctx)
	server := zds.NewServer(zds.ServerConfig{}, func() []zds.Pod {
		return []zds.Pod{{UID: "a", Info: info("a"), NS: ns}}
	}, zds.ServerTrace{})
	served := make(chan error, 1)
	group.Go(agent, "zds server", func(ctx context.Context) { served <- server.Serve(ctx, l) })
	eventually(t, "the agent counts us: all is acknowledged", func() error {
		if !server.Connected() || len(b.ready.Pending()) > 0 {
			return fmt.Errorf("it counts us: %v; readiness waits for %q", server.Connected(), b.ready.Pending())
		}
		return nil
	})
	b.wantPods("a up")
	leave()
	if err := <-served; err != nil {
		t.Error(err)
	}
	eventually(t, "not ready without the agent", func() error {
		if len(b.ready.Pending()) == 0 {
			return errors.New("ready")
		}
		return nil
	})
	waiting("without the agent")
	wantListeners(t, ns, true)
}

// After the end of Run the agent is told so, and nothing is left open.
func TestAddWhileStopping(t *testing.T) {
	b := newBench(t)
	ns := netnstest.New(t)
	b.mustAdd("a", ns)
	b.stop()
	<-b.done
	wantListeners(t, ns, false)
	if err := b.add("b", ns); !errors.Is(err, errStopping) {
		t.Errorf("Add after the end: %v, want %v", err, errStopping)
	}
}

// A listener that somebody closed is opened again.
func TestBrokenListenerIsServedAnew(t *testing.T) {
	b := newBench(t)
	ns := netnstest.New(t)
	b.mustAdd("a", ns)
	b.mu.RLock()
	x := b.index[subjectOf("a")]
	b.mu.RUnlock()
	x.ended(errors.New("the listener is broken"))
	eventually(t, "the pod was started again", func() error {
		b.mu.RLock()
		defer b.mu.RUnlock()
		if now := b.index[subjectOf("a")]; now == nil || now == x {
			return errors.New("not yet")
		}
		return nil
	})
	wantListeners(t, ns, true)
}
