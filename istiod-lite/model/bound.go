package model

import (
	"cmp"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/internal/meshapi/securityapi"
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
				if c.Type == ConditionBound && !binding.Canary {
					binding.take(c)
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

// take reads what a condition says about traffic. One about a canary says nothing: the
// first waypoint has everything then.
func (b *Binding) take(c Condition) {
	switch {
	case c.True || c.Reason == ReasonCanaryNotReady || c.Reason == ReasonCanarySame || c.Reason == ReasonCanaryWeight:
	case c.Reason == ReasonAround:
		b.Around = c.Message
	default:
		b.Refused = c.Message
	}
}

// BindingOf is what a Service, or a pod called by its own address, comes to by the labels
// of its own or of its namespace; ok is false when it asks for no waypoint.
func (m *Model) BindingOf(key Key) (Binding, bool) {
	s := m.spaces[key.Namespace]
	if s == nil {
		return Binding{}, false
	}
	var o *metav1.ObjectMeta
	t := toService
	switch {
	case key.Kind == KindService && s.services[key.Name] != nil:
		o = &s.services[key.Name].ObjectMeta
	case key.Kind == KindPod && s.pods[key.Name] != nil:
		o, t = &s.pods[key.Name].ObjectMeta, toWorkload
	default:
		return Binding{}, false
	}
	b, ok := m.boundTo(o)
	if !ok {
		return Binding{}, false
	}
	a, c := m.attach(b, o.Namespace, t)
	binding := Binding{Object: key, Waypoint: b.gateway}
	if len(a.through) == 0 && a.address == nil {
		return Binding{}, false // a waypoint of the namespace that serves something else
	}
	if c != nil {
		binding.take(*c)
	}
	return binding, true
}

// DemandsAt are the services whose waypoints alone may call a pod.
func (m *Model) DemandsAt(namespace, pod string) []Key {
	s := m.spaces[namespace]
	if s == nil || s.pods[pod] == nil {
		return nil
	}
	var all []Key
	for _, policy := range m.throughPolicies(s.pods[pod]) {
		if ns, service, ok := securityapi.ThroughWaypoint(policy); ok {
			all = append(all, Key{KindService, ns, service})
		}
	}
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
