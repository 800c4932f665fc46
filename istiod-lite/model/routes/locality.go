package routes

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	api "istio.io/api/networking/v1alpha3"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
)

// topologyLabels say where something is. Source: Istio, LocalityLoadBalancerSetting.
var topologyLabels = []string{
	"topology.istio.io/network", "topology.istio.io/cluster", "topology.kubernetes.io/region",
	"topology.kubernetes.io/zone", "topology.istio.io/subzone", "kubernetes.io/hostname",
}

// mostPlaces bounds the labels and places of one setting, as waypoints do: our choice.
const mostPlaces = 15

// locality translates which endpoints come first, by where they are; nil when nothing
// is said, or it is switched off.
func (t *trafficConverter) locality(path string, l *api.LocalityLoadBalancerSetting) *waypointapi.Locality {
	if l == nil || l.GetEnabled() != nil && !l.GetEnabled().GetValue() {
		return nil
	}
	lists := 0
	for _, n := range []int{len(l.GetDistribute()), len(l.GetFailover()), len(l.GetFailoverPriority())} {
		if n > 0 {
			lists++
		}
	}
	if lists > 1 {
		t.problem(path, "only one of distribute, failover and failoverPriority can be set: none is followed")
		return nil
	}
	out := &waypointapi.Locality{}
	for i, d := range l.GetDistribute() {
		if one := t.distribution(fmt.Sprintf("%s.distribute[%d]", path, i), d); one != nil {
			out.Distribute = append(out.Distribute, one)
		}
	}
	if len(l.GetDistribute()) > 0 && len(out.Distribute) == 0 {
		return nil
	}
	for i, f := range l.GetFailover() {
		if f.GetFrom() == "" || f.GetTo() == "" || f.GetFrom() == f.GetTo() || strings.Contains(f.GetFrom()+f.GetTo(), "/") {
			t.problem(fmt.Sprintf("%s.failover[%d]", path, i), "want two different regions: it is not followed")
			continue
		}
		out.Failover = append(out.Failover, &waypointapi.Locality_Failover{From: f.GetFrom(), To: f.GetTo()})
	}
	for i, label := range l.GetFailoverPriority() {
		name, value, _ := strings.Cut(label, "=")
		at := fmt.Sprintf("%s.failoverPriority[%d]", path, i)
		switch {
		case value == "" && !slices.Contains(topologyLabels, name):
			t.problem(at, "%s has no value to compare with: of a waypoint only its place is known. None of the list is followed", label)
			return nil
		case i >= mostPlaces:
			t.problem(at, "%d labels are compared at most", mostPlaces)
			return out
		}
		out.Priority = append(out.Priority, &waypointapi.Locality_Label{Name: name, Value: value})
	}
	return out
}

// distribution translates the shares of places from one place; nil when they are none.
func (t *trafficConverter) distribution(path string, d *api.LocalityLoadBalancerSetting_Distribute) *waypointapi.Locality_Distribution {
	out, sum := &waypointapi.Locality_Distribution{From: d.GetFrom()}, uint32(0)
	for _, to := range slices.Sorted(maps.Keys(d.GetTo())) {
		out.To = append(out.To, &waypointapi.Locality_Share{To: to, Weight: d.GetTo()[to]})
		sum += d.GetTo()[to]
	}
	if sum != 100 || d.GetFrom() == "" || len(out.To) > mostPlaces {
		t.problem(path, "want from, and to with at most %d weights whose sum is 100, not %d: it is not followed", mostPlaces, sum)
		return nil
	}
	return out
}
