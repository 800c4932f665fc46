package model

import (
	"fmt"
	"slices"
	"strings"

	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/ambit-mesh/ambit/istiod-lite/model/routes"
)

// MeshController is who answers for routes whose parent is a Service.
const MeshController = "ambit.dev/mesh-controller"

// ReasonConflicted is why a route does not count: one that comes first is attached
// to the same port. Source: Gateway API, GEP-1294, "Route types".
const ReasonConflicted = "Conflicted"

// fromRoute says what becomes of a route, for each parent that is ours to answer
// for: Services. Other parents are their own controllers'.
func (m *Model) fromRoute(r route) []Condition {
	var all []Condition
	for i, ref := range r.parents {
		service := parentOf(r.key.Namespace, ref)
		if service.Kind != KindService {
			continue
		}
		result := r.translate(m.resolverFor(r.key, service.Namespace), m.extensionsOf(r.key.Namespace))
		conditions := m.accepted(r, ref, service, result)
		resolved := Condition{Type: ConditionResolvedRefs, True: true, Reason: string(gateway.RouteReasonResolvedRefs)}
		if len(result.Unresolved) > 0 {
			resolved = Condition{Type: ConditionResolvedRefs, Reason: result.Unresolved[0].Reason, Message: textsOf(result.Unresolved)}
		}
		for _, c := range append(conditions, resolved) {
			c.Parent = i + 1
			all = append(all, c)
		}
	}
	return all
}

// accepted says whether a route counts at a service.
func (m *Model) accepted(r route, ref gateway.ParentReference, service Key, result routes.Result) []Condition {
	refused := func(reason, message string) []Condition {
		return []Condition{{Type: ConditionAccepted, Reason: reason, Message: message}}
	}
	if why := m.unattached(ref, service); why != "" {
		return refused(string(gateway.RouteReasonNoMatchingParent), why)
	}
	if result.Incompatible && result.BadRules == result.Rules {
		return refused(string(gateway.RouteReasonIncompatibleFilters), textsOf(result.Problems))
	}
	if result.BadRules > 0 && result.BadRules == result.Rules {
		return refused(string(gateway.RouteReasonUnsupportedValue), textsOf(result.Problems)+"; requests that match are answered 500")
	}
	served, first, notes := m.rivals(r, ref, service)
	if !served {
		return refused(ReasonConflicted, strings.Join(first, "; "))
	}
	notes = append(first, notes...)
	for _, n := range result.Notes {
		notes = append(notes, n.String())
	}
	all := []Condition{{Type: ConditionAccepted, True: true, Reason: ReasonAccepted, Message: strings.Join(notes, "; ")}}
	if len(result.Problems) > 0 {
		all = append(all, Condition{
			Type: ConditionPartlyInvalid, True: true, Reason: string(gateway.RouteReasonUnsupportedValue),
			Message: "Dropped Rule: " + textsOf(result.Problems) + "; requests that match are answered 500",
		})
	}
	return all
}

// unattached says why a route does not reach a service; "" when it does.
func (m *Model) unattached(ref gateway.ParentReference, service Key) string {
	s := m.spaces[service.Namespace]
	if s == nil || s.services[service.Name] == nil || !isServed(s.services[service.Name]) {
		return fmt.Sprintf("there is no service %s/%s", service.Namespace, service.Name)
	}
	o := s.services[service.Name]
	if !slices.ContainsFunc(portsOf(o), func(p servicePort) bool { return asks(ref, p) }) {
		return fmt.Sprintf("service %s/%s has no port of that number and name", service.Namespace, service.Name)
	}
	if _, ok := m.boundTo(&o.ObjectMeta); !ok {
		return fmt.Sprintf("service %s/%s is bound to no waypoint, and nobody else follows routes: set the label istio.io/use-waypoint on it or its namespace", service.Namespace, service.Name)
	}
	if len(clusterIPs(o)) == 0 {
		return fmt.Sprintf("service %s/%s is headless: its clients call pods, and no route is about those", service.Namespace, service.Name)
	}
	return ""
}

// rivals says who else is attached where a route is: served is false when it counts
// on no port. first are those that come before it, notes those that come after.
func (m *Model) rivals(r route, ref gateway.ParentReference, service Key) (served bool, first, notes []string) {
	s := m.space(service.Namespace).services[service.Name]
	ports := portsOf(s)
	on := m.routesOn(service, ports)
	for _, p := range ports {
		if !asks(ref, p) {
			continue
		}
		list := on[onPort{r.consumer(service), p.number}]
		count := counting(list)
		if slices.ContainsFunc(count, func(other route) bool { return other.key == r.key }) {
			served = true
			for _, other := range list[len(count):] {
				notes = append(notes, fmt.Sprintf("on port %d it comes before %v", p.number, other.key))
			}
			continue
		}
		if len(count) > 0 {
			first = append(first, fmt.Sprintf("on port %d %v comes first", p.number, count[0].key))
		}
	}
	if served {
		host := m.hostname(s)
		if v := m.virtualOf(service, host); v != nil {
			notes = append(notes, fmt.Sprintf("it comes before VirtualService %s/%s", v.Namespace, v.Name))
		}
		if p := m.profileOf(service); p != nil {
			notes = append(notes, fmt.Sprintf("it comes before ServiceProfile %s/%s", p.Namespace, p.Name))
		}
	}
	return served, first, notes
}

// hasRoutes reports whether routes of the Gateway API count at a service.
func (m *Model) hasRoutes(service Key) bool {
	s := m.spaces[service.Namespace]
	return s != nil && s.services[service.Name] != nil && service.Kind == KindService && len(m.routesOn(service, portsOf(s.services[service.Name]))) > 0
}

// textsOf joins problems for people.
func textsOf(list []routes.Problem) string {
	texts := make([]string, len(list))
	for i, p := range list {
		texts[i] = p.String()
	}
	return strings.Join(texts, "; ")
}
