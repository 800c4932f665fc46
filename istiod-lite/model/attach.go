package model

import (
	"slices"

	typeapi "istio.io/api/type/v1beta1"
	security "istio.io/client-go/pkg/apis/security/v1"
)

// attachTo keeps what an object is attached to, or leads to, by target: from then on
// a change of the target derives the object anew, and one of the object the target.
func (m *Model) attachTo(key Key, old, now []Key, d dirty) {
	d.add(key)
	for _, target := range old {
		delete(m.attached[target], key)
		if len(m.attached[target]) == 0 {
			delete(m.attached, target)
		}
		m.markTarget(target, d)
	}
	for _, target := range now {
		if m.attached[target] == nil {
			m.attached[target] = map[Key]struct{}{}
		}
		m.attached[target][key] = struct{}{}
		m.markTarget(target, d)
	}
}

// markTarget marks what is derived of what is attached to a target.
func (m *Model) markTarget(target Key, d dirty) {
	switch target.Kind {
	case KindVirtualService, KindRateLimit:
		d.add(target)
	case KindGateway:
		m.dependOnGateway(target, d)
	case KindGatewayClass:
		for namespace, s := range m.spaces {
			for name, g := range s.gateways {
				if string(g.Spec.GatewayClassName) == target.Name {
					m.dependOnGateway(Key{KindGateway, namespace, name}, d)
				}
			}
		}
	case KindService:
		d.add(target)
		if s := m.space(target.Namespace).services[target.Name]; s != nil {
			m.markSelected(target.Namespace, s.Spec.Selector, true, d)
			m.markSlices(target, d)
		}
	case kindHost:
		for namespace, s := range m.spaces {
			for name, e := range s.serviceEntries {
				if slices.Contains(e.Spec.GetHosts(), target.Name) {
					d.add(Key{KindServiceEntry, namespace, name})
					m.markSelected(namespace, e.Spec.GetWorkloadSelector().GetLabels(), true, d)
				}
			}
		}
	case KindServiceEntry:
		d.add(target)
		if e := m.space(target.Namespace).serviceEntries[target.Name]; e != nil {
			m.markSelected(target.Namespace, e.Spec.GetWorkloadSelector().GetLabels(), true, d)
		}
	}
}

// markSlices marks the slices of a service and the pods that they refer to.
func (m *Model) markSlices(service Key, d dirty) {
	for name, slice := range m.space(service.Namespace).slices {
		if serviceOf(slice) != service.Name {
			continue
		}
		d.add(Key{KindEndpointSlice, service.Namespace, name})
		for _, pod := range podsOf(slice) {
			d.add(Key{KindPod, service.Namespace, pod})
		}
	}
}

// spread marks what is attached to the objects that are marked, and what that in
// turn is attached to: a service that comes mends the routes that lead to it, and
// so the services that these are routes of.
func (m *Model) spread(d dirty) {
	if len(m.attached) == 0 {
		return
	}
	var more []Key
	for key := range d {
		targets := []Key{key}
		if e := m.space(key.Namespace).serviceEntries[key.Name]; key.Kind == KindServiceEntry && e != nil {
			for _, host := range e.Spec.GetHosts() {
				targets = append(targets, Key{Kind: kindHost, Name: host})
			}
		}
		for _, target := range targets {
			for on := range m.attached[target] {
				more = append(more, on)
			}
		}
	}
	for i := 0; i < len(more); i++ {
		on := more[i]
		if on.Kind == KindVirtualService { // those that leave requests to it
			for root := range m.attached[on] {
				if !slices.Contains(more, root) {
					more = append(more, root)
				}
			}
		}
		d.add(on)
		for _, target := range m.targetsOf(on) {
			m.markTarget(target, d)
		}
	}
}

// targetsOf are the objects that routes are about or lead to.
func (m *Model) targetsOf(key Key) []Key {
	if r, ok := m.route(key); ok {
		return r.targets()
	}
	if key.Kind == KindVirtualService {
		return m.virtualTargets(m.space(key.Namespace).virtuals[key.Name])
	}
	return nil
}

// policyTargets are the objects that a policy is attached to by name.
func (m *Model) policyTargets(p *security.AuthorizationPolicy) []Key {
	if p == nil {
		return nil
	}
	return m.targetsNamed(p.Namespace, allRefs(&p.Spec))
}

// attachable is what can be attached to objects by name.
type attachable interface {
	GetTargetRef() *typeapi.PolicyTargetReference
	GetTargetRefs() []*typeapi.PolicyTargetReference
}

// allRefs are the objects that spec names, the older way of naming one included.
func allRefs(spec attachable) []*typeapi.PolicyTargetReference {
	refs := spec.GetTargetRefs()
	if one := spec.GetTargetRef(); one != nil {
		refs = append(slices.Clone(refs), one)
	}
	return refs
}

// targetsNamed are the objects that refs of a namespace name. Services and Gateways
// are of that namespace, classes only for the root namespace.
func (m *Model) targetsNamed(namespace string, refs []*typeapi.PolicyTargetReference) []Key {
	var all []Key
	for _, ref := range refs {
		if ref.GetNamespace() != "" && ref.GetNamespace() != namespace {
			continue
		}
		k := targetKey(ref.GetGroup(), ref.GetKind(), namespace, ref.GetName())
		if k == (Key{}) || k.Kind == KindGatewayClass && namespace != m.cfg.RootNamespace {
			continue
		}
		all = append(all, k)
	}
	return all
}
