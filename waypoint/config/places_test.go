package config

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/internal/workload"
)

// levelOf is the oracle of View.Level: it compares texts, as the users' reference tells it.
func levelOf(l *waypointapi.Locality, src, w *workload.Workload, labels map[string]string) string {
	of := func(w *workload.Workload, labels map[string]string) map[string]string {
		all := map[string]string{}
		for k, v := range labels {
			all[k] = v
		}
		for k, v := range map[string]string{
			"topology.istio.io/network": w.Network, "topology.istio.io/cluster": w.ClusterID, "topology.kubernetes.io/region": w.Locality.Region,
			"topology.kubernetes.io/zone": w.Locality.Zone, "topology.istio.io/subzone": w.Locality.Subzone, "kubernetes.io/hostname": w.Node,
		} {
			if v != "" {
				all[k] = v
			}
		}
		return all
	}
	parts := func(w *workload.Workload) []string {
		return []string{w.Locality.Region, w.Locality.Zone, w.Locality.Subzone}
	}
	matches := func(pattern string, at []string) bool {
		for i, p := range strings.Split(pattern, "/") {
			if p != "*" && p != at[i] {
				return false
			}
		}
		return true
	}
	if len(l.Distribute) > 0 {
		for _, d := range l.Distribute {
			if !matches(d.From, parts(src)) {
				continue
			}
			for i, to := range d.To {
				if matches(to.To, parts(w)) {
					return fmt.Sprint(i)
				}
			}
			return "none"
		}
		return "no levels"
	}
	if len(l.Priority) > 0 {
		mine, theirs := of(src, nil), of(w, labels)
		matched := 0
		for _, p := range l.Priority {
			want := p.Value
			if want == "" {
				want = mine[p.Name]
			}
			if theirs[p.Name] != want {
				break
			}
			matched++
		}
		return fmt.Sprint(len(l.Priority) - matched)
	}
	if strings.Join(parts(src), "") == "" {
		return "no levels"
	}
	same := 0
	for same < 3 && parts(src)[same] == parts(w)[same] {
		same++
	}
	if same == 0 {
		for _, f := range l.Failover {
			if f.From == src.Locality.Region && f.To != w.Locality.Region {
				return "4"
			}
		}
	}
	return fmt.Sprint(3 - same)
}

// Each endpoint is at the level at which the oracle has it.
func TestLevelsEqualOracle(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	pick := func(from ...string) string { return from[r.IntN(len(from))] }
	somewhere := func() *workload.Workload {
		w := &workload.Workload{}
		w.Locality = workload.Locality{Region: pick("a", "b", "c"), Zone: pick("", "x", "y"), Subzone: pick("", "1", "2")}
		if r.IntN(8) == 0 {
			w.Locality = workload.Locality{}
		}
		w.Node, w.ClusterID, w.Network = pick("n1", "n2"), pick("c1", "c2"), pick("", "net")
		return w
	}
	seen := map[string]int{}
	for range 20_000 {
		l := &waypointapi.Locality{}
		switch r.IntN(4) {
		case 0:
			for range 1 + r.IntN(4) {
				label := &waypointapi.Locality_Label{Name: pick("topology.istio.io/network", "topology.istio.io/cluster", "topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone", "kubernetes.io/hostname")}
				if r.IntN(3) == 0 {
					label = &waypointapi.Locality_Label{Name: pick("version", "topology.kubernetes.io/region"), Value: pick("v1", "a")}
				}
				l.Priority = append(l.Priority, label)
			}
		case 1:
			for _, from := range []string{"a", "b"}[:r.IntN(3)] {
				l.Failover = append(l.Failover, &waypointapi.Locality_Failover{From: from, To: "c"})
			}
		case 2:
			for range 1 + r.IntN(2) {
				d := &waypointapi.Locality_Distribution{From: pick("*", "a", "a/*", "b/x", "c/x/1")}
				for range 1 + r.IntN(3) {
					d.To = append(d.To, &waypointapi.Locality_Share{To: pick("a", "b/*", "b/x/*", "c/y", "a/x/2"), Weight: 1})
				}
				l.Distribute = append(l.Distribute, d)
			}
		}
		src, w := somewhere(), somewhere()
		labels := map[string]string{"version": pick("v1", "v2")}
		places := compilePlaces(&waypointapi.Traffic{Balancer: &waypointapi.Balancer{Locality: l}, Outlier: &waypointapi.Outlier{}})
		got := "no levels"
		if v, ok := places.From(src); ok {
			got = "none"
			if level, ok := v.Level(w, &Endpoint{Labels: labels}); ok {
				got = fmt.Sprint(level)
			}
		}
		want := levelOf(l, src, w, labels)
		if got != want {
			t.Fatalf("%v\nfrom %+v\nto %+v %v: level %s, want %s", l, src.Location, w.Location, labels, got, want)
		}
		seen[want]++
	}
	for _, level := range []string{"0", "1", "2", "3", "4", "none", "no levels"} {
		if seen[level] < 100 {
			t.Errorf("level %s came %d times only", level, seen[level])
		}
	}
}

// Without outlier detection only fixed shares count.
func TestPlacesNeedOutlierDetection(t *testing.T) {
	near := &waypointapi.Balancer{Locality: &waypointapi.Locality{}}
	shares := &waypointapi.Balancer{Locality: &waypointapi.Locality{Distribute: []*waypointapi.Locality_Distribution{{From: "*", To: []*waypointapi.Locality_Share{{To: "*", Weight: 100}}}}}}
	for _, tt := range []struct {
		name string
		in   *waypointapi.Traffic
		want bool
	}{
		{"nothing", &waypointapi.Traffic{}, false},
		{"no locality", &waypointapi.Traffic{Outlier: &waypointapi.Outlier{}, Balancer: &waypointapi.Balancer{}}, false},
		{"near ones first", &waypointapi.Traffic{Balancer: near}, false},
		{"near ones first, with outlier detection", &waypointapi.Traffic{Balancer: near, Outlier: &waypointapi.Outlier{}}, true},
		{"shares", &waypointapi.Traffic{Balancer: shares}, true},
	} {
		if got := compilePlaces(tt.in) != nil; got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}
