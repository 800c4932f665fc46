package config

import (
	"strings"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/internal/workload"
)

// Places is which endpoints of a service come first, by where they are: each is of a
// level. It never changes.
type Places struct {
	priority   []*waypointapi.Locality_Label
	failover   map[string]string // next region of a region
	distribute []distribution
}

// distribution is what places get from one place.
type distribution struct {
	from    place
	to      []place
	weights []uint32 // of to
}

// place is a region, zone and subzone, each of which may be empty for any.
type place [3]string

// MaxLevels bounds how many levels there are: our choice. Other labels and places count
// for nothing.
const MaxLevels = 16

// compilePlaces prepares what users want; nil when it has no effect. Without outlier
// detection nobody knows when to leave a level. Source: Istio,
// LocalityLoadBalancerSetting.
func compilePlaces(t *waypointapi.Traffic) *Places {
	l := t.GetBalancer().GetLocality()
	if l == nil || t.GetOutlier() == nil && len(l.GetDistribute()) == 0 {
		return nil
	}
	p := &Places{priority: l.GetPriority(), failover: map[string]string{}}
	p.priority = p.priority[:min(len(p.priority), MaxLevels-1)]
	for _, f := range l.GetFailover() {
		p.failover[f.GetFrom()] = f.GetTo()
	}
	for _, d := range l.GetDistribute() {
		out := distribution{from: parsePlace(d.GetFrom())}
		for _, s := range d.GetTo()[:min(len(d.GetTo()), MaxLevels)] {
			out.to = append(out.to, parsePlace(s.GetTo()))
			out.weights = append(out.weights, s.GetWeight())
		}
		if len(out.to) > 0 {
			p.distribute = append(p.distribute, out)
		}
	}
	return p
}

// parsePlace reads region/zone/subzone.
func parsePlace(text string) (p place) {
	for i, part := range strings.SplitN(text, "/", len(p)) {
		if part != "*" {
			p[i] = part
		}
	}
	return p
}

// has reports whether a place contains a locality.
func (p place) has(l workload.Locality) bool {
	for i, part := range [len(p)]string{l.Region, l.Zone, l.Subzone} {
		if p[i] != "" && p[i] != part {
			return false
		}
	}
	return true
}

// View is the levels of endpoints as one caller sees them.
type View struct {
	places *Places
	from   *workload.Workload
	// Weights are the shares of the levels; nil: a level is used when those before it
	// have not enough healthy endpoints.
	Weights []uint32
	to      []place // of Weights
}

// From is the view of a caller; ok is false when it sees no levels.
func (p *Places) From(w *workload.Workload) (v View, ok bool) {
	if p == nil {
		return View{}, false
	}
	for i := range p.distribute {
		if d := &p.distribute[i]; d.from.has(w.Locality) {
			return View{places: p, from: w, Weights: d.weights, to: d.to}, true
		}
	}
	switch {
	case len(p.distribute) > 0:
		return View{}, false
	case len(p.priority) == 0 && w.Locality == (workload.Locality{}):
		return View{}, false // who does not know where it is knows nobody near
	}
	return View{places: p, from: w}, true
}

// Level is that of an endpoint, 0 is the best; ok is false when it gets nothing.
func (v *View) Level(w *workload.Workload, e *Endpoint) (level int, ok bool) {
	if v.Weights != nil {
		for i := range v.to {
			if v.to[i].has(w.Locality) {
				return i, true
			}
		}
		return 0, false
	}
	if n := len(v.places.priority); n > 0 {
		for i, l := range v.places.priority {
			want, found := l.GetValue(), topology(w, l.GetName())
			if found == "" && e != nil {
				found = e.Labels[l.GetName()]
			}
			if want == "" {
				want = topology(v.from, l.GetName())
			}
			if found != want {
				return n - i, true
			}
		}
		return 0, true
	}
	from, to := v.from.Locality, w.Locality
	next, limited := v.places.failover[from.Region]
	switch {
	case from.Region == to.Region && from.Zone == to.Zone && from.Subzone == to.Subzone:
		return 0, true
	case from.Region == to.Region && from.Zone == to.Zone:
		return 1, true
	case from.Region == to.Region:
		return 2, true
	case !limited || next == to.Region:
		return 3, true
	}
	return 4, true
}

// topology is what a label that says where something is says of a workload; "" for
// other labels. Source: Istio, LocalityLoadBalancerSetting, failoverPriority.
func topology(w *workload.Workload, label string) string {
	switch label {
	case "topology.istio.io/network":
		return w.Network
	case "topology.istio.io/cluster":
		return w.ClusterID
	case "topology.kubernetes.io/region":
		return w.Locality.Region
	case "topology.kubernetes.io/zone":
		return w.Locality.Zone
	case "topology.istio.io/subzone":
		return w.Locality.Subzone
	case "kubernetes.io/hostname":
		return w.Node
	}
	return ""
}
