package model

import (
	"cmp"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Binding is an object, or a namespace, that asks for a waypoint by a label of its own.
type Binding struct {
	Object   Key
	Waypoint Key // a Gateway; there may be none of that name

	// Canary is true when the waypoint has a share beside another one.
	Canary bool
	// Refused says why traffic to the object is refused instead of sent to the
	// waypoint. Empty: the waypoint takes it, or the object has no traffic yet.
	Refused string
	// Around says why traffic to the object goes around the waypoint; empty when it
	// does not.
	Around string
}

// Bindings are all there are, by waypoint and then by object.
func (m *Model) Bindings() []Binding {
	var all []Binding
	add := func(key Key, b bound, ok bool) {
		if !ok || !b.own {
			return
		}
		for i, g := range b.waypoints() {
			binding := Binding{Object: key, Waypoint: g, Canary: i > 0}
			for _, c := range m.conditions[key] {
				switch {
				case c.Type != ConditionBound || c.True || binding.Canary:
				case c.Reason == ReasonAround:
					binding.Around = c.Message
				case c.Reason != ReasonCanaryNotReady && c.Reason != ReasonCanarySame && c.Reason != ReasonCanaryWeight:
					binding.Refused = c.Message
				}
			}
			all = append(all, binding)
		}
	}
	for name, s := range m.spaces {
		if s.namespace != nil {
			b, ok := boundBy(s.namespace, name)
			add(Key{Kind: KindNamespace, Name: name}, b, ok)
		}
		object := func(kind Kind, o Object) {
			b, ok := m.boundTo(&metav1.ObjectMeta{Namespace: name, Name: o.GetName(), Labels: o.GetLabels()})
			add(Key{kind, name, o.GetName()}, b, ok)
		}
		for _, o := range s.services {
			object(KindService, o)
		}
		for _, o := range s.serviceEntries {
			object(KindServiceEntry, o)
		}
		for _, o := range s.entries {
			object(KindWorkloadEntry, o)
		}
		for _, o := range s.pods {
			if !HasEnded(o) {
				object(KindPod, o)
			}
		}
	}
	slices.SortFunc(all, func(a, b Binding) int {
		return cmp.Or(compareKeys(a.Waypoint, b.Waypoint), compareKeys(a.Object, b.Object))
	})
	return all
}

// WayAround is a label that lets traffic go around a waypoint.
type WayAround struct {
	Object Key
	// Label is "name: value".
	Label string
	// Always is true when callers may always come around the waypoint; false: only
	// while that is missing or not ready.
	Always bool
}

// WaysAround are all labels by which traffic may go around a waypoint, ordered by
// object. Those of what is bound to none count as well: it may be one day.
func (m *Model) WaysAround() []WayAround {
	var all []WayAround
	always := func(kind Kind, o Object) {
		if o.GetLabels()[throughLabel] == "false" {
			all = append(all, WayAround{Key{kind, o.GetNamespace(), o.GetName()}, throughLabel + ": false", true})
		}
	}
	for name, s := range m.spaces {
		if s.namespace != nil {
			always(KindNamespace, s.namespace)
			if m.isOpen(name) {
				all = append(all, WayAround{Object: Key{Kind: KindNamespace, Name: name}, Label: openLabel + ": open"})
			}
		}
		for _, o := range s.services {
			always(KindService, o)
		}
		for _, o := range s.pods {
			if !HasEnded(o) {
				always(KindPod, o)
			}
		}
	}
	slices.SortFunc(all, func(a, b WayAround) int {
		return cmp.Or(compareKeys(a.Object, b.Object), cmp.Compare(a.Label, b.Label))
	})
	return all
}

// compareKeys orders by namespace, kind and name.
func compareKeys(a, b Key) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
}

// ServedBy is what the waypoint of a Gateway serves: service, workload, all or none.
// Empty when there is no such Gateway.
func (m *Model) ServedBy(key Key) string {
	if s := m.spaces[key.Namespace]; s != nil && s.gateways[key.Name] != nil {
		return m.servedBy(s.gateways[key.Name])
	}
	return ""
}
