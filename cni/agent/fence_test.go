package agent

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/cni/event"
	"github.com/ambit-mesh/ambit/cni/redirect"
	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
)

// vethOf is the node's end of the pods' interface.
const vethOf = "veth-web"

// newRoutedSandbox is a sandbox whose interface has its other end on the node, behind
// a route of its own.
func newRoutedSandbox(t *testing.T, node *netns.NS, addr string) sandbox {
	t.Helper()
	ns := netnstest.New(t)
	pod, gateway := netip.MustParsePrefix(addr), netip.MustParsePrefix("169.254.1.1/32")
	netnstest.Veth(t, netnstest.End{NS: ns, Name: "eth0", Prefixes: []netip.Prefix{pod}}, netnstest.End{NS: node, Name: vethOf, Prefixes: []netip.Prefix{gateway}})
	netnstest.RouteFrom(t, ns, "eth0", netip.MustParsePrefix("0.0.0.0/0"), pod.Addr())
	netnstest.RouteFrom(t, node, vethOf, netip.PrefixFrom(pod.Addr(), 32), gateway.Addr())
	return sandbox{ns, netnstest.Mount(t, ns), pod}
}

// isFenced says whether the node's end of the pod's interface is fenced.
func isFenced(t *testing.T, node *netns.NS) bool {
	t.Helper()
	links, err := redirect.Fences(node)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Contains(links, vethOf)
}

// wantClosed wants the fence to stand, over some comparisons of all pods.
func (n *node) wantClosed(t *testing.T, when string) {
	t.Helper()
	before := n.world.listed.Load()
	eventually(t, "pods are compared: "+when, func() bool {
		if !isFenced(t, n.in) {
			t.Fatalf("%s: the fence is open", when)
		}
		return n.world.listed.Load() > before+5
	})
	if got := n.gauge("ambit_pods_fenced"); got != 1 {
		t.Errorf("%s: %v pods fenced, want 1", when, got)
	}
}

// A fence on the node outlives the agent, and an agent that begins must not open it
// until the pod is in the mesh: it would be plaintext for as long as fencing waits.
func TestRestartOpensNoFence(t *testing.T) {
	netnstest.Require(t)
	for _, tt := range []struct {
		name  string
		found bool // the runtime knows the pod
	}{{"of a pod that is known", true}, {"of one that cannot be found", false}} {
		t.Run(tt.name, func(t *testing.T) {
			w, in := newWorld(), netnstest.New(t)
			s := newRoutedSandbox(t, in, "10.74.0.2/32")
			w.runs("web", s, modeAmbient)
			box := w.sandboxes["u-web"]
			if !tt.found {
				delete(w.sandboxes, "u-web")
			}
			n := newClusterNodeIn(t, w, Config{}, in)
			eventually(t, "it is fenced", func() bool { return isFenced(t, in) && n.gauge("ambit_pods_fenced") == 1 })
			n.stop()
			n.cfg.FenceAfter = time.Hour // nothing is fenced anew
			n.start()
			n.wantClosed(t, "after the restart")

			w.mu.Lock()
			w.sandboxes["u-web"] = box
			w.mu.Unlock()
			eventually(t, "it is found", func() bool { return n.state("web") == event.Fenced })
			n.wantClosed(t, "found, without a ztunnel")
			n.newZtunnel()
			eventually(t, "it is taken in", func() bool { return n.state("web") == event.Enrolled && !isFenced(t, in) })
		})
	}
}

// A pod that was fenced because it could not be found stays so when it is, until
// ztunnel serves it.
func TestFoundPodStaysFencedUntilItIsServed(t *testing.T) {
	netnstest.Require(t)
	w, in := newWorld(), netnstest.New(t)
	s := newRoutedSandbox(t, in, "10.74.0.2/32")
	w.runs("web", s, modeAmbient)
	box := w.sandboxes["u-web"]
	delete(w.sandboxes, "u-web")
	n := newClusterNodeIn(t, w, Config{FenceAfter: 300 * time.Millisecond}, in)
	z := n.newZtunnel()
	z.setRefuse(errors.New("not yet"))
	eventually(t, "it is fenced", func() bool { return isFenced(t, in) })
	w.mu.Lock()
	w.sandboxes["u-web"] = box
	w.mu.Unlock()
	for found := false; !found; found = n.state("web") != "" {
		if !isFenced(t, in) {
			t.Fatal("the fence is open before the pod is in the mesh")
		}
	}
	n.wantClosed(t, "found, and refused by ztunnel")
	z.setRefuse(nil)
	eventually(t, "it is taken in", func() bool { return n.state("web") == event.Enrolled && !isFenced(t, in) })
}

// A fence that was left behind goes when no pod needs it.
func TestFenceOfNobodyGoesAfterARestart(t *testing.T) {
	netnstest.Require(t)
	w, in := newWorld(), netnstest.New(t)
	newRoutedSandbox(t, in, "10.74.0.2/32")
	if err := redirect.SetFences(in, []string{vethOf}); err != nil {
		t.Fatal(err)
	}
	newClusterNodeIn(t, w, Config{}, in)
	eventually(t, "the fence is gone", func() bool { return !isFenced(t, in) })
}
