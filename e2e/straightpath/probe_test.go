package straightpath

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/sockowner"
	"github.com/ambit-mesh/ambit/ztunnel"
)

// hostAgent is the agent's side of the question whose socket it is. The fabric
// is the network of the node, and this process is the kubelet.
type hostAgent struct {
	path  string
	asked atomic.Int64
	means func(context.Context) (sockowner.Means, error) // nil hands nothing over
	stop  func()
}

// hostAgent starts it; names are those of the kubelet.
func (m *mesh) hostAgent(names ...string) *hostAgent { return m.handingAgent(nil, names...) }

// handingAgent starts one that hands means over.
func (m *mesh) handingAgent(means func(context.Context) (sockowner.Means, error), names ...string) *hostAgent {
	m.t.Helper()
	a := &hostAgent{path: filepath.Join(m.t.TempDir(), "sockets.sock"), means: means}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: a.path, Net: "unix"})
	if err != nil {
		m.t.Fatal(err)
	}
	host := sockowner.NewHost(sockowner.HostConfig{Names: names})
	ctx, cancel := context.WithCancel(context.WithoutCancel(m.t.Context()))
	var g lifecycle.Group
	g.Go(ctx, "owner", func(ctx context.Context) {
		err := sockowner.Serve(ctx, l, sockowner.Service{
			Lookup: func(ctx context.Context, client, server netip.AddrPort) (o sockowner.Owner, err error) {
				a.asked.Add(1)
				return o, errors.Join(m.fabric.Do(func() (err error) {
					o, err = host.Lookup(ctx, client, server)
					return err
				}))
			},
			Means: a.means,
		})
		if err != nil {
			m.t.Errorf("sockowner: %v", err)
		}
	})
	a.stop = func() { cancel(); g.Wait() }
	m.t.Cleanup(a.stop)
	return a
}

// ownName is what the kernel calls this process.
func ownName(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// probe calls to from the node, and wants an echo or a reset.
func (m *mesh) probe(to netip.AddrPort) error {
	c, err := m.fabric.Dial(m.t.Context(), netns.DialOptions{Remote: to, SocketOptions: netns.SocketOptions{NoMark: true}})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("GET /")); err != nil {
		return err
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	answer, err := io.ReadAll(c)
	if err == nil && !strings.HasSuffix(string(answer), "GET /") {
		err = fmt.Errorf("the application said %q", answer)
	}
	return err
}

func TestKubeletProbes(t *testing.T) {
	m := newMesh(t)
	kubelet := m.hostAgent(ownName(t))
	n := m.node("n1", func(c *ztunnel.Config) { c.Capture.OwnerSocket = kubelet.path })
	server, client, outsider := m.enrolled(n, "server"), m.enrolled(n, "client"), m.pod(n, "outsider")
	server.echo(8080)

	// While policy lets plaintext in, nobody is asked.
	if err := m.probe(server.addr(8080)); err != nil {
		t.Fatalf("probe without a policy: %v", err)
	}
	if n := kubelet.asked.Load(); n != 0 {
		t.Errorf("the agent was asked %d times about what policy allows", n)
	}
	m.apply("strict", strict)
	eventually(t, "plaintext is refused", func() error {
		if c, err := outsider.tryConnect(server.addr(8080)); err == nil {
			c.Close()
			return errors.New("it is not")
		}
		return nil
	})
	if n := kubelet.asked.Load(); n != 0 {
		t.Errorf("the agent was asked %d times about a pod's address", n)
	}
	for _, to := range []netip.AddrPort{server.addr(8080), netip.AddrPortFrom(server.ip6, 8080)} {
		if err := m.probe(to); err != nil {
			t.Fatalf("probe of %v under STRICT: %v", to, err)
		}
	}
	n.z.wantAccess(t, "connection complete", `policy="kubelet probe"`)
	client.connect(server.addr(8080)).wantEcho("the mesh goes on")

	// The kernel has answered a TCP probe before we could ask. No word of it.
	asked := kubelet.asked.Load()
	c, err := m.fabric.Dial(t.Context(), netns.DialOptions{Remote: server.addr(8080), SocketOptions: netns.SocketOptions{NoMark: true}})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	eventually(t, "the agent was asked", func() error {
		if kubelet.asked.Load() == asked {
			return errors.New("it was not")
		}
		return nil
	})
	if lines := n.z.log.access("src.addr=10.1.0.1", "error="); len(lines) > 0 {
		t.Errorf("probes have left errors:\n%s", strings.Join(lines, ""))
	}

	// With the agent away nobody can say, and nobody is let in.
	kubelet.stop()
	if err := m.probe(server.addr(8080)); !isReset(err) {
		t.Errorf("probe without the agent: %v, want a reset", err)
	}
	n.z.wantAccess(t, "is the caller the kubelet?", "is the agent of this node running?")
}

// ownCgroup is by which number sockets know the cgroup of this process.
func (m *mesh) ownCgroup() uint64 {
	m.t.Helper()
	at := netip.MustParseAddrPort("127.0.0.1:7999")
	l, err := m.fabric.Listen(m.t.Context(), "tcp", at, netns.SocketOptions{NoMark: true})
	if err != nil {
		m.t.Fatal(err)
	}
	defer l.Close()
	c, err := m.fabric.Dial(m.t.Context(), netns.DialOptions{Remote: at, SocketOptions: netns.SocketOptions{NoMark: true}})
	if err != nil {
		m.t.Fatal(err)
	}
	defer c.Close()
	s, found, err := m.fabric.Socket(netip.MustParseAddrPort(c.LocalAddr().String()), at)
	if err != nil || !found || s.Cgroup == 0 {
		m.t.Fatalf("our own socket: %+v, %v, %v; want it with a cgroup v2", s, found, err)
	}
	return s.Cgroup
}

// The agent is away: what it has handed over tells the kubelet from others.
func TestProbesWhileTheAgentIsAway(t *testing.T) {
	for _, tt := range []struct {
		name string
		own  bool // this process is in the kubelet's cgroup
	}{{"of the kubelet", true}, {"of another process of the node", false}} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMesh(t)
			cgroup := m.ownCgroup()
			if !tt.own {
				cgroup++
			}
			agent := m.handingAgent(func(context.Context) (means sockowner.Means, err error) {
				means.Cgroups = []uint64{cgroup}
				means.Sockets, err = m.fabric.OpenDiag()
				return means, err
			}, "no-such-process")
			n := m.node("n1", func(c *ztunnel.Config) { c.Capture.OwnerSocket = agent.path })
			server := m.enrolled(n, "server")
			server.echo(8080)
			m.apply("strict", strict)
			// What the agent says counts as long as it is there.
			eventually(t, "the agent says no", func() error {
				if err := m.probe(server.addr(8080)); !isReset(err) {
					return errors.New("it does not")
				}
				return nil
			})
			eventually(t, "the node knows by what it can tell", func() error {
				if len(n.z.log.with("the kubelet's sockets are known here, too")) == 0 {
					return errors.New("it does not say so")
				}
				return nil
			})
			agent.stop()
			for _, to := range []netip.AddrPort{server.addr(8080), netip.AddrPortFrom(server.ip6, 8080)} {
				err := m.probe(to)
				if tt.own && err != nil {
					t.Errorf("probe of %v: %v", to, err)
				}
				if !tt.own && !isReset(err) {
					t.Errorf("probe of %v: %v, want a reset", to, err)
				}
			}
			if !tt.own {
				n.z.wantAccess(t, "is the caller the kubelet?", "known by its cgroup alone")
			}
		})
	}
}

func TestOnlyTheKubeletMayProbe(t *testing.T) {
	m := newMesh(t)
	other := m.hostAgent("no-such-process")
	n := m.node("n1", func(c *ztunnel.Config) { c.Capture.OwnerSocket = other.path })
	server := m.enrolled(n, "server")
	server.echo(8080)
	m.apply("strict", strict)
	eventually(t, "a process of the node that is not the kubelet is refused", func() error {
		if err := m.probe(server.addr(8080)); !isReset(err) {
			return errors.New("it is not")
		}
		return nil
	})
}

// A pod that only the agent has told of can be probed: its proxy may be new, and
// the control plane away.
func TestProbeBeforeTheControlPlaneKnows(t *testing.T) {
	m := newMesh(t)
	kubelet := m.hostAgent(ownName(t))
	n := m.node("n1", func(c *ztunnel.Config) { c.Capture.OwnerSocket = kubelet.path })
	p := m.pod(nil, "new")
	p.n = n
	p.add()
	p.echo(8080)
	start := time.Now()
	if err := m.probe(p.addr(8080)); err != nil {
		t.Fatalf("probe of a pod that the control plane does not know: %v", err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("it took %v; a kubelet waits one second", took)
	}
}
