package route_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/internal/hbone"
	"github.com/ambit-mesh/ambit/internal/meshapi/workloadapi"
	"github.com/ambit-mesh/ambit/internal/workload"
	"github.com/ambit-mesh/ambit/ztunnel/route"
)

func appTunnel(p workloadapi.ApplicationTunnel_Protocol, port uint32) func(*pbWorkload) {
	return func(w *pbWorkload) { w.ApplicationTunnel = &workloadapi.ApplicationTunnel{Protocol: p, Port: port} }
}

// target is where a stream goes in one line.
func target(tg route.Target) string {
	out := []string{tg.Dial.String()}
	if tg.Loopback.IsValid() {
		out = append(out, "loopback="+tg.Loopback.String())
	}
	if tg.Proxy.IsValid() {
		out = append(out, "proxy="+tg.Proxy.String())
	}
	return strings.Join(out, " ")
}

// row is one stream: to the pod "own" at 10.0.0.1.
type row struct {
	name      string
	own       *pbWorkload
	all       []proto.Message
	authority string
	want      string
	status    int
}

func (tt row) run(t *testing.T) {
	t.Helper()
	own := tt.own
	if own == nil {
		own = pod("own", "10.0.0.1", tunnel)
	}
	snap := picture(t, append([]proto.Message{own}, tt.all...)...)
	a, err := hbone.ParseAuthority(tt.authority)
	if err != nil {
		t.Fatal(err)
	}
	got, err := route.ResolveInbound(snap, snap.Workload("own"), netip.MustParseAddrPort("10.0.0.1:15008"), a)
	var refused *route.InboundError
	switch {
	case tt.status == 0 && err != nil:
		t.Errorf("ResolveInbound: %v", err)
	case tt.status == 0:
		if text := target(got); text != tt.want {
			t.Errorf("target = %s, want %s", text, tt.want)
		}
	case !errors.As(err, &refused) || refused.Status != tt.status:
		t.Errorf("ResolveInbound = %s, %v; want status %d", target(got), err, tt.status)
	}
}

// find upstream: {ip authority, hostname authority} x {number port, named port,
// endpoint override, unknown port, unknown host} x application tunnel.
func TestFindUpstream(t *testing.T) {
	const none, proxy = workloadapi.ApplicationTunnel_NONE, workloadapi.ApplicationTunnel_PROXY
	numbered := service("s.test", "10.9.0.1")
	named := service("s.test", "10.9.0.1", func(s *pbService) { s.Ports = ports(80, 0) })
	headless := service("s.test", "")
	plain := pod("own", "10.0.0.1", tunnel, of("ns/s.test"))
	mapped := pod("own", "10.0.0.1", tunnel, of("ns/s.test", 80, 9090))
	with := func(w *pbWorkload, change func(*pbWorkload)) *pbWorkload {
		c := proto.Clone(w).(*pbWorkload)
		change(c)
		return c
	}
	other := service("s.test", "10.9.0.2", func(s *pbService) { s.Namespace, s.Ports, s.Canonical = "other", ports(80, 7070), true })
	rows := []row{
		{name: "ip authority: number port is taken as it is", own: plain, all: []proto.Message{numbered}, authority: "10.0.0.1:80", want: "10.0.0.1:80"},
		{name: "ip authority: endpoint override does not count", own: mapped, all: []proto.Message{numbered}, authority: "10.0.0.1:80", want: "10.0.0.1:80"},
		{name: "ip authority: unknown port is taken as it is", own: plain, authority: "10.0.0.1:12345", want: "10.0.0.1:12345"},
		{name: "ip authority: app tunnel port", own: with(plain, appTunnel(none, 15088)), authority: "10.0.0.1:80", want: "10.0.0.1:15088"},
		{name: "ip authority: app tunnel with PROXY", own: with(plain, appTunnel(proxy, 15088)), authority: "10.0.0.1:80", want: "10.0.0.1:15088 loopback=127.0.0.1:15088 proxy=10.0.0.1:80"},
		{name: "ip authority: app tunnel with PROXY without a port", own: with(plain, appTunnel(proxy, 0)), authority: "10.0.0.1:80", want: "10.0.0.1:80 loopback=127.0.0.1:80 proxy=10.0.0.1:80"},
		{name: "hostname authority: number port", own: plain, all: []proto.Message{numbered}, authority: "s.test:80", want: "10.0.0.1:8080"},
		{name: "hostname authority: named port by the endpoint", own: mapped, all: []proto.Message{named}, authority: "s.test:80", want: "10.0.0.1:9090"},
		{name: "hostname authority: endpoint override wins", own: mapped, all: []proto.Message{numbered}, authority: "s.test:80", want: "10.0.0.1:9090"},
		{name: "hostname authority: named port that the endpoint does not map", own: plain, all: []proto.Message{named}, authority: "s.test:80", status: 503},
		{name: "hostname authority: unknown port", own: plain, all: []proto.Message{numbered}, authority: "s.test:81", status: 503},
		{name: "hostname authority: unknown host", own: plain, authority: "s.test:80", status: 503},
		{name: "hostname authority: own namespace before canonical", own: plain, all: []proto.Message{numbered, other}, authority: "S.test.:80", want: "10.0.0.1:8080"},
		{name: "hostname authority: app tunnel port", own: with(plain, appTunnel(none, 15088)), all: []proto.Message{numbered}, authority: "s.test:80", want: "10.0.0.1:15088"},
		{name: "hostname authority: app tunnel, PROXY header has the VIP", own: with(plain, appTunnel(proxy, 15088)), all: []proto.Message{numbered}, authority: "s.test:80", want: "10.0.0.1:15088 loopback=127.0.0.1:15088 proxy=10.9.0.1:80"},
		{name: "hostname authority: app tunnel, PROXY without a VIP", own: with(plain, appTunnel(proxy, 15088)), all: []proto.Message{headless}, authority: "s.test:80", status: 503},
		{name: "illegal port 15001", own: plain, authority: "10.0.0.1:15001", status: 503},
		{name: "illegal port 15006", own: plain, authority: "10.0.0.1:15006", status: 503},
		{name: "illegal port 15008", own: plain, authority: "10.0.0.1:15008", status: 503},
		{name: "illegal port by a service", own: plain, all: []proto.Message{service("s.test", "", func(s *pbService) { s.Ports = ports(80, 15008) })}, authority: "s.test:80", status: 503},
		{name: "an application tunnel may override to any port", own: with(plain, appTunnel(none, 15006)), authority: "10.0.0.1:80", want: "10.0.0.1:15006"},
		{name: "15080 is no port of ours", own: plain, authority: "10.0.0.1:15080", want: "10.0.0.1:15080"},
	}
	for _, tt := range rows {
		t.Run(tt.name, tt.run)
	}
}

// build request: which authorities the pod may be asked for.
func TestBuildRequest(t *testing.T) {
	const proxy = workloadapi.ApplicationTunnel_PROXY
	waypoint := pod("own", "10.0.0.1", tunnel, of("ns/wp.test"))
	wpService := service("wp.test", "10.9.0.9", func(s *pbService) { s.Ports = ports(15008, 15008) })
	byPod, bySvc := via(byAddr("10.0.0.1", 15008)), svcVia(byHost("wp.test", 15008))
	otherPod := pod("other", "10.0.0.8", tunnel)
	canary := func(s *pbService) {
		s.WeightedWaypoints = []*workloadapi.WeightedWaypoint{{Weight: 1, Destination: byHost("wp.test", 15008)}}
	}
	proxied := proto.Clone(waypoint).(*pbWorkload)
	appTunnel(proxy, 15088)(proxied)
	rows := []row{
		{name: "no waypoint: own address", authority: "10.0.0.1:80", want: "10.0.0.1:80"},
		{name: "own address as IPv4 in IPv6", authority: "[::ffff:10.0.0.1]:80", want: "10.0.0.1:80"},
		{name: "hostname", all: []proto.Message{service("s.test", "")}, authority: "s.test:80", want: "10.0.0.1:8080"},
		{name: "workload waypoint addressed by pod", all: []proto.Message{pod("d", "10.0.0.2", byPod)}, authority: "10.0.0.2:80", want: "10.0.0.1:80"},
		{name: "workload waypoint addressed by VIP", own: waypoint, all: []proto.Message{wpService, pod("d", "10.0.0.2", via(byAddr("10.9.0.9", 15008)))}, authority: "10.0.0.2:80", want: "10.0.0.1:80"},
		{name: "workload waypoint addressed by host name", own: waypoint, all: []proto.Message{wpService, pod("d", "10.0.0.2", via(byHost("wp.test", 15008)))}, authority: "10.0.0.2:80", want: "10.0.0.1:80"},
		{name: "workload waypoint addressed by app tunnel", own: proxied, all: []proto.Message{wpService, pod("d", "10.0.0.2", via(byHost("wp.test", 15008)))}, authority: "10.0.0.2:80", want: "10.0.0.1:15088 loopback=127.0.0.1:15088 proxy=10.0.0.2:80"},
		{name: "service waypoint addressed by pod", all: []proto.Message{service("s.test", "10.9.0.1", svcVia(byAddr("10.0.0.1", 15008)))}, authority: "10.9.0.1:80", want: "10.0.0.1:80"},
		{name: "service waypoint addressed by VIP", own: waypoint, all: []proto.Message{wpService, service("s.test", "10.9.0.1", svcVia(byAddr("10.9.0.9", 15008)))}, authority: "10.9.0.1:80", want: "10.0.0.1:80"},
		{name: "service waypoint addressed by host name", own: waypoint, all: []proto.Message{wpService, service("s.test", "10.9.0.1", bySvc)}, authority: "10.9.0.1:80", want: "10.0.0.1:80"},
		{name: "service waypoint addressed by app tunnel", own: proxied, all: []proto.Message{wpService, service("s.test", "10.9.0.1", bySvc)}, authority: "10.9.0.1:80", want: "10.0.0.1:15088 loopback=127.0.0.1:15088 proxy=10.9.0.1:80"},
		{name: "a share of weighted waypoints", own: waypoint, all: []proto.Message{wpService, service("s.test", "10.9.0.1", canary)}, authority: "10.9.0.1:80", want: "10.0.0.1:80"},
		{name: "an application tunnel takes any address", own: proxied, authority: "10.66.0.6:80", want: "10.0.0.1:15088 loopback=127.0.0.1:15088 proxy=10.66.0.6:80"},

		{name: "refused: IP mismatch, unknown address", authority: "10.66.0.6:80", status: 400},
		{name: "refused: IP mismatch, another pod", all: []proto.Message{otherPod}, authority: "10.0.0.8:80", status: 400},
		{name: "refused: loopback", authority: "127.0.0.1:15000", status: 400},
		{name: "refused: waypoint without attachment", own: waypoint, all: []proto.Message{wpService, service("s.test", "10.9.0.1")}, authority: "10.9.0.1:80", status: 400},
		{name: "refused: workload attached to another waypoint", all: []proto.Message{otherPod, pod("d", "10.0.0.2", via(byAddr("10.0.0.8", 15008)))}, authority: "10.0.0.2:80", status: 400},
		{name: "refused: service attached to another waypoint", all: []proto.Message{wpService, service("s.test", "10.9.0.1", bySvc)}, authority: "10.9.0.1:80", status: 400},
		{name: "refused: attached to a waypoint that is not known", all: []proto.Message{service("s.test", "10.9.0.1", bySvc)}, authority: "10.9.0.1:80", status: 400},
		{name: "refused: a waypoint on the same address of another network", all: []proto.Message{pod("d", "10.0.0.2", network("n2"), byPod)}, authority: "10.0.0.2:80", status: 400},
	}
	for _, tt := range rows {
		t.Run(tt.name, tt.run)
	}
}

func TestUnknownPodIsRefused(t *testing.T) {
	a, err := hbone.ParseAuthority("10.0.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	_, err = route.ResolveInbound(picture(t), nil, netip.MustParseAddrPort("10.0.0.1:15008"), a)
	var refused *route.InboundError
	if !errors.As(err, &refused) || refused.Status != 503 {
		t.Errorf("ResolveInbound = %v, want status 503", err)
	}
	_, err = route.ResolveInbound(picture(t), &workload.Workload{}, netip.MustParseAddrPort("10.0.0.1:15008"), hbone.Authority{})
	if !errors.As(err, &refused) || refused.Status != 400 {
		t.Errorf("without an authority: %v, want status 400", err)
	}
}

func TestProxyHeaderPrefersOurNetworkThenIPv4(t *testing.T) {
	own := pod("own", "10.0.0.1", tunnel, network("n1"), appTunnel(workloadapi.ApplicationTunnel_PROXY, 15088))
	in := func(n, a string) *workloadapi.NetworkAddress {
		v := vip(a)
		v.Network = n
		return v
	}
	tests := []struct {
		name string
		vips []*workloadapi.NetworkAddress
		want string
	}{
		{"our network first", []*workloadapi.NetworkAddress{in("n2", "10.9.0.1"), in("n1", "2001:db8::1")}, "[2001:db8::1]:80"},
		{"IPv4 first", []*workloadapi.NetworkAddress{in("n1", "2001:db8::1"), in("n1", "10.9.0.2")}, "10.9.0.2:80"},
		{"else any", []*workloadapi.NetworkAddress{in("n2", "10.9.0.1")}, "10.9.0.1:80"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			row{own: own, all: []proto.Message{service("s.test", "", func(s *pbService) { s.Addresses = tt.vips })},
				authority: "s.test:80", want: "10.0.0.1:15088 loopback=127.0.0.1:15088 proxy=" + tt.want}.run(t)
		})
	}
}

func TestGuessService(t *testing.T) {
	own := pod("own", "10.0.0.1", tunnel, of("ns/a.test"), of("ns/b.test", 81, 9090), of("ns/c.test"))
	snap := picture(t, own,
		service("a.test", ""), service("c.test", ""),
		service("b.test", "", func(s *pbService) { s.Ports = ports(81, 0) }),
		service("stranger.test", ""))
	tests := []struct{ name, authority, forwarded, want string }{
		{"the forwarded host", "10.0.0.1:8080", "c.test", "c.test"},
		{"a forwarded host that the pod is no member of counts nothing", "10.0.0.1:8080", "stranger.test", "a.test"},
		{"the first whose target port it is", "10.0.0.1:8080", "", "a.test"},
		{"a named port that the endpoint maps", "10.0.0.1:9090", "", "b.test"},
		{"none", "10.0.0.1:7", "", ""},
		{"the host asked for", "c.test:80", "", "c.test"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, err := hbone.ParseAuthority(tt.authority)
			if err != nil {
				t.Fatal(err)
			}
			tg, err := route.ResolveInbound(snap, snap.Workload("own"), netip.MustParseAddrPort("10.0.0.1:15008"), a)
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if svc := route.GuessService(snap, snap.Workload("own"), tg, tt.forwarded); svc != nil {
				got = svc.Hostname
			}
			if got != tt.want {
				t.Errorf("service = %q, want %q", got, tt.want)
			}
		})
	}
}
