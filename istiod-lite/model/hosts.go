package model

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	networking "istio.io/client-go/pkg/apis/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/internal/meshapi/workloadapi"
	"github.com/ambit-mesh/ambit/istiod-lite/model/routes"
)

// kindHost is what objects are attached to that name a host which is no Service:
// the ServiceEntry that has it, whichever that is.
const kindHost Kind = "host"

// hostTarget is the object that a host in an object of a namespace means: a Service
// of the namespace by its name, one by its full name, else whoever has the host.
func (m *Model) hostTarget(namespace, host string) Key {
	host = strings.TrimSuffix(host, ".")
	name, rest, dotted := strings.Cut(host, ".")
	if !dotted {
		return Key{KindService, namespace, name}
	}
	for _, suffix := range []string{".svc." + m.cfg.ClusterDomain, ".svc"} {
		if ns, ok := strings.CutSuffix(rest, suffix); ok && !strings.Contains(ns, ".") {
			return Key{KindService, ns, name}
		}
	}
	return Key{Kind: kindHost, Name: host}
}

// dependOnHosts marks what names a host of a ServiceEntry, before or now.
func (m *Model) dependOnHosts(old, now *networking.ServiceEntry, d dirty) {
	for _, e := range []*networking.ServiceEntry{old, now} {
		if e == nil {
			continue
		}
		for _, host := range e.Spec.GetHosts() {
			for on := range m.attached[Key{Kind: kindHost, Name: host}] {
				d.add(on)
			}
		}
	}
}

// virtualTargets are the services that a VirtualService is for or leads to.
func (m *Model) virtualTargets(v *networking.VirtualService) []Key {
	if v == nil {
		return nil
	}
	var all []Key
	for _, host := range v.Spec.GetHosts() {
		all = append(all, m.hostTarget(v.Namespace, host))
	}
	for _, r := range v.Spec.GetHttp() {
		if d := r.GetDelegate(); d != nil {
			all = append(all, Key{KindVirtualService, cmp.Or(d.GetNamespace(), v.Namespace), d.GetName()})
		}
		for _, d := range r.GetRoute() {
			all = append(all, m.hostTarget(v.Namespace, d.GetDestination().GetHost()))
		}
		if r.GetMirror() != nil {
			all = append(all, m.hostTarget(v.Namespace, r.GetMirror().GetHost()))
		}
		for _, d := range r.GetMirrors() {
			all = append(all, m.hostTarget(v.Namespace, d.GetDestination().GetHost()))
		}
	}
	for _, r := range v.Spec.GetTls() {
		for _, d := range r.GetRoute() {
			all = append(all, m.hostTarget(v.Namespace, d.GetDestination().GetHost()))
		}
	}
	for _, r := range v.Spec.GetTcp() {
		for _, d := range r.GetRoute() {
			all = append(all, m.hostTarget(v.Namespace, d.GetDestination().GetHost()))
		}
	}
	return all
}

// ruleTargets is the service that a DestinationRule is about.
func (m *Model) ruleTargets(r *networking.DestinationRule) []Key {
	if r == nil {
		return nil
	}
	return []Key{m.hostTarget(r.Namespace, r.Spec.GetHost())}
}

// profileTargets is the service that a ServiceProfile is about: its name is the
// host.
func (m *Model) profileTargets(p *ServiceProfile) []Key {
	if p == nil {
		return nil
	}
	return []Key{m.hostTarget(p.Namespace, p.Name)}
}

// attachedOf are the objects of a kind that are attached to a service, or to its
// host: those of the service's own namespace before those of its waypoint's, the
// oldest first. Others have no say.
func attachedOf[T any](m *Model, kind Kind, service Key, host string, of func(s *space) map[string]*T, about func(*T) []Key) []*T {
	type found struct {
		o    *T
		meta metav1.Object
		rank int
	}
	var all []found
	for _, target := range []Key{service, {Kind: kindHost, Name: host}} {
		for key := range m.attached[target] {
			if key.Kind != kind {
				continue
			}
			o := of(m.space(key.Namespace))[key.Name]
			rank := m.say(key.Namespace, service)
			if o != nil && rank >= 0 && slices.Contains(about(o), target) {
				all = append(all, found{o, any(o).(metav1.Object), rank})
			}
		}
	}
	slices.SortFunc(all, func(a, b found) int {
		ta, tb := a.meta.GetCreationTimestamp(), b.meta.GetCreationTimestamp()
		return cmp.Or(cmp.Compare(a.rank, b.rank), ta.Compare(tb.Time), cmp.Compare(a.meta.GetName(), b.meta.GetName()))
	})
	out := make([]*T, len(all))
	for i := range all {
		out[i] = all[i].o
	}
	return out
}

// say is how much objects of a namespace have to say about a service: 0 of its own,
// 1 of its waypoint's, -1 of others.
func (m *Model) say(namespace string, service Key) int {
	if namespace == service.Namespace {
		return 0
	}
	s := m.spaces[service.Namespace]
	if s == nil {
		return -1
	}
	var o *metav1.ObjectMeta
	if x := s.services[service.Name]; x != nil && service.Kind == KindService {
		o = &x.ObjectMeta
	} else if x := s.serviceEntries[service.Name]; x != nil && service.Kind == KindServiceEntry {
		o = &x.ObjectMeta
	}
	if o == nil {
		return -1
	}
	if b, ok := m.boundTo(o); ok && b.gateway.Namespace == namespace {
		return 1
	}
	return -1
}

// virtualsOf are the VirtualServices of a service.
func (m *Model) virtualsOf(service Key, host string) []*networking.VirtualService {
	return attachedOf(m, KindVirtualService, service, host, func(s *space) map[string]*networking.VirtualService { return s.virtuals }, func(v *networking.VirtualService) []Key {
		if g := v.Spec.GetGateways(); len(g) > 0 && !slices.Contains(g, "mesh") {
			return nil
		}
		var all []Key
		for _, h := range v.Spec.GetHosts() {
			all = append(all, m.hostTarget(v.Namespace, h))
		}
		return all
	})
}

// firstOf is the object that counts of those that are attached to a service; nil when
// there is none.
func firstOf[T any](all []*T) *T {
	if len(all) == 0 {
		return nil
	}
	return all[0]
}

// othersOf say of the object that counts before which others of its kind it comes, each
// of which is told the same.
func othersOf[T any](kind Kind, all []*T) (notes []string) {
	for i := 1; i < len(all); i++ {
		o := any(all[i]).(metav1.Object)
		notes = append(notes, fmt.Sprintf("it comes before %s %s/%s", kind, o.GetNamespace(), o.GetName()))
	}
	return notes
}

// virtualOf is the VirtualService that counts for a service; nil when there is none.
func (m *Model) virtualOf(service Key, host string) *networking.VirtualService {
	return firstOf(m.virtualsOf(service, host))
}

// rulesOf are the DestinationRules of a service.
func (m *Model) rulesOf(service Key, host string) []*networking.DestinationRule {
	return attachedOf(m, KindDestinationRule, service, host, func(s *space) map[string]*networking.DestinationRule { return s.rules }, m.ruleTargets)
}

// ruleOf is the DestinationRule that counts for a service; nil when there is none.
func (m *Model) ruleOf(service Key, host string) *networking.DestinationRule {
	return firstOf(m.rulesOf(service, host))
}

// profilesOf are the ServiceProfiles of a service.
func (m *Model) profilesOf(service Key) []*ServiceProfile {
	return attachedOf(m, KindServiceProfile, service, "", func(s *space) map[string]*ServiceProfile { return s.profiles }, m.profileTargets)
}

// profileOf is the ServiceProfile of a service; nil when there is none.
func (m *Model) profileOf(service Key) *ServiceProfile { return firstOf(m.profilesOf(service)) }

// virtualTables are the routes of a VirtualService: one table for all ports, or one
// for each when it has different ones for ports. Routes of connections are for the
// ports that do not carry HTTP.
func (m *Model) virtualTables(v *networking.VirtualService, ports []servicePort) (tables []*waypointapi.RouteTable, streams []*waypointapi.StreamTable) {
	resolve := m.hostResolver(v.Namespace)
	http := routes.Expand(v, resolve, m.delegatesOf(v))
	bytes := len(v.Spec.GetTcp())+len(v.Spec.GetTls()) > 0
	if !bytes && !http.NamesPorts() {
		if http.Empty() {
			return nil, nil
		}
		return []*waypointapi.RouteTable{{InOrder: true, Routes: routes.Virtual(v, http, 0, resolve).Routes}}, nil
	}
	for _, p := range ports {
		result := routes.Virtual(v, http, p.number, resolve)
		switch {
		case len(result.Streams) > 0 && !carriesHTTP(p.app):
			streams = append(streams, &waypointapi.StreamTable{Ports: []uint32{p.number}, Routes: result.Streams})
		case !http.Empty():
			tables = append(tables, &waypointapi.RouteTable{InOrder: true, Ports: []uint32{p.number}, Routes: result.Routes})
		}
	}
	return tables, streams
}

// carriesHTTP reports whether the users say that a port carries HTTP.
func carriesHTTP(p workloadapi.AppProtocol) bool {
	return p == workloadapi.AppProtocol_HTTP11 || p == workloadapi.AppProtocol_HTTP2 || p == workloadapi.AppProtocol_GRPC
}

// hostResolver finds the destinations of VirtualServices of a namespace.
func (m *Model) hostResolver(from string) routes.Resolver {
	return func(_, _, _, host string, port uint32) routes.Backend {
		problem := func(format string, args ...any) routes.Backend {
			return routes.Backend{Problem: routes.Problem{Reason: routes.ReasonNotFound, Text: fmt.Sprintf(format, args...)}}
		}
		target := m.hostTarget(from, host)
		if target.Kind == KindService {
			s := m.spaces[target.Namespace]
			if s == nil || s.services[target.Name] == nil || !isServed(s.services[target.Name]) {
				return problem("there is no service %s/%s", target.Namespace, target.Name)
			}
			service := s.services[target.Name]
			if port != 0 && !slices.ContainsFunc(portsOf(service), func(p servicePort) bool { return p.number == port }) {
				return problem("service %s/%s has no port %d", target.Namespace, target.Name, port)
			}
			return routes.Backend{Service: m.serviceKey(service)}
		}
		for _, ns := range m.namespacesFrom(from) {
			for _, e := range m.spaces[ns].serviceEntries {
				if slices.Contains(m.hostsOf(e), target.Name) {
					return routes.Backend{Service: ns + "/" + target.Name}
				}
			}
		}
		return problem("nobody has the host %s", host)
	}
}

// namespacesFrom are all namespaces, that one first and the others by name.
func (m *Model) namespacesFrom(first string) []string {
	var all []string
	for ns := range m.spaces {
		if ns != first {
			all = append(all, ns)
		}
	}
	slices.Sort(all)
	if m.spaces[first] != nil {
		all = append([]string{first}, all...)
	}
	return all
}

// fromVirtualService says what becomes of a VirtualService.
func (m *Model) fromVirtualService(v *networking.VirtualService) []Condition {
	resolve := m.hostResolver(v.Namespace)
	result := routes.Virtual(v, routes.Expand(v, resolve, m.delegatesOf(v)), 0, resolve)
	var problems, notes []string
	for _, p := range slices.Concat(result.Problems, result.Unresolved) {
		problems = append(problems, p.String())
	}
	if g := v.Spec.GetGateways(); len(g) > 0 && !slices.Contains(g, "mesh") {
		problems = append(problems, "spec.gateways: only mesh is served here")
	}
	served := 0
	if len(v.Spec.GetHosts()) == 0 { // others leave requests to it
		why := m.withoutRoot(v)
		if why != "" {
			problems = append(problems, why)
		}
		return []Condition{outcome(why == "", problems, nil)}
	}
	for i, host := range v.Spec.GetHosts() {
		why := m.withoutEffect(fmt.Sprintf("spec.hosts[%d]", i), v.Namespace, host, func(service Key, full string) string {
			if m.hasRoutes(service) {
				return "the service has routes of the Gateway API, which come first"
			}
			all := m.virtualsOf(service, full)
			if first := firstOf(all); first != v && first != nil {
				return fmt.Sprintf("VirtualService %s/%s is older or nearer, and comes first", first.Namespace, first.Name)
			}
			for _, note := range othersOf(KindVirtualService, all) {
				notes = append(notes, host+": "+note)
			}
			if p := m.profileOf(service); p != nil {
				notes = append(notes, fmt.Sprintf("%s: it comes before ServiceProfile %s/%s", host, p.Namespace, p.Name))
			}
			return ""
		})
		if why != "" {
			problems = append(problems, why)
		} else {
			served++
		}
	}
	return []Condition{outcome(served > 0, problems, notes)}
}

// delegatesOf finds the VirtualServices to which one leaves requests.
func (m *Model) delegatesOf(root *networking.VirtualService) routes.Delegates {
	return func(namespace, name string) routes.Delegate {
		d := routes.Delegate{Resolve: m.hostResolver(namespace)}
		if s := m.spaces[namespace]; s != nil {
			d.Object = s.virtuals[name]
		}
		switch {
		case d.Object == nil:
			d.Problem = fmt.Sprintf("there is no VirtualService %s/%s", namespace, name)
		case len(d.Object.Spec.GetHosts()) > 0:
			d.Problem = fmt.Sprintf("VirtualService %s/%s has hosts of its own: want one without", namespace, name)
		case !isExported(d.Object, root.Namespace):
			d.Problem = fmt.Sprintf("VirtualService %s/%s is not exported to namespace %s: see its exportTo", namespace, name, root.Namespace)
		}
		return d
	}
}

// isExported reports whether a VirtualService is for others of a namespace.
func isExported(v *networking.VirtualService, to string) bool {
	all := v.Spec.GetExportTo()
	return len(all) == 0 || slices.ContainsFunc(all, func(e string) bool { return e == "*" || e == to || e == "." && v.Namespace == to })
}

// withoutRoot says why a VirtualService without hosts counts for nothing; "" when
// another one leaves requests to it.
func (m *Model) withoutRoot(v *networking.VirtualService) string {
	for key := range m.attached[Key{KindVirtualService, v.Namespace, v.Name}] {
		if root := m.space(key.Namespace).virtuals[key.Name]; root != nil && len(root.Spec.GetHosts()) > 0 && isExported(v, key.Namespace) {
			return ""
		}
	}
	return "spec.hosts: none, and no VirtualService with hosts delegates to it"
}

// fromDestinationRule says what becomes of a DestinationRule.
func (m *Model) fromDestinationRule(r *networking.DestinationRule) []Condition {
	d := routes.Rule(r)
	var problems, notes []string
	for _, p := range d.Problems {
		problems = append(problems, p.String())
	}
	for _, p := range d.Notes {
		notes = append(notes, p.String())
	}
	why := m.withoutEffect("spec.host", r.Namespace, r.Spec.GetHost(), func(service Key, full string) string {
		all := m.rulesOf(service, full)
		if first := firstOf(all); first != r && first != nil {
			return fmt.Sprintf("DestinationRule %s/%s is older or nearer, and comes first", first.Namespace, first.Name)
		}
		notes = append(notes, othersOf(KindDestinationRule, all)...)
		return ""
	})
	if why != "" {
		problems = append(problems, why)
	}
	return []Condition{outcome(why == "", problems, notes)}
}

// withoutEffect says why what is written about a host counts for nothing; "" when it
// counts. other looks for objects that come before.
func (m *Model) withoutEffect(path, namespace, host string, other func(service Key, host string) string) string {
	target := m.hostTarget(namespace, host)
	var o *metav1.ObjectMeta
	full := target.Name
	switch {
	case target.Kind == KindService:
		if s := m.spaces[target.Namespace]; s != nil && s.services[target.Name] != nil {
			o, full = &s.services[target.Name].ObjectMeta, m.hostname(s.services[target.Name])
		}
	default:
		for _, ns := range m.namespacesFrom(namespace) {
			for name, e := range m.spaces[ns].serviceEntries {
				if o == nil && slices.Contains(m.hostsOf(e), target.Name) {
					o, target = &e.ObjectMeta, Key{KindServiceEntry, ns, name}
				}
			}
		}
	}
	if o == nil {
		return fmt.Sprintf("%s: nobody has the host %s", path, host)
	}
	if _, ok := m.boundTo(o); !ok && !m.isRequested(target, o) {
		return fmt.Sprintf("%s: %s/%s is bound to no waypoint, and nobody else follows it: set the label istio.io/use-waypoint on it or its namespace", path, o.Namespace, o.Name)
	}
	if m.say(namespace, target) < 0 {
		return fmt.Sprintf("%s: namespace %s has no say about %s/%s: want the object in its namespace, or in that of its waypoint", path, namespace, o.Namespace, o.Name)
	}
	if why := other(target, full); why != "" {
		return path + ": " + why
	}
	return ""
}

// outcome is the condition of an object that counts or not, with what is wrong
// with it.
func outcome(counts bool, problems, notes []string) Condition {
	c := Condition{Type: ConditionWaypoint, True: counts && len(problems) == 0, Reason: ReasonAccepted, Message: strings.Join(append(problems, notes...), "; ")}
	switch {
	case !counts:
		c.Reason = ReasonNotBound
	case len(problems) > 0:
		c.Reason = ReasonPartlyInvalid
	}
	return c
}
