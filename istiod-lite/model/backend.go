package model

import (
	"fmt"
	"slices"
	"strings"

	gateway "sigs.k8s.io/gateway-api/apis/v1"
	experimental "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"github.com/ambit-mesh/ambit/istiod-lite/model/routes"
)

// backendTargets are the services that a backend policy is about.
func (m *Model) backendTargets(p *experimental.XBackendTrafficPolicy) []Key {
	var all []Key
	if p == nil {
		return nil
	}
	for _, ref := range p.Spec.TargetRefs {
		if k := targetKey(string(ref.Group), string(ref.Kind), p.Namespace, string(ref.Name)); k.Kind == KindService || k.Kind == KindServiceEntry {
			all = append(all, k)
		}
	}
	return all
}

// backendPoliciesOf are the backend policies of a service. The oldest counts. Source:
// Gateway API, GEP-713, "Conflict resolution".
func (m *Model) backendPoliciesOf(service Key) []*experimental.XBackendTrafficPolicy {
	return attachedOf(m, KindBackendPolicy, service, "", func(s *space) map[string]*experimental.XBackendTrafficPolicy { return s.backends }, m.backendTargets)
}

// backendPolicyOf is the backend policy that counts for a service; nil when there is
// none.
func (m *Model) backendPolicyOf(service Key) *experimental.XBackendTrafficPolicy {
	return firstOf(m.backendPoliciesOf(service))
}

// fromBackendPolicy says what becomes of a backend policy at each of its targets.
func (m *Model) fromBackendPolicy(p *experimental.XBackendTrafficPolicy) []Condition {
	problems := routes.BackendPolicy(p).Problems
	var said []Condition
	for i, ref := range p.Spec.TargetRefs {
		c := Condition{Parent: i + 1, Type: ConditionAccepted, True: true, Reason: string(gateway.PolicyReasonAccepted)}
		refuse := func(reason gateway.PolicyConditionReason, format string, args ...any) {
			c.True, c.Reason, c.Message = false, string(reason), fmt.Sprintf(format, args...)
		}
		service := targetKey(string(ref.Group), string(ref.Kind), p.Namespace, string(ref.Name))
		all := m.backendPoliciesOf(service)
		switch first := firstOf(all); {
		case service.Kind != KindService && service.Kind != KindServiceEntry:
			refuse(gateway.PolicyReasonTargetNotFound, "targetRefs[%d]: kind %s is no backend here: want a Service", i, ref.Kind)
		case !m.stands(service):
			refuse(gateway.PolicyReasonTargetNotFound, "targetRefs[%d]: there is no %v", i, service)
		case len(problems) > 0:
			refuse(gateway.PolicyReasonInvalid, "%s", textsOf(problems))
		case first != nil && first != p:
			refuse(gateway.PolicyReasonConflicted, "XBackendTrafficPolicy %s is older, and comes first", first.Name)
		default:
			notes := othersOf(KindBackendPolicy, all)
			if !m.reachedByWaypoint(service) {
				notes = append(notes, "no waypoint sends requests to it yet, and nobody else tries again: bind the callers' services with the label istio.io/use-waypoint")
			}
			c.Message = strings.Join(notes, "; ")
		}
		said = append(said, c)
	}
	return said
}

// stands reports whether a Service, or a ServiceEntry, is there.
func (m *Model) stands(key Key) bool {
	s := m.spaces[key.Namespace]
	switch {
	case s == nil:
		return false
	case key.Kind == KindService:
		return s.services[key.Name] != nil && isServed(s.services[key.Name])
	}
	return s.serviceEntries[key.Name] != nil
}

// reachedByWaypoint reports whether waypoints send requests to a service: it is bound
// to one, or routes lead to it.
func (m *Model) reachedByWaypoint(key Key) bool {
	s := m.spaces[key.Namespace]
	var bound bool
	if key.Kind == KindService {
		_, bound = m.boundTo(&s.services[key.Name].ObjectMeta)
	} else {
		_, bound = m.boundTo(&s.serviceEntries[key.Name].ObjectMeta)
	}
	routed := func(on Key) bool { return slices.Contains(routeKinds, on.Kind) || on.Kind == KindVirtualService }
	for on := range m.attached[key] {
		bound = bound || routed(on)
	}
	return bound
}
