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

	// Refused says why traffic to the object is refused instead of sent to the
	// waypoint. Empty: the waypoint takes it, or the object has no traffic yet.
	Refused string
}

// Bindings are all there are, by waypoint and then by object.
func (m *Model) Bindings() []Binding {
	var all []Binding
	add := func(key Key, b bound, ok bool) {
		if !ok || !b.own {
			return
		}
		binding := Binding{Object: key, Waypoint: b.gateway}
		for _, c := range m.conditions[key] {
			if c.Type == ConditionBound && !c.True {
				binding.Refused = c.Message
			}
		}
		all = append(all, binding)
	}
	for name, s := range m.spaces {
		if s.namespace != nil {
			b, ok := boundBy(s.namespace.Labels, name)
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
