package workload_test

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ambit-mesh/ambit/internal/meshapi/workloadapi"
	"github.com/ambit-mesh/ambit/internal/workload"
)

type lb = workloadapi.LoadBalancing

const (
	network = workloadapi.LoadBalancing_NETWORK
	region  = workloadapi.LoadBalancing_REGION
	zone    = workloadapi.LoadBalancing_ZONE
	subzone = workloadapi.LoadBalancing_SUBZONE
	onNode  = workloadapi.LoadBalancing_NODE
	cluster = workloadapi.LoadBalancing_CLUSTER

	strict   = workloadapi.LoadBalancing_STRICT
	failover = workloadapi.LoadBalancing_FAILOVER
)

// reachable returns who can be picked, with the port: all outcomes of chance.
func reachable(snap *workload.Snapshot, svc *workload.Service, o workload.PickOptions) []string {
	var total uint64
	seen := map[string]bool{}
	note := func(n uint64) {
		o.Rand = func(sum uint64) uint64 { total = sum; return min(n, sum-1) }
		if w, port, ok := snap.Pick(svc, o); ok {
			seen[w.UID+":"+strconv.Itoa(int(port))] = true
		}
	}
	note(0)
	for n := uint64(1); n < total; n++ {
		note(n)
	}
	out := []string{}
	for k := range seen {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// ep is an endpoint of s/svc at region/zone/subzone/node/cluster/network.
func ep(uid, place string, change ...func(*pbWorkload)) *pbWorkload {
	p := append(strings.Split(place, "/"), "", "", "", "", "", "")
	w := &pbWorkload{
		Uid: uid, Addresses: raws("10.0.0.1"), Services: in("s/svc"),
		Locality: &workloadapi.Locality{Region: p[0], Zone: p[1], Subzone: p[2]},
		Node:     p[3], ClusterId: p[4], Network: p[5],
	}
	for _, fn := range change {
		fn(w)
	}
	return w
}

func capacity(n uint32) func(*pbWorkload) {
	return func(w *pbWorkload) { w.Capacity = wrapperspb.UInt32(n) }
}

func unhealthy(w *pbWorkload) { w.Status = workloadapi.WorkloadStatus_UNHEALTHY }

func maps80(w *pbWorkload) { w.Services = in("s/svc", 80, 9090) }

func noAddress(w *pbWorkload) { w.Addresses = nil }

func gateway(w *pbWorkload) {
	w.NetworkGateway = &workloadapi.GatewayAddress{Destination: &workloadapi.GatewayAddress_Address{Address: vip("10.7.7.7")}}
}

func TestLoadBalance(t *testing.T) {
	src := ep("src", "r/z/s/n/c/", func(w *pbWorkload) { w.Services = nil; w.Addresses = nil })
	withLB := func(l *lb) *pbService {
		return &pbService{Namespace: "s", Hostname: "svc", Ports: ports(80, 8080), LoadBalancing: l}
	}
	tests := []struct {
		name string
		lb   *lb
		eps  []*pbWorkload
		want string
	}{
		{"unspecified: all", nil, []*pbWorkload{ep("a", "r"), ep("b", "q")}, "a b"},
		{"unspecified mode ignores preferences", &lb{RoutingPreference: []workloadapi.LoadBalancing_Scope{region}}, []*pbWorkload{ep("a", "r"), ep("b", "q")}, "a b"},
		{"strict: only full matches", &lb{Mode: strict, RoutingPreference: []workloadapi.LoadBalancing_Scope{region, zone}}, []*pbWorkload{ep("a", "r/z"), ep("b", "r/y"), ep("c", "q/z")}, "a"},
		{"strict: none matches", &lb{Mode: strict, RoutingPreference: []workloadapi.LoadBalancing_Scope{region, zone}}, []*pbWorkload{ep("b", "r/y")}, ""},
		{"strict without preferences: all", &lb{Mode: strict}, []*pbWorkload{ep("a", "r"), ep("b", "q")}, "a b"},
		{"strict on node", &lb{Mode: strict, RoutingPreference: []workloadapi.LoadBalancing_Scope{onNode}}, []*pbWorkload{ep("a", "r/z/s/n"), ep("b", "r/z/s/m")}, "a"},
		{"failover: the best group", &lb{Mode: failover, RoutingPreference: []workloadapi.LoadBalancing_Scope{region, zone, subzone}}, []*pbWorkload{ep("a", "r/z/q"), ep("b", "r/y/s"), ep("c", "r/z/p")}, "a c"},
		{"failover stops at the first mismatch", &lb{Mode: failover, RoutingPreference: []workloadapi.LoadBalancing_Scope{region, zone}}, []*pbWorkload{ep("a", "q/z"), ep("b", "r/y")}, "b"},
		{"failover: nothing matches, all", &lb{Mode: failover, RoutingPreference: []workloadapi.LoadBalancing_Scope{region}}, []*pbWorkload{ep("a", "q"), ep("b", "p")}, "a b"},
		{"failover by cluster", &lb{Mode: failover, RoutingPreference: []workloadapi.LoadBalancing_Scope{cluster}}, []*pbWorkload{ep("a", "////c"), ep("b", "////d")}, "a"},
		{"network first: any of the network outranks any remote", &lb{Mode: failover, RoutingPreference: []workloadapi.LoadBalancing_Scope{network, region, zone}}, []*pbWorkload{ep("a", "q/y"), ep("b", "r/z////n2", gateway)}, "a"},
		{"network first: remotes are ranked by the rest", &lb{Mode: failover, RoutingPreference: []workloadapi.LoadBalancing_Scope{network, region, zone}}, []*pbWorkload{ep("a", "r/y////n2", gateway), ep("b", "r/z////n2", gateway)}, "b"},
		{"network later: a mismatch ends the count", &lb{Mode: failover, RoutingPreference: []workloadapi.LoadBalancing_Scope{region, network, zone}}, []*pbWorkload{ep("a", "r/y"), ep("b", "r/z////n2", gateway)}, "a"},
		{"network first and strict: a remote does not match", &lb{Mode: strict, RoutingPreference: []workloadapi.LoadBalancing_Scope{network, region}}, []*pbWorkload{ep("b", "r/z////n2", gateway)}, ""},
		{"unhealthy is no endpoint", nil, []*pbWorkload{ep("a", "r"), ep("b", "r", unhealthy)}, "a"},
		{"health policy ALLOW_ALL", &lb{HealthPolicy: workloadapi.LoadBalancing_ALLOW_ALL}, []*pbWorkload{ep("a", "r"), ep("b", "r", unhealthy)}, "a b"},
		{"failover to the healthy", &lb{Mode: failover, RoutingPreference: []workloadapi.LoadBalancing_Scope{region}}, []*pbWorkload{ep("a", "r", unhealthy), ep("b", "q")}, "b"},
		{"capacity 0 takes nothing", nil, []*pbWorkload{ep("a", "r", capacity(0)), ep("b", "r")}, "b"},
		{"capacity 0 alone: none", nil, []*pbWorkload{ep("a", "r", capacity(0))}, ""},
		{"no endpoints: none", nil, nil, ""},
		{"no address: none", nil, []*pbWorkload{ep("a", "r", noAddress)}, ""},
		{"no address but a host name", nil, []*pbWorkload{ep("a", "r", noAddress, func(w *pbWorkload) { w.Hostname = "h" })}, "a"},
		{"no address, remote, with a gateway", nil, []*pbWorkload{ep("a", "/////n2", noAddress, gateway)}, "a"},
		{"no address, remote, without a gateway: none", nil, []*pbWorkload{ep("a", "/////n2", noAddress)}, ""},
		{"no address, our network, with a gateway: none", nil, []*pbWorkload{ep("a", "", noAddress, gateway)}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			all := []proto.Message{src, withLB(tt.lb)}
			for _, e := range tt.eps {
				all = append(all, e)
			}
			snap := picture(t, all...)
			svc := snap.Service(workload.Key{Namespace: "s", Hostname: "svc"})
			got := strings.Join(reachable(snap, svc, workload.PickOptions{Source: snap.Workload("src"), Port: 80}), " ")
			if got = strings.ReplaceAll(got, ":8080", ""); got != tt.want {
				t.Errorf("can pick %q, want %q", got, tt.want)
			}
		})
	}
}

func TestLoadBalanceIsWeightedByCapacity(t *testing.T) {
	snap := picture(t, &pbService{Namespace: "s", Hostname: "svc", Ports: ports(80, 8080)},
		ep("a", "", capacity(1)), ep("b", "", capacity(3)), ep("c", ""))
	svc := snap.Service(workload.Key{Namespace: "s", Hostname: "svc"})
	got := map[string]int{}
	for n := range uint64(5) {
		w, _, _ := snap.Pick(svc, workload.PickOptions{Source: snap.Workload("a"), Port: 80, Rand: func(sum uint64) uint64 {
			if sum != 5 {
				t.Errorf("the sum of weights is %d, want 5", sum)
			}
			return n
		}})
		got[w.UID]++
	}
	if got["a"] != 1 || got["b"] != 3 || got["c"] != 1 {
		t.Errorf("shares = %v, want a 1, b 3, c 1", got)
	}
}

// Whoever ranks endpoints by itself is not kept from what the service only prefers, but
// from what it demands.
func TestLoadBalanceUnranked(t *testing.T) {
	for mode, want := range map[workloadapi.LoadBalancing_Mode]string{failover: "a:8080 b:8080", strict: "a:8080"} {
		snap := picture(t, &pbService{Namespace: "s", Hostname: "svc", Ports: ports(80, 8080), LoadBalancing: &lb{Mode: mode, RoutingPreference: []workloadapi.LoadBalancing_Scope{region}}},
			ep("src", "r", func(w *pbWorkload) { w.Services = nil }), ep("a", "r"), ep("b", "q"))
		svc := snap.Service(workload.Key{Namespace: "s", Hostname: "svc"})
		got := reachable(snap, svc, workload.PickOptions{Source: snap.Workload("src"), Port: 80, Unranked: true})
		if strings.Join(got, " ") != want {
			t.Errorf("mode %v: can pick %v, want %s", mode, got, want)
		}
	}
}

func TestLoadBalanceExcludes(t *testing.T) {
	snap := picture(t, &pbService{Namespace: "s", Hostname: "svc", Ports: ports(80, 8080)}, ep("a", ""), ep("b", ""))
	svc := snap.Service(workload.Key{Namespace: "s", Hostname: "svc"})
	got := reachable(snap, svc, workload.PickOptions{Source: snap.Workload("a"), Port: 80, Exclude: func(uid string) bool { return uid == "a" }})
	if !slices.Equal(got, []string{"b:8080"}) {
		t.Errorf("can pick %v, want only b", got)
	}
}

// A service of many endpoints, two thirds of which will not do: those that will
// do get their shares.
func TestLoadBalanceAmongMany(t *testing.T) {
	all := []proto.Message{&pbService{Namespace: "s", Hostname: "svc", Ports: ports(80, 8080)}}
	want := map[string]float64{}
	for i := range 300 {
		uid := "w" + strconv.Itoa(i)
		e := ep(uid, "", capacity(uint32(1+i%2)))
		if i%3 != 0 {
			unhealthy(e)
		} else {
			want[uid] = float64(1+i%2) / 150
		}
		all = append(all, e)
	}
	snap := picture(t, all...)
	svc := snap.Service(workload.Key{Namespace: "s", Hostname: "svc"})
	r := rand.New(rand.NewPCG(9, 9))
	const picks = 60_000
	got := map[string]int{}
	for range picks {
		w, _, ok := snap.Pick(svc, workload.PickOptions{Source: snap.Workload("w0"), Port: 80, Rand: r.Uint64N})
		if !ok {
			t.Fatal("nothing was picked")
		}
		got[w.UID]++
	}
	for uid, n := range got {
		if share := float64(n) / picks; share < want[uid]*0.7 || share > want[uid]*1.3 {
			t.Errorf("%s got a share of %.4f, want about %.4f", uid, share, want[uid])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d endpoints were picked, want %d", len(got), len(want))
	}
}

// Port mapping precedence: endpoint > service > application tunnel.
func TestPortMappingPrecedence(t *testing.T) {
	tunnel := func(port uint32) func(*pbWorkload) {
		return func(w *pbWorkload) { w.ApplicationTunnel = &workloadapi.ApplicationTunnel{Port: port} }
	}
	tests := []struct {
		name     string
		ports    []*pbPort
		ep       *pbWorkload
		waypoint bool
		want     string
	}{
		{"the endpoint's mapping wins", ports(80, 8080), ep("a", "", maps80), false, "a:9090"},
		{"else the service's target port", ports(80, 8080), ep("a", ""), false, "a:8080"},
		{"named port: the endpoint's mapping", ports(80, 0), ep("a", "", maps80), false, "a:9090"},
		{"named port without a mapping: none", ports(80, 0), ep("a", ""), false, ""},
		{"a port that the service has not: none", ports(81, 8080), ep("a", "", maps80), false, ""},
		{"a port that the service has not, application tunnel: none for an ordinary call", ports(81, 8080), ep("a", "", tunnel(15088)), false, ""},
		{"waypoint: the service's target port", ports(80, 15008), ep("a", ""), true, "a:15008"},
		{"waypoint: the endpoint's mapping wins", ports(80, 15008), ep("a", "", maps80), true, "a:9090"},
		{"waypoint without the port: none", nil, ep("a", ""), true, ""},
		{"waypoint with an application tunnel: no port is needed", nil, ep("a", "", tunnel(15088)), true, "a:80"},
		{"waypoint with an application tunnel without a port: none", nil, ep("a", "", tunnel(0)), true, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			snap := picture(t, &pbService{Namespace: "s", Hostname: "svc", Ports: tt.ports}, tt.ep)
			svc := snap.Service(workload.Key{Namespace: "s", Hostname: "svc"})
			got := strings.Join(reachable(snap, svc, workload.PickOptions{Source: snap.Workload("a"), Port: 80, Waypoint: tt.waypoint}), " ")
			if got != tt.want {
				t.Errorf("can pick %q, want %q", got, tt.want)
			}
		})
	}
}

func TestWeightedWaypointSampling(t *testing.T) {
	gw := func(host string, weight uint32) workload.WeightedGateway {
		return workload.WeightedGateway{Gateway: workload.Gateway{Host: workload.Key{Hostname: host}}, Weight: weight}
	}
	single := &workload.Gateway{Host: workload.Key{Hostname: "single"}}
	tests := []struct {
		name     string
		weighted []workload.WeightedGateway
		want     string // the outcomes of chance, in order
	}{
		{"weights", []workload.WeightedGateway{gw("a", 1), gw("b", 3)}, "a b b b"},
		{"a zero weight takes nothing", []workload.WeightedGateway{gw("a", 0), gw("b", 2)}, "b b"},
		{"zero weights: the single one", []workload.WeightedGateway{gw("a", 0), gw("b", 0)}, "single"},
		{"empty: the single one", nil, "single"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			svc := &workload.Service{Waypoint: single, Weighted: tt.weighted}
			want := strings.Fields(tt.want)
			for i := range want {
				g := workload.PickWaypoint(svc, func(uint64) uint64 { return uint64(i) })
				if g.Host.Hostname != want[i] {
					t.Errorf("outcome %d = %q, want %q", i, g.Host.Hostname, want[i])
				}
			}
		})
	}
	if g := workload.PickWaypoint(&workload.Service{}, nil); g != nil {
		t.Errorf("a service without waypoints has %v", g)
	}
}

func TestPickAddr(t *testing.T) {
	const v4, v4b, v6 = "10.0.0.1", "10.0.0.2", "2001:db8::1"
	tests := []struct {
		name     string
		addrs    []string
		want     string // what was called
		families workload.Families
		pick     string
	}{
		{"the requested address itself", []string{v4, v4b}, v4b, workload.FamiliesAny, v4b},
		{"the requested address even against the families", []string{v4, v6}, v6, workload.FamiliesIPv4, v6},
		{"same family first: v6", []string{v4, v6}, "2001:db8::9", workload.FamiliesAny, v6},
		{"same family first: v4", []string{v6, v4}, "10.9.0.1", workload.FamiliesDual, v4},
		{"else the first", []string{v4, v4b}, "2001:db8::9", workload.FamiliesAny, v4},
		{"service_ip_families restriction", []string{v4, v6}, "10.9.0.1", workload.FamiliesIPv6, v6},
		{"restriction leaves none", []string{v4}, "10.9.0.1", workload.FamiliesIPv6, ""},
		{"no addresses", nil, "10.9.0.1", workload.FamiliesAny, ""},
		{"v4 in v6 is v4", []string{v6, v4}, "::ffff:10.9.0.1", workload.FamiliesAny, v4},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := &workload.Workload{}
			for _, a := range tt.addrs {
				w.Addresses = append(w.Addresses, ip(a))
			}
			got, ok := workload.PickAddr(w, ip(tt.want), tt.families)
			if text := got.String(); (ok && text != tt.pick) || ok != (tt.pick != "") {
				t.Errorf("picked %v, %v; want %q", got, ok, tt.pick)
			}
		})
	}
}

// BenchmarkPick measures one choice among the endpoints of a service.
func BenchmarkPick(b *testing.B) {
	for _, n := range []int{3, 100, 10_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			s := newStore()
			all := resources{resource(b, &pbService{Namespace: "s", Hostname: "svc", Ports: ports(80, 8080)})}
			for i := range n {
				all = append(all, resource(b, ep("w"+strconv.Itoa(i), "")))
			}
			s.ApplyAddresses(all, nil)
			snap := s.Snapshot()
			svc := snap.Service(workload.Key{Namespace: "s", Hostname: "svc"})
			o := workload.PickOptions{Source: snap.Workload("w0"), Port: 80, Rand: rand.Uint64N}
			b.ReportAllocs()
			for b.Loop() {
				if _, _, ok := snap.Pick(svc, o); !ok {
					b.Fatal("nothing was picked")
				}
			}
		})
	}
}
