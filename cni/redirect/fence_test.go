package redirect_test

import (
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/cni/redirect"
	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
	"github.com/vishvananda/netlink"
)

// Tries of a tenth of a second each: what must arrive may wait for a neighbour or
// a bridge; what must not has long enough to do so.
const (
	many = 50
	few  = 3
)

// passes says whether a datagram from one namespace arrives at the other.
func passes(t *testing.T, from, to *netns.NS, at netip.Addr, tries int) bool {
	t.Helper()
	var server net.PacketConn
	netnstest.Do(t, to, func() (err error) {
		server, err = net.ListenPacket("udp", netip.AddrPortFrom(at, 9000).String())
		return err
	})
	defer server.Close()
	arrived := false
	netnstest.Do(t, from, func() error {
		c, err := net.Dial("udp", netip.AddrPortFrom(at, 9000).String())
		if err != nil {
			return err
		}
		defer c.Close()
		for range tries {
			if _, err := c.Write([]byte("x")); err != nil {
				continue // what a fence at our own side says
			}
			server.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			if _, _, err := server.ReadFrom(make([]byte, 1)); err == nil {
				arrived = true
				break
			}
		}
		return nil
	})
	return arrived
}

// wantPass checks both directions.
func (w world) wantPass(t *testing.T, s stack, want bool, when string) {
	t.Helper()
	tries := few
	if want {
		tries = many
	}
	if got := passes(t, w.pod, w.outside, s.outside, tries); got != want {
		t.Errorf("%s: from the pod passes %v, want %v", when, got, want)
	}
	if got := passes(t, w.outside, w.pod, s.pod, tries); got != want {
		t.Errorf("%s: to the pod passes %v, want %v", when, got, want)
	}
}

func TestFences(t *testing.T) {
	w := newWorld(t)
	fences := func(want ...string) {
		t.Helper()
		got, err := redirect.Fences(w.outside)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("Fences = %v, %v; want %v", got, err, want)
		}
	}
	for _, s := range stacks {
		t.Run(s.name, func(t *testing.T) {
			w.wantPass(t, s, true, "before")
			for range 2 {
				if err := redirect.SetFences(w.outside, []string{"veth0", "gone"}); err != nil {
					t.Fatal(err)
				}
			}
			fences("veth0")
			w.wantPass(t, s, false, "fenced")
			if err := redirect.SetFences(w.outside, nil); err != nil {
				t.Fatal(err)
			}
			fences()
			w.wantPass(t, s, true, "opened again")

			for range 2 {
				if err := redirect.FenceInside(w.pod); err != nil {
					t.Fatal(err)
				}
			}
			w.wantPass(t, s, false, "fenced inside")
			if !passes(t, w.pod, w.pod, s.loopback, many) {
				t.Error("the pod does not reach itself")
			}
			for range 2 {
				if err := redirect.OpenInside(w.pod); err != nil {
					t.Fatal(err)
				}
			}
			w.wantPass(t, s, true, "opened inside")
		})
	}
}

func TestLinksOfAPod(t *testing.T) {
	w := newWorld(t)
	other := netnstest.New(t)
	netnstest.Veth(t,
		netnstest.End{NS: other, Name: "eth0", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.73.0.2/24")}},
		netnstest.End{NS: w.outside, Name: "veth1", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.73.0.1/24")}})
	lonely := netnstest.New(t)
	for _, tt := range []struct {
		name string
		pod  *netns.NS
		want []string
	}{{"a pod", w.pod, []string{"veth0"}}, {"another", other, []string{"veth1"}}, {"one without", lonely, nil}} {
		if got, err := redirect.LinksInto(w.outside, tt.pod); err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s: LinksInto = %v, %v; want %v", tt.name, got, err, tt.want)
		}
	}
	h := netnstest.Handle(t, w.outside)
	veth0, err := h.LinkByName("veth0")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range stacks {
		// The way to a whole network is not a pod's alone.
		if got, err := redirect.LinkTo(w.outside, s.pod); err == nil {
			t.Errorf("LinkTo(%v), which has no route of its own, = %q", s.pod, got)
		}
		host := &net.IPNet{IP: s.pod.AsSlice(), Mask: net.CIDRMask(s.pod.BitLen(), s.pod.BitLen())}
		if err := h.RouteAdd(&netlink.Route{LinkIndex: veth0.Attrs().Index, Dst: host, Scope: netlink.SCOPE_LINK}); err != nil {
			t.Fatal(err)
		}
		if got, err := redirect.LinkTo(w.outside, s.pod); err != nil || got != "veth0" {
			t.Errorf("LinkTo(%v) = %q, %v; want veth0", s.pod, got, err)
		}
		// Nor is the way to everywhere, when a pod has gone.
		netnstest.Route(t, w.outside, s.everything, s.pod)
		if got, err := redirect.LinkTo(w.outside, s.nobody); err == nil {
			t.Errorf("LinkTo(%v), which is nowhere on the node, = %q", s.nobody, got)
		}
	}
}

func TestLinkBehindABridge(t *testing.T) {
	node, pod := netnstest.New(t), netnstest.New(t)
	at := netip.MustParsePrefix("10.74.0.2/24")
	netnstest.Veth(t, netnstest.End{NS: pod, Name: "eth0", Prefixes: []netip.Prefix{at}}, netnstest.End{NS: node, Name: "veth7"})
	netnstest.Bridge(t, node, "cni0", "veth7")
	netnstest.Addr(t, node, "cni0", netip.MustParsePrefix("10.74.0.1/24"))
	if !passes(t, node, pod, at.Addr(), many) {
		t.Fatal("the node does not reach the pod")
	}
	if got, err := redirect.LinkTo(node, at.Addr()); err != nil || got != "veth7" {
		t.Errorf("LinkTo = %q, %v; want veth7", got, err)
	}
}
