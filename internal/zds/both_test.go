package zds

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
)

// memory is a handler that is what ztunnel is to the agent: a set of pods.
type memory struct {
	mu   sync.Mutex
	pods map[string]netns.ID
}

func (m *memory) Add(_ context.Context, uid string, _ Info, ns *netns.NS) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pods[uid] = ns.ID()
	return ns.Close()
}

func (m *memory) Keep(context.Context, string) error { return nil }

func (m *memory) Del(_ context.Context, uid string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.pods, uid)
	return nil
}

func (m *memory) Snapshot(_ context.Context, present map[string]bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.pods, func(uid string, _ netns.ID) bool { return !present[uid] })
	return nil
}

func (m *memory) Disconnected(error) {}

// TestBothEndsAgreeInTheEnd adds and removes pods at random while ztunnels come
// and go, and then compares what the agent means with what ztunnel holds.
func TestBothEndsAgreeInTheEnd(t *testing.T) {
	s := newServer(t, ServerConfig{})
	m := &memory{pods: map[string]netns.ID{}}
	namespaces := []*netns.NS{netnstest.New(t), netnstest.New(t), netnstest.New(t)}

	meant := map[string]Pod{}
	publish := func() {
		var all []Pod
		for _, p := range meant {
			all = append(all, p)
		}
		s.setPods(all...)
	}
	runClient := func() (stop func()) {
		ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
		var g lifecycle.Group
		g.Go(ctx, "client", func(ctx context.Context) {
			NewClient(ClientConfig{Path: s.path}, ClientTrace{}).Run(ctx, m)
		})
		return func() { cancel(); g.Wait() }
	}
	stop := runClient()
	for i := range 120 {
		uid := fmt.Sprintf("u%d", rand.IntN(10))
		if _, there := meant[uid]; there && rand.IntN(2) == 0 {
			delete(meant, uid)
			publish()
			if err := s.Del(t.Context(), uid); err != nil {
				t.Fatal(err)
			}
		} else {
			meant[uid] = Pod{UID: uid, NS: namespaces[rand.IntN(len(namespaces))]}
			publish()
			if err := s.Add(t.Context(), meant[uid]); err != nil {
				t.Fatal(err)
			}
		}
		if i%60 == 30 {
			stop()
			stop = runClient()
		}
	}
	defer func() { stop() }()
	s.waitUntil("connected", s.Connected)
	want := map[string]netns.ID{}
	for uid, p := range meant {
		want[uid] = p.NS.ID()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !maps.Equal(m.pods, want) {
		t.Errorf("ztunnel holds %v, the agent means %v", m.pods, want)
	}
}

func TestListen(t *testing.T) {
	t.Run("makes a directory for its owner alone, and a socket likewise", func(t *testing.T) {
		path := socketPath(t)
		listenAt(t, path)
		for p, want := range map[string]os.FileMode{filepath.Dir(path): 0o700, path: 0o600} {
			if st, err := os.Stat(p); err != nil || st.Mode().Perm() != want {
				t.Errorf("%s: mode %v, %v, want %v", p, st.Mode(), err, want)
			}
		}
	})
	t.Run("closes a directory that holds nothing else", func(t *testing.T) {
		dir := t.TempDir()
		os.Chmod(dir, 0o755)
		listenAt(t, filepath.Join(dir, "s"))
		if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("mode %v, %v, want 0700", st.Mode(), err)
		}
	})
	t.Run("refuses a directory that others use", func(t *testing.T) {
		dir := t.TempDir()
		os.Chmod(dir, 0o755)
		os.WriteFile(filepath.Join(dir, "theirs"), nil, 0o644)
		if l, err := Listen(filepath.Join(dir, "s")); err == nil {
			l.Close()
			t.Error("want an error")
		}
	})
	t.Run("refuses to replace a file", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "s")
		os.Chmod(filepath.Dir(path), 0o700)
		os.WriteFile(path, []byte("precious"), 0o600)
		if l, err := Listen(path); err == nil {
			l.Close()
			t.Error("want an error")
		}
	})
	t.Run("replaces what an agent before us has left", func(t *testing.T) {
		path := socketPath(t)
		listenAt(t, path)
		l := listenAt(t, path)
		l.SetDeadline(time.Now().Add(patience))
		c, err := net.Dial("unixpacket", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		in, err := l.AcceptUnix()
		if err != nil {
			t.Fatal(err)
		}
		in.Close()
	})
}
