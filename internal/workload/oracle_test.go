package workload_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ambit-mesh/ambit/internal/meshapi/workloadapi"
	"github.com/ambit-mesh/ambit/internal/workload"
)

// naive answers from the messages themselves, by walking all of them. It has no
// index and no history: only what is in force.
type naive map[string]proto.Message // by resource name

func (n naive) workloads() (out []*pbWorkload) {
	for _, m := range n {
		if w, ok := m.(*pbWorkload); ok {
			out = append(out, w)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Uid < out[j].Uid })
	return out
}

func (n naive) services() (out []*pbService) {
	for _, m := range n {
		if s, ok := m.(*pbService); ok {
			out = append(out, s)
		}
	}
	sort.Slice(out, func(i, j int) bool {
		a, b := out[i], out[j]
		return a.Namespace < b.Namespace || a.Namespace == b.Namespace && a.Hostname < b.Hostname
	})
	return out
}

// workloadAt: pod with HBONE, pod, HBONE, other; then by UID.
func (n naive) workloadAt(network string, addr netip.Addr) string {
	for want := 3; want >= 0; want-- {
		for _, w := range n.workloads() {
			points := 0
			if strings.Contains(w.Uid, "//Pod/") {
				points += 2
			}
			if w.TunnelProtocol == hbone {
				points++
			}
			has := slices.ContainsFunc(w.Addresses, func(b []byte) bool { return bytes.Equal(b, addr.AsSlice()) })
			if points == want && has && w.Network == network && w.NetworkMode == workloadapi.NetworkMode_STANDARD {
				return w.Uid
			}
		}
	}
	return ""
}

// serviceAt: exact before ranges; in the client's namespace, then the longer
// range, then canonical, then the first.
func (n naive) serviceAt(network string, addr netip.Addr, client string) string {
	for _, exact := range []bool{true, false} {
		best, bestPoints := "", -1
		for _, s := range n.services() {
			if s.Visibility == workloadapi.Service_NAMESPACE && client != "" && s.Namespace != client {
				continue
			}
			for _, a := range s.Addresses {
				own, _ := netip.AddrFromSlice(a.Address)
				bits := own.BitLen()
				if a.Length != nil {
					bits = int(*a.Length)
				}
				if a.Network != network || (bits == own.BitLen()) != exact || !netip.PrefixFrom(own, bits).Contains(addr) {
					continue
				}
				points := 2 * bits
				if s.Canonical {
					points++
				}
				if client != "" && s.Namespace == client {
					points += 1000
				}
				if points > bestPoints {
					best, bestPoints = s.Namespace+"/"+s.Hostname, points
				}
			}
		}
		if best != "" {
			return best
		}
	}
	return ""
}

// picks lists whom a connection of src to that port of s could get.
func (n naive) picks(s *pbService, src *pbWorkload, port uint32) []string {
	var service *pbPort
	for _, p := range s.Ports {
		if p.ServicePort == port {
			service = p
		}
	}
	out := map[int][]string{}
	best := -1
	for _, w := range n.workloads() {
		member, ok := w.Services[s.Namespace+"/"+s.Hostname]
		if !ok || service == nil || len(w.Addresses) == 0 {
			continue
		}
		if w.Status == workloadapi.WorkloadStatus_UNHEALTHY && s.GetLoadBalancing().GetHealthPolicy() != workloadapi.LoadBalancing_ALLOW_ALL {
			continue
		}
		target := service.TargetPort
		for _, p := range member.Ports {
			if p.ServicePort == port {
				target = p.TargetPort
			}
		}
		if target == 0 {
			continue
		}
		rank, fits := naiveRank(s.GetLoadBalancing(), src, w)
		if !fits {
			continue
		}
		best = max(best, rank)
		if w.Capacity == nil || w.Capacity.Value > 0 {
			out[rank] = append(out[rank], fmt.Sprintf("%s:%d", w.Uid, target))
		}
	}
	sort.Strings(out[best])
	return out[best]
}

// naiveRank counts matches from a table of what the two have.
func naiveRank(l *lb, src, w *pbWorkload) (rank int, fits bool) {
	if l.GetMode() != strict && l.GetMode() != failover {
		return 0, true
	}
	place := func(x *pbWorkload) []string {
		return []string{"", x.GetLocality().GetRegion(), x.GetLocality().GetZone(), x.GetLocality().GetSubzone(), x.Node, x.ClusterId, x.Network}
	}
	a, b := place(src), place(w)
	scopes := l.RoutingPreference
	first := len(scopes) > 0 && scopes[0] == network
	rest := scopes
	if first {
		rest = scopes[1:]
	}
	matched := 0
	for _, s := range rest {
		if a[s] != b[s] {
			break
		}
		matched++
	}
	near := first && a[network] == b[network]
	full := matched == len(rest) && (!first || near)
	if l.Mode == strict && !full {
		return 0, false
	}
	if near {
		return matched + 100, true
	}
	return matched, true
}

// stock makes random resources out of few values, so that they meet often.
type stock struct{ r *rand.Rand }

func of[T any](s stock, from ...T) T { return from[s.r.IntN(len(from))] }

func (s stock) message() proto.Message {
	if s.r.IntN(3) == 0 {
		return s.service()
	}
	return s.workload()
}

func (s stock) workload() *pbWorkload {
	w := &pbWorkload{
		Uid: of(s, "c//Pod/a/1", "c//Pod/a/2", "c//Pod/b/1", "e/1", "e/2", "e/3"), Network: of(s, "", "", "", "n2"),
		Namespace: of(s, "a", "b"), TunnelProtocol: of(s, workloadapi.TunnelProtocol_NONE, hbone),
		NetworkMode: of(s, workloadapi.NetworkMode_STANDARD, workloadapi.NetworkMode_STANDARD, workloadapi.NetworkMode_HOST_NETWORK),
		Status:      of(s, workloadapi.WorkloadStatus_HEALTHY, workloadapi.WorkloadStatus_HEALTHY, workloadapi.WorkloadStatus_UNHEALTHY),
		Locality:    &workloadapi.Locality{Region: of(s, "r", "q"), Zone: of(s, "z", "y"), Subzone: of(s, "s", "")},
		Node:        of(s, "node-1", "node-2"), ClusterId: of(s, "c", "d"),
		Services: map[string]*workloadapi.PortList{},
	}
	for range s.r.IntN(3) {
		w.Addresses = append(w.Addresses, raw(of(s, "10.0.0.1", "10.0.0.2", "10.0.0.3", "2001:db8::1")))
	}
	for range s.r.IntN(3) {
		w.Services[of(s, "a/x", "a/y", "b/x")] = &workloadapi.PortList{Ports: of(s, nil, ports(80, 9090), ports(443, 8443))}
	}
	if s.r.IntN(3) == 0 {
		w.Capacity = wrapperspb.UInt32(uint32(s.r.IntN(3)))
	}
	return w
}

func (s stock) service() *pbService {
	svc := &pbService{
		Namespace: of(s, "a", "b"), Hostname: of(s, "x", "y"), Canonical: of(s, true, false),
		Visibility: of(s, workloadapi.Service_PUBLIC, workloadapi.Service_NAMESPACE),
		Ports:      of(s, nil, ports(80, 8080), ports(80, 0, 443, 8443)),
	}
	for range s.r.IntN(4) {
		svc.Addresses = append(svc.Addresses, vip(of(s, "10.0.0.1", "10.9.0.1", "10.9.0.1/32", "10.9.0.0/16", "10.0.0.0/8", "2001:db8::/32", "2001:db8::9")))
	}
	if s.r.IntN(2) == 0 {
		svc.LoadBalancing = &lb{Mode: of(s, 0, strict, failover), HealthPolicy: of(s, workloadapi.LoadBalancing_ONLY_HEALTHY, workloadapi.LoadBalancing_ALLOW_ALL)}
		scopes := []workloadapi.LoadBalancing_Scope{network, region, zone, subzone, onNode, cluster}
		s.r.Shuffle(len(scopes), func(i, j int) { scopes[i], scopes[j] = scopes[j], scopes[i] })
		svc.LoadBalancing.RoutingPreference = scopes[:s.r.IntN(4)]
	}
	return svc
}

// Random histories of updates and removals, in batches: every answer is that of
// the naive walk over what is in force, whatever the order was.
func TestStoreEqualsOracle(t *testing.T) {
	s := stock{rand.New(rand.NewPCG(5, 6))}
	answers := map[string]int{}
	for range 60 {
		store, want := newStore(), naive{}
		for range 25 {
			var batch resources
			var removed []string
			for range 1 + s.r.IntN(3) {
				r := resource(t, s.message())
				batch = append(batch, r)
				want[r.Name] = unpack(t, r)
			}
			for range s.r.IntN(3) {
				removed = append(removed, of(s, "c//Pod/a/1", "c//Pod/a/2", "e/1", "e/2", "a/x", "a/y", "b/x"))
				delete(want, removed[len(removed)-1])
			}
			if rejected := store.ApplyAddresses(batch, removed); len(rejected) > 0 {
				t.Fatal(rejected)
			}
			compareAll(t, store.Snapshot(), want, answers)
		}
	}
	for _, kind := range []string{"workload", "service", "pick"} {
		if answers[kind] < 1000 {
			t.Errorf("only %d answers were a %s: the histories say little", answers[kind], kind)
		}
	}
}

func unpack(t testing.TB, r *discoveryv3.Resource) proto.Message {
	t.Helper()
	var a workloadapi.Address
	if err := r.Resource.UnmarshalTo(&a); err != nil {
		t.Fatal(err)
	}
	if w := a.GetWorkload(); w != nil {
		return w
	}
	return a.GetService()
}

func compareAll(t *testing.T, snap *workload.Snapshot, want naive, answers map[string]int) {
	t.Helper()
	for _, addr := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.9.0.1", "10.9.0.2", "2001:db8::1", "2001:db8::9", "11.0.0.1"} {
		for _, net := range []string{"", "n2"} {
			a := ip(addr)
			if got, w := found(snap.LookupWorkload(net, a), nil), want.workloadAt(net, a); got != w {
				t.Fatalf("workload at %q %v = %q, want %q\nin force: %v", net, a, got, w, want)
			} else if got != "" {
				answers["workload"]++
			}
			for _, client := range []string{"", "a", "b", "z"} {
				if got, w := found(nil, snap.LookupService(net, a, client)), want.serviceAt(net, a, client); got != w {
					t.Fatalf("service at %q %v for %q = %q, want %q\nin force: %v", net, a, client, got, w, want)
				} else if got != "" {
					answers["service"]++
				}
			}
		}
	}
	for _, svc := range want.services() {
		got := snap.Service(workload.Key{Namespace: svc.Namespace, Hostname: svc.Hostname})
		if got == nil {
			t.Fatalf("service %s/%s is not there", svc.Namespace, svc.Hostname)
		}
		for _, src := range want.workloads() {
			for _, port := range []uint32{80, 443} {
				can := reachable(snap, got, workload.PickOptions{Source: snap.Workload(src.Uid), Port: uint16(port)})
				if w := want.picks(svc, src, port); !slices.Equal(can, w) {
					t.Fatalf("%s can pick %v of %v port %d, want %v\nin force: %v", src.Uid, can, got.Key, port, w, want)
				}
				var candidates []string
				snap.Candidates(got, workload.PickOptions{Source: snap.Workload(src.Uid), Port: uint16(port)}, func(w *workload.Workload, port uint16) {
					candidates = append(candidates, w.UID+":"+strconv.Itoa(int(port)))
				})
				if slices.Sort(candidates); !slices.Equal(candidates, can) {
					t.Fatalf("%s has the candidates %v of %v port %d, and can pick %v\nin force: %v", src.Uid, candidates, got.Key, port, can, want)
				}
				answers["pick"] += len(can)
			}
		}
	}
	if w, s, _ := snap.Counts(); w != len(want.workloads()) || s != len(want.services()) {
		t.Fatalf("%d workloads and %d services, want %d and %d", w, s, len(want.workloads()), len(want.services()))
	}
}

// Whatever bytes come as resources: nothing panics, what was good and is not
// named stays, and the picture agrees with itself.
func FuzzApplyAddresses(f *testing.F) {
	s := stock{rand.New(rand.NewPCG(7, 8))}
	for range 30 {
		r := resource(f, s.message())
		f.Add(r.Name, r.Resource.Value, r.Name)
	}
	f.Add("u", []byte{0xff}, "")
	f.Add("", []byte{}, "keep/svc")
	f.Fuzz(func(t *testing.T, name string, body []byte, removed string) {
		store := newStore()
		keep := ep("keep", "")
		keep.Services = in("keep/svc", 80, 8080)
		apply(t, store, keep, &pbService{Namespace: "keep", Hostname: "svc", Addresses: vips("10.9.0.9", "10.128.0.0/9")})
		old := store.Snapshot()
		r := resource(t, keep)
		r.Name, r.Resource.Value = name, body
		for range 2 { // the second time replaces the first
			if store.ApplyAddresses(resources{r}, nil)[name] != nil && store.Snapshot() != old {
				t.Fatal("a rejected resource made another picture")
			}
		}
		consistent(t, store.Snapshot())
		store.ApplyAddresses(nil, []string{removed})
		consistent(t, store.Snapshot())
		if name != "keep" && removed != "keep" && store.Snapshot().Workload("keep") != old.Workload("keep") {
			t.Error("a workload that was not named is another now")
		}
		if name != "keep/svc" && removed != "keep/svc" && store.Snapshot().LookupService("", ip("10.9.0.9"), "keep") == nil {
			t.Error("a service that was not named is gone")
		}
		consistent(t, old)
		store.ApplyAddresses(nil, []string{name, "keep", "keep/svc"})
		if w, s, _ := store.Snapshot().Counts(); w+s != 0 {
			t.Errorf("%d workloads and %d services are left after all names were removed", w, s)
		}
	})
}

// consistent checks that every index of a snapshot tells of the same things.
func consistent(t *testing.T, snap *workload.Snapshot) {
	t.Helper()
	for _, w := range snap.Workloads() {
		if snap.Workload(w.UID) != w {
			t.Fatalf("workload %q is not found by its UID", w.UID)
		}
		for _, a := range w.Addresses {
			if a.Is4In6() || (!w.HostNetwork && !snap.LookupWorkload(w.Network, a).HasAddress(a)) {
				t.Fatalf("address %v of %q leads elsewhere", a, w.UID)
			}
		}
		for k := range w.Services {
			if svc := snap.Service(k); svc != nil && w.Healthy && (snap.Endpoint(svc, w.UID) == nil || snap.Endpoint(svc, w.UID).Workload != w) {
				t.Fatalf("workload %q is no endpoint of %v", w.UID, k)
			}
		}
	}
	for _, svc := range snap.Services() {
		if snap.Service(svc.Key) != svc || snap.LookupHost(svc.Hostname, svc.Namespace) == nil {
			t.Fatalf("service %v is not found by its key or host name", svc.Key)
		}
		for _, v := range svc.VIPs {
			if snap.LookupService(v.Network, v.Prefix.Addr(), "") == nil {
				t.Fatalf("VIP %v of %v leads nowhere", v, svc.Key)
			}
		}
		for _, e := range snap.Endpoints(svc) {
			if _, member := e.Workload.Services[svc.Key]; !member || snap.Workload(e.Workload.UID) != e.Workload {
				t.Fatalf("endpoint %q of %v is no member of it", e.Workload.UID, svc.Key)
			}
		}
	}
}
