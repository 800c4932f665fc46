package redirect_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/cni/redirect"
	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
)

func TestProbesOfTheNodePassByTheProxy(t *testing.T) {
	w := newWorld(t)
	apply(t, w.pod, redirect.Config{IPv6: true, RefuseClosed: true, ProbeV4: probe4, ProbeV6: probe6})
	app, inbound := listen(t, w.pod, 8080, application), listen(t, w.pod, 15006, netns.SocketOptions{})

	// Beyond the node, so that there are packets on it which it has not sent.
	beyond := netnstest.New(t)
	netnstest.Veth(t,
		netnstest.End{NS: beyond, Name: "eth0", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.75.0.2/24"), netip.MustParsePrefix("fd75::2/64")}},
		netnstest.End{NS: w.outside, Name: "veth1", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.75.0.1/24"), netip.MustParsePrefix("fd75::1/64")}})
	netnstest.Sysctl(t, w.outside, "net/ipv4/ip_forward", "1")
	netnstest.Sysctl(t, w.outside, "net/ipv6/conf/all/forwarding", "1")
	netnstest.Route(t, beyond, stacks[0].everything, netip.MustParseAddr("10.75.0.1"))
	netnstest.Route(t, beyond, stacks[1].everything, netip.MustParseAddr("fd75::1"))

	pods := []netip.Addr{stacks[0].pod, stacks[1].pod, netip.MustParseAddr("10.72.0.99")}
	for range 2 {
		if err := redirect.SetProbes(w.outside, pods, probe4, probe6); err != nil {
			t.Fatal(err)
		}
	}
	for i, s := range stacks {
		wantSource(t, connect(t, w.outside, fromApp(s.pod, 8080), app), []netip.Addr{probe4, probe6}[i])
		far := []string{"10.75.0.2", "fd75::2"}[i]
		wantSource(t, connect(t, beyond, fromApp(s.pod, 8080), inbound), netip.MustParseAddr(far))
	}

	if err := redirect.SetProbes(w.outside, pods[2:], probe4, probe6); err != nil {
		t.Fatal(err)
	}
	for _, s := range stacks {
		wantSource(t, connect(t, w.outside, fromApp(s.pod, 8080), inbound), s.outside)
	}
	if err := redirect.SetProbes(w.outside, nil, probe4, probe6); err != nil {
		t.Fatal(err)
	}
	if got := everything(t, w.outside); strings.Contains(got, redirect.ProbeTable) {
		t.Errorf("left behind:\n%s", got)
	}
}
