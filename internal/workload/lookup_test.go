package workload_test

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/internal/meshapi/workloadapi"
	"github.com/ambit-mesh/ambit/internal/workload"
)

const hbone = workloadapi.TunnelProtocol_HBONE

func TestAddressLookup(t *testing.T) {
	w := &pbWorkload{Uid: "w", Addresses: raws("10.0.0.1", "2001:db8::1")}
	elsewhere := &pbWorkload{Uid: "remote", Network: "n2", Addresses: raws("10.0.0.2")}
	host := &pbWorkload{Uid: "host", Addresses: raws("10.0.0.3"), NetworkMode: workloadapi.NetworkMode_HOST_NETWORK}
	both := &pbService{Namespace: "a", Hostname: "both", Addresses: vips("10.0.0.1")}
	svc := &pbService{Namespace: "a", Hostname: "svc", Addresses: vips("10.9.0.1")}
	snap := picture(t, w, elsewhere, host, both, svc)
	tests := []struct{ name, network, addr, want string }{
		{"workload by IPv4", "", "10.0.0.1", "w"},
		{"workload by IPv6", "", "2001:db8::1", "w"},
		{"workload by IPv4 in IPv6", "", "::ffff:10.0.0.1", "w"},
		{"workload wins over service", "", "10.0.0.1", "w"},
		{"service by VIP", "", "10.9.0.1", "a/svc"},
		{"unknown: none", "", "10.8.8.8", ""},
		{"address of another network: none", "", "10.0.0.2", ""},
		{"address in its network", "n2", "10.0.0.2", "remote"},
		{"host network is not found by address", "", "10.0.0.3", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := found(snap.LookupAddr(tt.network, ip(tt.addr), "a")); got != tt.want {
				t.Errorf("found %q, want %q", got, tt.want)
			}
		})
	}
	if snap.Workload("host") == nil {
		t.Error("host network: not found by UID")
	}
}

// Two workloads on one address: who is seen, and who when the winner has gone.
func TestOverlappingIP(t *testing.T) {
	addr := raws("10.0.0.1")
	podTunnel := &pbWorkload{Uid: "c//Pod/z/1", Addresses: addr, TunnelProtocol: hbone}
	pod := &pbWorkload{Uid: "c//Pod/z/2", Addresses: addr}
	entryTunnel := &pbWorkload{Uid: "c/networking.istio.io/WorkloadEntry/a/1", Addresses: addr, TunnelProtocol: hbone}
	entry := &pbWorkload{Uid: "a", Addresses: addr}
	order := []*pbWorkload{podTunnel, pod, entryTunnel, entry}
	for _, first := range []int{0, 1, 2, 3} {
		s := newStore()
		for i := range order { // whatever comes first
			apply(t, s, order[(first+i)%len(order)])
		}
		for _, want := range order {
			if got := found(s.Snapshot().LookupAddr("", ip("10.0.0.1"), "")); got != want.Uid {
				t.Errorf("order %d: found %q, want %q", first, got, want.Uid)
			}
			s.ApplyAddresses(nil, []string{want.Uid})
		}
		if got := found(s.Snapshot().LookupAddr("", ip("10.0.0.1"), "")); got != "" {
			t.Errorf("order %d: found %q after all were removed", first, got)
		}
	}
}

func TestSharedVIPRanking(t *testing.T) {
	svc := func(ns string, canonical bool, v workloadapi.Service_Visibility) *pbService {
		return &pbService{Namespace: ns, Hostname: "x.test", Addresses: vips("10.9.0.1"), Canonical: canonical, Visibility: v}
	}
	const public, private = workloadapi.Service_PUBLIC, workloadapi.Service_NAMESPACE
	tests := []struct {
		name   string
		all    []proto.Message
		client string
		want   string
	}{
		{"namespace of the client before canonical", []proto.Message{svc("a", true, public), svc("b", false, public)}, "b", "b/x.test"},
		{"canonical before the first", []proto.Message{svc("a", false, public), svc("b", true, public)}, "z", "b/x.test"},
		{"else the first by name", []proto.Message{svc("b", false, public), svc("a", false, public)}, "z", "a/x.test"},
		{"visibility: hidden from other namespaces", []proto.Message{svc("a", true, private), svc("b", false, public)}, "z", "b/x.test"},
		{"visibility: seen in its own", []proto.Message{svc("a", true, private), svc("b", false, public)}, "a", "a/x.test"},
		{"visibility: hidden and alone, none", []proto.Message{svc("a", true, private)}, "z", ""},
		{"visibility: without a client nothing is hidden", []proto.Message{svc("a", true, private)}, "", "a/x.test"},
		{"visibility: unknown is public", []proto.Message{svc("a", false, 7)}, "z", "a/x.test"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			snap := picture(t, tt.all...)
			if got := found(nil, snap.LookupService("", ip("10.9.0.1"), tt.client)); got != tt.want {
				t.Errorf("by VIP: %q, want %q", got, tt.want)
			}
			if got := found(nil, snap.LookupHost("X.test.", tt.client)); got != tt.want {
				t.Errorf("by host: %q, want %q", got, tt.want)
			}
		})
	}
}

// Each removal of the winner reveals the next in rank, whatever came first.
func TestSharedVIPRankingRemovalRevealsNext(t *testing.T) {
	svc := func(ns string, canonical bool) *pbService {
		return &pbService{Namespace: ns, Hostname: "x.test", Addresses: vips("10.9.0.1"), Canonical: canonical}
	}
	ranked := []*pbService{svc("mine", false), svc("z", true), svc("a", false), svc("b", false)} // as a client in mine sees them
	for first := range ranked {
		s := newStore()
		for i := range ranked {
			apply(t, s, ranked[(first+i)%len(ranked)])
		}
		for _, next := range append(ranked, nil) {
			want := ""
			if next != nil {
				want = next.Namespace + "/x.test"
			}
			snap := s.Snapshot()
			if got := found(nil, snap.LookupService("", ip("10.9.0.1"), "mine")); got != want {
				t.Errorf("order %d: by VIP %q, want %q", first, got, want)
			}
			if got := found(nil, snap.LookupHost("x.test", "mine")); got != want {
				t.Errorf("order %d: by host %q, want %q", first, got, want)
			}
			s.ApplyAddresses(nil, []string{want})
		}
	}
}

func TestCIDRVIPs(t *testing.T) {
	svc := func(ns, name string, canonical bool, addrs ...string) *pbService {
		return &pbService{Namespace: ns, Hostname: name, Addresses: vips(addrs...), Canonical: canonical}
	}
	private := svc("a", "exact", true, "10.1.2.3")
	private.Visibility = workloadapi.Service_NAMESPACE
	tests := []struct {
		name   string
		all    []proto.Message
		client string
		addr   string
		want   string
	}{
		{"inside", []proto.Message{svc("a", "r", false, "10.0.0.0/8")}, "z", "10.1.2.3", "a/r"},
		{"outside", []proto.Message{svc("a", "r", false, "10.0.0.0/8")}, "z", "11.1.2.3", ""},
		{"exact over prefix", []proto.Message{svc("z", "r", true, "10.0.0.0/8"), svc("a", "e", false, "10.1.2.3")}, "z", "10.1.2.3", "a/e"},
		{"a full-length range is exact", []proto.Message{svc("z", "r", true, "10.0.0.0/8"), svc("a", "e", false, "10.1.2.3/32")}, "z", "10.1.2.3", "a/e"},
		{"longest prefix", []proto.Message{svc("a", "r8", true, "10.0.0.0/8"), svc("a", "r16", false, "10.1.0.0/16")}, "z", "10.1.2.3", "a/r16"},
		{"shorter where the longer does not hold", []proto.Message{svc("a", "r8", true, "10.0.0.0/8"), svc("a", "r16", false, "10.1.0.0/16")}, "z", "10.2.2.3", "a/r8"},
		{"namespace before prefix", []proto.Message{svc("z", "r8", false, "10.0.0.0/8"), svc("a", "r16", true, "10.1.0.0/16")}, "z", "10.1.2.3", "z/r8"},
		{"canonical among equal prefixes", []proto.Message{svc("a", "r", false, "10.0.0.0/8"), svc("b", "r", true, "10.0.0.0/8")}, "z", "10.1.2.3", "b/r"},
		{"v6", []proto.Message{svc("a", "r", false, "2001:db8::/32")}, "z", "2001:db8::7", "a/r"},
		{"v6 range is not v4", []proto.Message{svc("a", "r", false, "::/0")}, "z", "10.1.2.3", ""},
		{"length 0", []proto.Message{svc("a", "r", false, "0.0.0.0/0")}, "z", "10.1.2.3", "a/r"},
		{"one of several", []proto.Message{svc("a", "r", false, "10.0.0.0/8", "11.0.0.0/8", "12.0.0.1")}, "z", "11.2.3.4", "a/r"},
		{"host bits are masked", []proto.Message{svc("a", "r", false, "10.1.2.3/8")}, "z", "10.9.9.9", "a/r"},
		{"a hidden exact one falls through to the range", []proto.Message{private, svc("b", "r", false, "10.0.0.0/8")}, "z", "10.1.2.3", "b/r"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := found(nil, picture(t, tt.all...).LookupService("", ip(tt.addr), tt.client)); got != tt.want {
				t.Errorf("found %q, want %q", got, tt.want)
			}
		})
	}
	t.Run("update and removal", func(t *testing.T) {
		s := newStore()
		snap := apply(t, s, svc("a", "r", false, "10.0.0.0/8"))
		apply(t, s, svc("a", "r", false, "11.0.0.0/8"))
		if got := found(nil, s.Snapshot().LookupService("", ip("10.1.2.3"), "")); got != "" {
			t.Errorf("after the range moved, the old one finds %q", got)
		}
		if got := found(nil, s.Snapshot().LookupService("", ip("11.1.2.3"), "")); got != "a/r" {
			t.Errorf("after the range moved, the new one finds %q", got)
		}
		s.ApplyAddresses(nil, []string{"a/r"})
		if got := found(nil, s.Snapshot().LookupService("", ip("11.1.2.3"), "")); got != "" {
			t.Errorf("after removal the range finds %q", got)
		}
		if got := found(nil, snap.LookupService("", ip("10.1.2.3"), "")); got != "a/r" {
			t.Errorf("the older snapshot finds %q now", got)
		}
	})
}

func TestLookupGateway(t *testing.T) {
	snap := picture(t,
		&pbService{Namespace: "a", Hostname: "wp.a", Addresses: vips("10.9.0.1")},
		&pbWorkload{Uid: "w", Addresses: raws("10.0.0.1")},
		&pbWorkload{Uid: "both", Addresses: raws("10.9.0.1")},
		&pbWorkload{Uid: "named", Hostname: "gw.example"},
	)
	byAddr := func(s string) workload.Gateway {
		return workload.Gateway{Addr: workload.NetworkAddr{Addr: ip(s)}, Port: 15008}
	}
	byHost := func(ns, h string) workload.Gateway {
		return workload.Gateway{Host: workload.Key{Namespace: ns, Hostname: h}, Port: 15008}
	}
	tests := []struct {
		name string
		g    workload.Gateway
		want string
	}{
		{"service by host name", byHost("a", "wp.a"), "a/wp.a"},
		{"service by address, before a workload", byAddr("10.9.0.1"), "a/wp.a"},
		{"workload by address", byAddr("10.0.0.1"), "w"},
		{"workload by host name, of any namespace", byHost("z", "gw.example"), "named"},
		{"host name in another namespace: none", byHost("b", "wp.a"), ""},
		{"unknown address: none", byAddr("10.0.0.9"), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := found(snap.LookupGateway(tt.g)); got != tt.want {
				t.Errorf("found %q, want %q", got, tt.want)
			}
		})
	}
}
