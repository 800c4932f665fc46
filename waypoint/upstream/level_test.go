package upstream

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/internal/meshapi/workloadapi"
	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/internal/workload"
	"github.com/ambit-mesh/ambit/waypoint/config"
)

// shop is a picture of one service, shop/orders, with endpoints that are called
// region/zone/number, seen by a waypoint at a/x.
type shop struct {
	t testing.TB
	u *Upstreams
	r *rand.Rand
}

// orders is the key of the service.
var orders = Key{Service: workload.Key{Namespace: "shop", Hostname: "orders"}, Port: 80}

// newShop makes one.
func newShop(t testing.TB, traffic *waypointapi.Traffic, endpoints []string) *shop {
	t.Helper()
	s := &shop{t: t, r: rand.New(rand.NewPCG(3, 4))}
	state, routes := workload.NewStore(workload.Config{}), config.NewStore(config.Name{Namespace: "shop", Name: "wp"})
	pack := func(name string, m proto.Message) *discoveryv3.Resource {
		a, err := anypb.New(m)
		if err != nil {
			t.Fatal(err)
		}
		return &discoveryv3.Resource{Name: name, Resource: a}
	}
	address := func(w *workloadapi.Workload) *discoveryv3.Resource {
		return pack(w.Uid, &workloadapi.Address{Type: &workloadapi.Address_Workload{Workload: w}})
	}
	all := []*discoveryv3.Resource{
		pack("shop/orders", &workloadapi.Address{Type: &workloadapi.Address_Service{Service: &workloadapi.Service{Namespace: "shop", Hostname: "orders", Ports: []*workloadapi.Port{{ServicePort: 80, TargetPort: 8080}}}}}),
		address(&workloadapi.Workload{Uid: "Kubernetes//Pod/shop/wp", Namespace: "shop", Name: "wp", ServiceAccount: "wp", Addresses: [][]byte{{10, 0, 0, 1}}, Locality: &workloadapi.Locality{Region: "a", Zone: "x"}}),
	}
	for i, name := range endpoints {
		p := strings.Split(name, "/")
		all = append(all, address(&workloadapi.Workload{
			Uid: name, Namespace: "shop", Name: name, Addresses: [][]byte{{10, 0, 1, byte(i)}}, Locality: &workloadapi.Locality{Region: p[0], Zone: p[1]},
			Services: map[string]*workloadapi.PortList{"shop/orders": {}},
		}))
	}
	if rejected := state.ApplyAddresses(all, nil); rejected != nil {
		t.Fatal(rejected)
	}
	if rejected := routes.ApplyServices([]*discoveryv3.Resource{pack("shop/orders", &waypointapi.Service{Namespace: "shop", Hostname: "orders", Traffic: traffic})}, nil); rejected != nil {
		t.Fatal(rejected)
	}
	s.u = New(Config{Self: policy.Subject{Namespace: "shop", Name: "wp", ServiceAccount: "wp"}}, Deps{State: state, Routes: routes, Rand: s.r.Uint64N})
	return s
}

// picks is how many of a thousand requests each endpoint gets, or each region/zone when
// places is true.
func (s *shop) picks(places bool, tried ...string) map[string]int {
	s.t.Helper()
	got := map[string]int{}
	for range 1000 {
		e, err := s.u.Pick(Want{Key: orders, Tried: tried})
		if err != nil {
			got[err.Error()]++
			continue
		}
		name := e.Workload.UID
		if places {
			name = name[:strings.LastIndex(name, "/")]
		}
		got[name]++
		e.Drop()
	}
	return got
}

// ill puts endpoints out.
func (s *shop) ill(names ...string) {
	for _, name := range names {
		s.u.cluster(orders).host(name).ill.until = time.Now().Add(time.Hour)
	}
}

// Requests stay near while enough endpoints there are healthy, go on when they are not,
// and back to a near one before none at all.
func TestNearestFirst(t *testing.T) {
	near := &waypointapi.Traffic{Outlier: &waypointapi.Outlier{}, Balancer: &waypointapi.Balancer{Locality: &waypointapi.Locality{
		Failover: []*waypointapi.Locality_Failover{{From: "a", To: "c"}},
	}}}
	endpoints := []string{"a/x/1", "a/x/2", "a/y/1", "b/z/1", "c/z/1"}
	for _, tt := range []struct {
		name  string
		kind  waypointapi.Balancer_Kind
		ill   []string
		tried []string
		want  string // places that get requests
	}{
		{"all are healthy", waypointapi.Balancer_LEAST_REQUEST, nil, nil, "a/x"},
		{"in turn", waypointapi.Balancer_ROUND_ROBIN, nil, nil, "a/x"},
		{"half of the zone is ill", waypointapi.Balancer_LEAST_REQUEST, []string{"a/x/1"}, nil, "a/x a/y"},
		{"the zone is ill", waypointapi.Balancer_LEAST_REQUEST, []string{"a/x/1", "a/x/2"}, nil, "a/y"},
		{"the region is ill", waypointapi.Balancer_RANDOM, []string{"a/x/1", "a/x/2", "a/y/1"}, nil, "c/z"},
		{"the next region is, too", waypointapi.Balancer_LEAST_REQUEST, []string{"a/x/1", "a/x/2", "a/y/1", "c/z/1"}, nil, "b/z"},
		{"all are ill", waypointapi.Balancer_LEAST_REQUEST, endpoints, nil, "no healthy endpoint for shop/orders:80"},
		{"the zone was tried", waypointapi.Balancer_LEAST_REQUEST, nil, []string{"a/x/1", "a/x/2"}, "a/y"},
		{"all were tried", waypointapi.Balancer_LEAST_REQUEST, nil, endpoints, "a/x"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			near.Balancer.Kind = tt.kind
			s := newShop(t, near, endpoints)
			s.ill(tt.ill...)
			if got := strings.Join(slices.Sorted(maps.Keys(s.picks(true, tt.tried...))), " "); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

// Places get their shares, less what their ill endpoints cannot take; others get nothing.
func TestSharesOfPlaces(t *testing.T) {
	traffic := &waypointapi.Traffic{Outlier: &waypointapi.Outlier{}, Balancer: &waypointapi.Balancer{Locality: &waypointapi.Locality{Distribute: []*waypointapi.Locality_Distribution{
		{From: "b/*", To: []*waypointapi.Locality_Share{{To: "c/*", Weight: 100}}},
		{From: "a/*", To: []*waypointapi.Locality_Share{{To: "a/x/*", Weight: 70}, {To: "b/*", Weight: 20}, {To: "d", Weight: 10}}},
	}}}}
	endpoints := []string{"a/x/1", "a/x/2", "a/y/1", "b/z/1", "c/z/1"}
	for _, tt := range []struct {
		name string
		ill  []string
		want map[string]float64
	}{
		{"all are healthy", nil, map[string]float64{"a/x": 70. / 90, "b/z": 20. / 90}},
		{"half of a place is ill", []string{"a/x/1"}, map[string]float64{"a/x": 49. / 69, "b/z": 20. / 69}},
		{"a place is ill", []string{"a/x/1", "a/x/2"}, map[string]float64{"b/z": 1}},
		{"all that have a share are ill", []string{"a/x/1", "a/x/2", "b/z/1"}, map[string]float64{"no healthy endpoint for shop/orders:80": 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newShop(t, traffic, endpoints)
			s.ill(tt.ill...)
			got := s.picks(true)
			for place, n := range got {
				if want := tt.want[place] * 1000; math.Abs(float64(n)-want) > 70 { // some five deviations
					t.Errorf("%s: %d of 1000, want %.0f", place, n, want)
				}
			}
			if len(got) != len(tt.want) {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}

// shares is the oracle of levels.shares: level after level, in fractions.
func sharesOf(all, healthy []int, weights []uint32) (out []float64) {
	left, sum := 1.0, 0.0
	for i := range all {
		able := 0.0
		if all[i] > 0 {
			able = math.Min(1, 1.4*float64(healthy[i])/float64(all[i]))
		}
		share := math.Min(able, left)
		if weights != nil {
			if share = 0; i < len(weights) {
				share = able * float64(weights[i])
			}
		}
		left -= share
		sum += share
		out = append(out, share)
	}
	for i := range out {
		if sum > 0 {
			out[i] /= sum
		}
	}
	return out
}

// The shares are those of the oracle, but for what whole percents cannot say.
func TestSharesEqualOracle(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 20_000 {
		var l levels
		n := 1 + r.IntN(config.MaxLevels)
		for i := range n {
			l.all[i] = r.IntN(4) * r.IntN(4)
			if l.all[i] > 0 {
				l.healthy[i] = r.IntN(l.all[i] + 1)
			}
		}
		var weights []uint32
		for range r.IntN(n + 1) {
			weights = append(weights, uint32(r.IntN(100)))
		}
		got, sum := l.shares(weights)
		want := sharesOf(l.all[:], l.healthy[:], weights)
		for i := range got {
			share := 0.0
			if sum > 0 {
				share = float64(got[i]) / float64(sum)
			}
			if math.Abs(share-want[i]) > 0.1 || (got[i] == 0) != (want[i] < 1e-9) {
				t.Fatalf("%v of %v healthy, weights %v: level %d has %.3f, want %.3f\n%s", l.healthy, l.all, weights, i, share, want[i], fmt.Sprint(got, want))
			}
		}
	}
}

// Where nobody said anything of places, choosing costs what it did.
func BenchmarkPick(b *testing.B) {
	endpoints := []string{"a/x/1", "a/x/2", "a/y/1", "b/z/1", "c/z/1"}
	for name, traffic := range map[string]*waypointapi.Traffic{
		"plain": {}, "near": {Outlier: &waypointapi.Outlier{}, Balancer: &waypointapi.Balancer{Locality: &waypointapi.Locality{}}},
	} {
		b.Run(name, func(b *testing.B) {
			s := newShop(b, traffic, endpoints)
			b.ReportAllocs()
			for b.Loop() {
				e, err := s.u.Pick(Want{Key: orders})
				if err != nil {
					b.Fatal(err)
				}
				e.Drop()
			}
		})
	}
}
