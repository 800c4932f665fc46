package sockowner

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
)

// learning starts a client's Run until the test ends, and returns what it hears.
func learning(t *testing.T, path string) (c *Client, heard chan error) {
	t.Helper()
	heard = make(chan error, 100)
	c = NewClient(ClientConfig{Path: path, Learned: func(_ Means, err error) { heard <- err }})
	ctx, cancel := context.WithCancel(t.Context())
	var g lifecycle.Group
	g.Go(ctx, "learn", func(ctx context.Context) {
		if err := c.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		g.Wait()
		c.Close()
	})
	return c, heard
}

// wait returns the next that is heard.
func wait(t *testing.T, heard chan error) error {
	t.Helper()
	select {
	case err := <-heard:
		return err
	case <-time.After(10 * time.Second):
		t.Fatal("nothing is heard of the means")
		return nil
	}
}

// TestWithoutTheAgent is the life of a client whose agent comes and goes.
func TestWithoutTheAgent(t *testing.T) {
	netnstest.Require(t)
	server, server6 := listenAt(t, "127.0.0.1:0"), listenAt(t, "[::1]:0")
	cgroups := mountCgroups(t)
	unit, later, pods := newCgroup(t, cgroups, "unit"), newCgroup(t, cgroups, "later"), newCgroup(t, cgroups, "kubepods")
	host := NewHost(HostConfig{Names: []string{"ambit-kubelet3"}, Cgroups: cgroups})
	before := dialer(t, "ambit-kubelet3", unit, server.String())
	kubelet6 := dialer(t, "ambit-kubelet3", unit, server6.String())
	other := dialer(t, "ambit-other", later, server.String())
	inPod := dialer(t, "ambit-kubelet3", pods, server.String())

	path := filepath.Join(t.TempDir(), "s")
	stop := serveAll(t, path, Service{Lookup: host.Lookup, Means: host.Means})
	c, heard := learning(t, path)
	if err := wait(t, heard); err != nil {
		t.Fatalf("the agent hands nothing over: %v", err)
	}
	stop()

	after := dialer(t, "ambit-helper", unit, server.String()) // of the kubelet's, and new
	for _, tt := range []struct {
		name           string
		client, server netip.AddrPort
		want           Owner
		wantErr        bool
	}{
		{"the kubelet", before, server, Owner{Found: true, Kubelet: true}, false},
		{"the kubelet over IPv6", kubelet6, server6, Owner{Found: true, Kubelet: true}, false},
		{"one that the kubelet has started since", after, server, Owner{Found: true, Kubelet: true}, false},
		{"another process of the node", other, server, Owner{Found: true}, true},
		{"a pod's process that calls itself kubelet", inPod, server, Owner{Found: true}, true},
		{"nobody", netip.MustParseAddrPort("127.0.0.1:1"), server, Owner{}, false},
		{"two families", kubelet6, server, Owner{}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := c.Owner(t.Context(), tt.client, tt.server)
			if (err != nil) != tt.wantErr || got != tt.want {
				t.Errorf("Owner = %+v, %v; want %+v, error %v", got, err, tt.want, tt.wantErr)
			}
		})
	}

	// A kubelet that is started anew meanwhile is another's cgroup, until an agent says.
	anew := dialer(t, "ambit-kubelet3", later, server.String())
	if got, err := c.Owner(t.Context(), anew, server); err == nil || got.Kubelet {
		t.Errorf("a kubelet in another cgroup: Owner = %+v, %v; want it refused", got, err)
	}
}

func TestAnAgentThatCannotSayTakesBackWhatItHasSaid(t *testing.T) {
	netnstest.Require(t)
	server := listenAt(t, "127.0.0.1:0")
	client := dialer(t, "ambit-other", "", server.String())
	host := NewHost(HostConfig{AnySocket: true})
	path := filepath.Join(t.TempDir(), "s")
	c := NewClient(ClientConfig{Path: path})
	defer c.Close()
	for _, tt := range []struct {
		name    string
		service Service
		learned bool
		want    Owner
	}{
		{"no agent yet", Service{}, false, Owner{}},
		{"every socket counts", Service{Lookup: host.Lookup, Means: host.Means}, true, Owner{Found: true, Kubelet: true}},
		{"an agent that hands nothing over", Service{Lookup: host.Lookup}, false, Owner{}},
		{"one that does again", Service{Lookup: host.Lookup, Means: host.Means}, true, Owner{Found: true, Kubelet: true}},
		{"one that cannot say", Service{Lookup: host.Lookup, Means: func(context.Context) (Means, error) { return Means{}, errNoCgroup }}, false, Owner{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stop := func() {}
			if tt.service.Lookup != nil {
				stop = serveAll(t, path, tt.service)
			}
			_, err := c.learn(t.Context())
			if (err == nil) != tt.learned {
				t.Errorf("learn: %v, want means: %v", err, tt.learned)
			}
			stop()
			os.Remove(path)
			got, err := c.Owner(t.Context(), client, server)
			if got != tt.want || (err == nil) != tt.learned {
				t.Errorf("without the agent Owner = %+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
	// What was learned is closed with the client, and nothing is learned after.
	defer serveAll(t, path, Service{Lookup: host.Lookup, Means: host.Means})()
	c.Close()
	if _, err := c.learn(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("learn after Close: %v, want %v", err, net.ErrClosed)
	}
}

// TestWhatTheAgentHandsOverIsLookedAt has an agent that is wrong.
func TestWhatTheAgentHandsOverIsLookedAt(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	fd := int(null.Fd())
	good := Means{Any: true}.encode()
	for _, tt := range []struct {
		name   string
		frame  []byte
		rights []int
	}{
		{"no descriptor", good[:], nil},
		{"a descriptor of something else", good[:], []int{fd}},
		{"two descriptors", good[:], []int{fd, fd}},
		{"too many descriptors", good[:], []int{fd, fd, fd, fd, fd}},
		{"a short answer", good[:5], []int{fd}},
		{"the end", nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := openFiles(t)
			path := filepath.Join(t.TempDir(), "s")
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
			if err != nil {
				t.Fatal(err)
			}
			var g lifecycle.Group
			g.Go(t.Context(), "agent", func(context.Context) {
				conn, err := l.AcceptUnix()
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				if _, err := conn.Read(make([]byte, requestSize)); err != nil {
					t.Error(err)
				}
				if tt.frame == nil {
					return
				}
				if _, _, err := conn.WriteMsgUnix(tt.frame, syscall.UnixRights(tt.rights...), nil); err != nil {
					t.Error(err)
				}
			})
			c := NewClient(ClientConfig{Path: path})
			if m, err := c.learn(t.Context()); err == nil {
				t.Errorf("it is taken for %+v", m)
			}
			g.Wait()
			l.Close()
			c.Close()
			if after := openFiles(t); after != before {
				t.Errorf("%d files are open, %d before", after, before)
			}
		})
	}
}

// openFiles counts the descriptors of this process.
func openFiles(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// TestCgroupID looks at directories that are written as the kernel shows them.
func TestCgroupID(t *testing.T) {
	const kubelet, helper, container = 10, 11, 12
	proc, root := t.TempDir(), t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	pod := "/kubepods/pod0a1b2c3d-1111-2222-3333-444455556666/c"
	write(filepath.Join(proc, strconv.Itoa(helper), "cgroup"), "1:cpu:/kubelet\n0::/unit\n")
	write(filepath.Join(proc, strconv.Itoa(container), "cgroup"), "1:cpu:"+pod+"\n0::/shared\n")
	procs := func(pids ...int) string {
		var b strings.Builder
		for _, p := range pids {
			b.WriteString(strconv.Itoa(p) + "\n")
		}
		return b.String()
	}
	write(filepath.Join(root, "cgroup.procs"), procs(kubelet))
	write(filepath.Join(root, "unit/cgroup.procs"), procs(helper, kubelet))
	write(filepath.Join(root, "gone/cgroup.procs"), procs(kubelet, 13))
	write(filepath.Join(root, "shared/cgroup.procs"), procs(kubelet, container))
	write(filepath.Join(root, "other/cgroup.procs"), procs(helper))
	for _, tt := range []struct {
		name, path string
		want       bool
	}{
		{"one of its own", "/unit", true},
		{"one of its own, seen from a cgroup namespace", "/../../../unit", true},
		{"with a process that has ended meanwhile", "/gone", true},
		{"with a pod's process", "/shared", false},
		{"the root", "/", false},
		{"the root, seen from a cgroup namespace", "/../..", false},
		{"no cgroup v2", "", false},
		{"a directory of another", "/other", false},
		{"none", "/none", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if id := cgroupID(proc, root, tt.path, kubelet); (id != 0) != tt.want {
				t.Errorf("cgroupID(%q) = %d, want one: %v", tt.path, id, tt.want)
			}
		})
	}
}
