package model

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"istio.io/api/annotation"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/ambit-mesh/ambit/internal/meshapi/securityapi"
	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/internal/meshapi/workloadapi"
	"github.com/ambit-mesh/ambit/istiod-lite/model/routes"
)

// throughLabel opts out of what a waypoint's binding demands of the destination:
// with the value false its node proxy lets callers in that come around the
// waypoint.
const throughLabel = "ambit.dev/only-through-waypoint"

// throughPrefix begins the names of policies that demand a waypoint. The
// underscore cannot stand in names of objects.
const throughPrefix = "ambit_through_waypoint_"

// waypointService is how waypoints treat the requests of a service: of one that is
// bound to a waypoint, or to which routes of others lead.
func (m *Model) waypointService(o *metav1.ObjectMeta, kind Kind, host string, ports []servicePort) []*Resource {
	key := Key{kind, o.Namespace, o.Name}
	b, bound := m.boundTo(o)
	if !bound && !m.isRequested(key, o) {
		return nil
	}
	s := &waypointapi.Service{Namespace: o.Namespace, Hostname: host}
	if bound {
		s.Waypoint = &waypointapi.ObjectName{Namespace: b.gateway.Namespace, Name: b.gateway.Name}
		s.Policies = m.policiesOn(key, b.gateway)
		s.Tables = m.routeTables(key, host, ports)
	}
	for _, p := range ports {
		s.Ports = append(s.Ports, &waypointapi.Port{Number: p.number, Protocol: p.app})
	}
	if rule := m.ruleOf(key, host); rule != nil {
		d := routes.Rule(rule)
		s.Traffic, s.Subsets = d.Traffic, d.Subsets
		for _, p := range s.Ports {
			p.Traffic = d.Ports[p.Number]
		}
	}
	return []*Resource{waypointResource(TypeWaypointService, WaypointServiceURL, o.Namespace+"/"+host, s)}
}

// policiesOn are the names of the policies that are attached to a service, to its
// waypoint, or to the waypoint's class.
func (m *Model) policiesOn(service, waypoint Key) []string {
	var names []string
	for _, target := range []Key{service, waypoint, m.classOf(waypoint)} {
		for key := range m.attached[target] {
			if key.Kind == KindAuthorizationPolicy {
				names = append(names, key.Namespace+"/"+key.Name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// kindGatewayClass is what policies of the root namespace can be attached to.
const kindGatewayClass Kind = "GatewayClass"

// classOf is the class of a waypoint; the zero Key when there is none.
func (m *Model) classOf(waypoint Key) Key {
	if s := m.spaces[waypoint.Namespace]; s != nil && s.gateways[waypoint.Name] != nil {
		return Key{Kind: kindGatewayClass, Name: string(s.gateways[waypoint.Name].Spec.GatewayClassName)}
	}
	return Key{}
}

// routeTables are the routes of a service: those of HTTPRoutes, else of a
// VirtualService, else of a ServiceProfile.
func (m *Model) routeTables(service Key, host string, ports []servicePort) []*waypointapi.RouteTable {
	if tables := m.httpTables(service); len(tables) > 0 {
		return tables
	}
	if v := m.virtualOf(service, host); v != nil {
		return m.virtualTables(v, ports)
	}
	if p := m.profileOf(service); p != nil {
		result := routes.FromProfile(p.profile(), service.Namespace+"/"+host)
		return []*waypointapi.RouteTable{{InOrder: true, Routes: result.Routes}}
	}
	return nil
}

// httpTables are the routes of HTTPRoutes: for each port that they name, and for the
// clients of each namespace that has routes of its own for the service.
func (m *Model) httpTables(service Key) []*waypointapi.RouteTable {
	type where struct {
		client string
		port   uint32
	}
	tables := map[where]*waypointapi.RouteTable{}
	for _, route := range m.httpRoutesOf(service) {
		client := ""
		if route.Namespace != service.Namespace {
			client = route.Namespace // a consumer's route: for its own clients
		}
		result := routes.HTTP(route, m.resolverFor(route.Namespace))
		for _, ref := range route.Spec.ParentRefs {
			if parentOf(route.Namespace, ref) != service {
				continue
			}
			at := where{client: client}
			if ref.Port != nil {
				at.port = uint32(*ref.Port)
			}
			t := tables[at]
			if t == nil {
				t = &waypointapi.RouteTable{ClientNamespace: client}
				if at.port != 0 {
					t.Ports = []uint32{at.port}
				}
				tables[at] = t
			}
			t.Routes = append(t.Routes, result.Routes...)
		}
	}
	return slices.SortedFunc(maps.Values(tables), func(a, b *waypointapi.RouteTable) int {
		return cmp.Or(cmp.Compare(a.ClientNamespace, b.ClientNamespace), slices.Compare(a.Ports, b.Ports))
	})
}

// httpRoutesOf are the routes attached to a service, the oldest first: among equals
// it wins. Source: Gateway API, HTTPRouteRule.
func (m *Model) httpRoutesOf(service Key) []*gateway.HTTPRoute {
	var all []*gateway.HTTPRoute
	for key := range m.attached[service] {
		if key.Kind != KindHTTPRoute {
			continue
		}
		route := m.space(key.Namespace).httpRoutes[key.Name]
		if slices.ContainsFunc(route.Spec.ParentRefs, func(r gateway.ParentReference) bool { return parentOf(route.Namespace, r) == service }) {
			all = append(all, route)
		}
	}
	slices.SortFunc(all, func(a, b *gateway.HTTPRoute) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return all
}

// parentOf is the object that a route is attached to.
func parentOf(namespace string, ref gateway.ParentReference) Key {
	group, kind := gateway.GroupName, "Gateway"
	if ref.Group != nil {
		group = string(*ref.Group)
	}
	if ref.Kind != nil {
		kind = string(*ref.Kind)
	}
	if ref.Namespace != nil {
		namespace = string(*ref.Namespace)
	}
	return targetKey(group, kind, namespace, string(ref.Name))
}

// targetKey is the object that group, kind and name mean; the zero Key for kinds to
// which nothing can be attached.
func targetKey(group, kind, namespace, name string) Key {
	switch group + "/" + kind {
	case "/Service":
		return Key{KindService, namespace, name}
	case "networking.istio.io/ServiceEntry":
		return Key{KindServiceEntry, namespace, name}
	case gateway.GroupName + "/Gateway":
		return Key{KindGateway, namespace, name}
	case gateway.GroupName + "/GatewayClass":
		return Key{Kind: kindGatewayClass, Name: name}
	}
	return Key{}
}

// resolverFor finds the backends of routes of a namespace.
func (m *Model) resolverFor(from string) routes.Resolver {
	return func(group, kind, namespace, name string, port uint32) routes.Backend {
		problem := func(reason, format string, args ...any) routes.Backend {
			return routes.Backend{Problem: routes.Problem{Reason: reason, Text: fmt.Sprintf(format, args...)}}
		}
		if group != "" || kind != "Service" {
			return problem(routes.ReasonInvalidKind, "a backend of kind %s is not supported: want a Service", kind)
		}
		if namespace != from {
			return problem(routes.ReasonNotPermitted, "service %s/%s is in another namespace, and no ReferenceGrant of it is read", namespace, name)
		}
		s := m.spaces[namespace]
		if s == nil || s.services[name] == nil || !isServed(s.services[name]) {
			return problem(routes.ReasonNotFound, "there is no service %s/%s", namespace, name)
		}
		service := s.services[name]
		if port == 0 {
			return problem(routes.ReasonNotFound, "names no port of service %s/%s", namespace, name)
		}
		if !slices.ContainsFunc(portsOf(service), func(p servicePort) bool { return p.number == port }) {
			return problem(routes.ReasonNotFound, "service %s/%s has no port %d", namespace, name, port)
		}
		return routes.Backend{Service: m.serviceKey(service)}
	}
}

// fromHTTPRoute says what becomes of a route.
func (m *Model) fromHTTPRoute(r *gateway.HTTPRoute) []Condition {
	result := routes.HTTP(r, m.resolverFor(r.Namespace))
	accepted := Condition{Type: ConditionAccepted, True: true, Reason: ReasonAccepted}
	if why := m.unattached(r); why != "" {
		accepted = Condition{Type: ConditionAccepted, Reason: string(gateway.RouteReasonNoMatchingParent), Message: why}
	} else if len(result.Problems) > 0 {
		accepted = Condition{Type: ConditionAccepted, Reason: string(gateway.RouteReasonUnsupportedValue), Message: textsOf(result.Problems) + "; requests that match are answered 500"}
	}
	resolved := Condition{Type: ConditionResolvedRefs, True: true, Reason: string(gateway.RouteReasonResolvedRefs)}
	if len(result.Unresolved) > 0 {
		resolved = Condition{Type: ConditionResolvedRefs, Reason: result.Unresolved[0].Reason, Message: textsOf(result.Unresolved)}
	}
	return []Condition{accepted, resolved}
}

// textsOf joins problems for people.
func textsOf(list []routes.Problem) string {
	texts := make([]string, len(list))
	for i, p := range list {
		texts[i] = p.String()
	}
	return strings.Join(texts, "; ")
}

// unattached says why a route has no effect; "" when it has.
func (m *Model) unattached(r *gateway.HTTPRoute) string {
	var why []string
	for i, ref := range r.Spec.ParentRefs {
		at := fmt.Sprintf("spec.parentRefs[%d]", i)
		target := parentOf(r.Namespace, ref)
		s := m.spaces[target.Namespace]
		switch {
		case target.Kind != KindService:
			why = append(why, at+": only a Service can be a parent here")
		case s == nil || s.services[target.Name] == nil:
			why = append(why, fmt.Sprintf("%s: there is no service %s/%s", at, target.Namespace, target.Name))
		default:
			if _, ok := m.boundTo(&s.services[target.Name].ObjectMeta); ok {
				return ""
			}
			why = append(why, fmt.Sprintf("%s: service %s/%s is bound to no waypoint, and nobody else follows routes: set the label istio.io/use-waypoint on it or its namespace", at, target.Namespace, target.Name))
		}
	}
	if len(why) == 0 {
		return "spec.parentRefs: missing"
	}
	return strings.Join(why, "; ")
}

// waypointAccount is the principal of a waypoint.
func (m *Model) waypointAccount(waypoint Key) string {
	account := waypoint.Name
	if s := m.spaces[waypoint.Namespace]; s != nil && s.gateways[waypoint.Name] != nil {
		account = cmp.Or(s.gateways[waypoint.Name].Annotations[annotation.GatewayServiceAccount.Name], account)
	}
	return m.cfg.TrustDomain + "/ns/" + waypoint.Namespace + "/sa/" + account
}

// demands reports whether an object, which is bound to a waypoint, is reached only
// through it.
func (m *Model) demands(o *metav1.ObjectMeta) bool {
	if value := o.Labels[throughLabel]; value != "" {
		return value != "false"
	}
	if s := m.spaces[o.Namespace]; s != nil && s.namespace != nil {
		return s.namespace.Labels[throughLabel] != "false"
	}
	return true
}

// throughWaypoint is the policy by which the node proxies of a service's endpoints
// let in nobody but its waypoint, on the ports that the service leads to; nil when
// there is no such demand.
func (m *Model) throughWaypoint(service *corev1.Service) []*Resource {
	b, ok := m.boundTo(&service.ObjectMeta)
	if !ok || !m.demands(&service.ObjectMeta) || len(clusterIPs(service)) == 0 {
		return nil
	}
	ports := m.targetPorts(service)
	if len(ports) == 0 {
		return nil
	}
	return []*Resource{authorizationResource(&securityapi.Authorization{
		Name: throughPrefix + service.Name, Namespace: service.Namespace,
		Scope: securityapi.Scope_WORKLOAD_SELECTOR, Action: securityapi.Action_DENY,
		Rules: []*securityapi.Rule{{Clauses: []*securityapi.Clause{
			{Matches: []*securityapi.Match{{NotPrincipals: []*securityapi.StringMatch{exactPrincipal(m.waypointAccount(b.gateway))}}}},
			{Matches: []*securityapi.Match{{DestinationPorts: ports}}},
		}}},
	})}
}

// exactPrincipal is a comparison with one principal.
func exactPrincipal(principal string) *securityapi.StringMatch {
	return &securityapi.StringMatch{MatchType: &securityapi.StringMatch_Exact{Exact: principal}}
}

// targetPorts are the ports of pods that a service leads to, those by name at each
// of its pods included.
func (m *Model) targetPorts(service *corev1.Service) []uint32 {
	var ports []uint32
	for _, p := range portsOf(service) {
		if p.targetName == "" {
			ports = append(ports, p.target)
			continue
		}
		for _, pod := range m.space(service.Namespace).pods {
			if !selects(service.Spec.Selector, pod.Labels) {
				continue
			}
			if port, ok := containerPort(pod, p.targetName); ok {
				ports = append(ports, port)
			}
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// throughPolicies are the names of the policies that demand a waypoint of who
// calls a pod.
func (m *Model) throughPolicies(p *corev1.Pod) []string {
	if !m.demands(&p.ObjectMeta) || p.Labels[throughLabel] == "false" {
		return nil
	}
	var names []string
	for _, service := range m.space(p.Namespace).services {
		if len(service.Spec.Selector) > 0 && isServed(service) && selects(service.Spec.Selector, p.Labels) && len(m.throughWaypoint(service)) > 0 {
			names = append(names, p.Namespace+"/"+throughPrefix+service.Name)
		}
	}
	slices.Sort(names)
	return names
}

// waypointEndpoint is what waypoints know of a workload beside its address: for
// every one that requests may be sent to, because one that they do not know of gets
// none.
func (m *Model) waypointEndpoint(w *workloadapi.Workload, labels map[string]string, direct bool) []*Resource {
	if !direct && !m.getsRequests(w) {
		return nil
	}
	return []*Resource{waypointResource(TypeWaypointEndpoint, WaypointEndpointURL, w.Uid, &waypointapi.Endpoint{
		Uid: w.Uid, Labels: labels, Policies: m.selecting(w.Namespace, labels),
	})}
}

// getsRequests reports whether a waypoint may send requests to a workload: one of
// its services is bound to one, or routes lead to it.
func (m *Model) getsRequests(w *workloadapi.Workload) bool {
	for key := range w.Services {
		namespace, host, _ := strings.Cut(key, "/")
		s := m.spaces[namespace]
		if s == nil {
			continue
		}
		name, rest, _ := strings.Cut(host, ".")
		if service := s.services[name]; service != nil && isServed(service) && rest == namespace+".svc."+m.cfg.ClusterDomain {
			if m.isRequested(Key{KindService, namespace, name}, &service.ObjectMeta) {
				return true
			}
		}
		for _, e := range s.serviceEntries {
			if slices.Contains(e.Spec.GetHosts(), host) && m.isRequested(Key{KindServiceEntry, namespace, e.Name}, &e.ObjectMeta) {
				return true
			}
		}
	}
	return false
}

// isRequested reports whether a service is bound to a waypoint, or routes name it.
func (m *Model) isRequested(key Key, o *metav1.ObjectMeta) bool {
	if _, ok := m.boundTo(o); ok {
		return true
	}
	targets := []Key{key}
	if key.Kind == KindServiceEntry {
		if e := m.space(key.Namespace).serviceEntries[key.Name]; e != nil {
			for _, host := range e.Spec.GetHosts() {
				targets = append(targets, Key{Kind: kindHost, Name: host})
			}
		}
	}
	for _, target := range targets {
		for on := range m.attached[target] {
			if on.Kind != KindAuthorizationPolicy {
				return true
			}
		}
	}
	return false
}

// selecting are the names of the policies that select labels, for waypoints.
func (m *Model) selecting(namespace string, labels map[string]string) []string {
	var names []string
	for _, level := range slices.Compact([]string{namespace, m.cfg.RootNamespace}) {
		s := m.spaces[level]
		if s == nil {
			continue
		}
		for name, p := range s.policies {
			if p.Spec.Selector != nil && !hasTargets(&p.Spec) && selects(p.Spec.Selector.GetMatchLabels(), labels) {
				names = append(names, level+"/"+name)
			}
		}
	}
	slices.Sort(names)
	return names
}
