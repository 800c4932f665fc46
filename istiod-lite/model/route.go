package model

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/istiod-lite/model/routes"
)

// routeKinds are the kinds of routes of the Gateway API. Of several kinds on one
// port of a service the first counts. Source: Gateway API, GEP-1294, "Route types".
var routeKinds = []Kind{KindGRPCRoute, KindHTTPRoute, KindTLSRoute, KindTCPRoute}

// route is a route of the Gateway API, of any kind.
type route struct {
	key      Key
	meta     *metav1.ObjectMeta
	parents  []gateway.ParentReference
	backends []gateway.BackendObjectReference
	// extensions are what filters refer to.
	extensions []gateway.LocalObjectReference
	// translate makes what waypoints follow.
	translate func(routes.Resolver, routes.Extensions) routes.Result
}

// route finds a route; ok is false when there is none.
func (m *Model) route(key Key) (r route, ok bool) {
	s := m.spaces[key.Namespace]
	if s == nil {
		return route{}, false
	}
	switch key.Kind {
	case KindHTTPRoute:
		return routeOf(key, s.httpRoutes[key.Name])
	case KindGRPCRoute:
		return routeOf(key, s.grpcRoutes[key.Name])
	case KindTLSRoute:
		return routeOf(key, s.tlsRoutes[key.Name])
	case KindTCPRoute:
		return routeOf(key, s.tcpRoutes[key.Name])
	}
	return route{}, false
}

// routeOf reads an object that is a route; ok is false for nil.
func routeOf[T any](key Key, object *T) (r route, ok bool) {
	if object == nil {
		return route{}, false
	}
	r.key = key
	backends := func(all []gateway.BackendRef) {
		for _, b := range all {
			r.backends = append(r.backends, b.BackendObjectReference)
		}
	}
	switch o := any(object).(type) {
	case *gateway.HTTPRoute:
		r.meta, r.parents = &o.ObjectMeta, o.Spec.ParentRefs
		r.translate = func(f routes.Resolver, x routes.Extensions) routes.Result { return routes.HTTP(o, f, x) }
		for _, rule := range o.Spec.Rules {
			r.backends = append(r.backends, routes.MirrorsOf(rule.Filters)...)
			r.extensions = append(r.extensions, routes.ExtensionsOf(rule.Filters)...)
			for _, b := range rule.BackendRefs {
				r.backends = append(append(r.backends, b.BackendObjectReference), routes.MirrorsOf(b.Filters)...)
				r.extensions = append(r.extensions, routes.ExtensionsOf(b.Filters)...)
			}
		}
	case *gateway.GRPCRoute:
		r.meta, r.parents = &o.ObjectMeta, o.Spec.ParentRefs
		r.translate = func(f routes.Resolver, x routes.Extensions) routes.Result { return routes.GRPC(o, f, x) }
		for _, rule := range o.Spec.Rules {
			r.backends = append(r.backends, routes.GRPCMirrorsOf(rule.Filters)...)
			r.extensions = append(r.extensions, routes.GRPCExtensionsOf(rule.Filters)...)
			for _, b := range rule.BackendRefs {
				r.backends = append(append(r.backends, b.BackendObjectReference), routes.GRPCMirrorsOf(b.Filters)...)
				r.extensions = append(r.extensions, routes.GRPCExtensionsOf(b.Filters)...)
			}
		}
	case *gateway.TLSRoute:
		r.meta, r.parents = &o.ObjectMeta, o.Spec.ParentRefs
		r.translate = func(f routes.Resolver, _ routes.Extensions) routes.Result { return routes.TLS(o, f) }
		for _, rule := range o.Spec.Rules {
			backends(rule.BackendRefs)
		}
	case *gateway.TCPRoute:
		r.meta, r.parents = &o.ObjectMeta, o.Spec.ParentRefs
		r.translate = func(f routes.Resolver, _ routes.Extensions) routes.Result { return routes.TCP(o, f) }
		for _, rule := range o.Spec.Rules {
			backends(rule.BackendRefs)
		}
	default:
		return route{}, false
	}
	return r, true
}

// changeRoute takes in that a route came, changed or went.
func (m *Model) changeRoute(s *space, e Event, d dirty) {
	old, _ := m.route(e.Key)
	switch e.Key.Kind {
	case KindHTTPRoute:
		replace(s.httpRoutes, e)
	case KindGRPCRoute:
		replace(s.grpcRoutes, e)
	case KindTLSRoute:
		replace(s.tlsRoutes, e)
	case KindTCPRoute:
		replace(s.tcpRoutes, e)
	}
	now, _ := m.route(e.Key)
	m.attachTo(e.Key, old.targets(), now.targets(), d)
}

// targets are the parents and backends of a route, and what its filters refer to.
func (r route) targets() []Key {
	var all []Key
	for _, ref := range r.parents {
		all = append(all, parentOf(r.key.Namespace, ref))
	}
	for _, ref := range r.backends {
		namespace, kind, group := r.key.Namespace, "Service", ""
		if ref.Namespace != nil {
			namespace = string(*ref.Namespace)
		}
		if ref.Kind != nil {
			kind = string(*ref.Kind)
		}
		if ref.Group != nil {
			group = string(*ref.Group)
		}
		all = append(all, targetKey(group, kind, namespace, string(ref.Name)))
		if namespace != r.key.Namespace {
			all = append(all, Key{Kind: kindGrants, Name: namespace})
		}
	}
	for _, ref := range r.extensions {
		if ref.Group == RateLimitGroup && Kind(ref.Kind) == KindRateLimit {
			all = append(all, Key{KindRateLimit, r.key.Namespace, string(ref.Name)})
		}
	}
	return slices.DeleteFunc(all, func(k Key) bool { return k == Key{} })
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
	case "/Service", "core/Service":
		return Key{KindService, namespace, name}
	case "networking.istio.io/ServiceEntry":
		return Key{KindServiceEntry, namespace, name}
	case gateway.GroupName + "/Gateway":
		return Key{KindGateway, namespace, name}
	case gateway.GroupName + "/GatewayClass":
		return Key{Kind: KindGatewayClass, Name: name}
	}
	return Key{}
}

// asks reports whether a parent reference is for a port of a service.
func asks(ref gateway.ParentReference, p servicePort) bool {
	return (ref.Port == nil || uint32(*ref.Port) == p.number) && (ref.SectionName == nil || string(*ref.SectionName) == p.name)
}

// consumer is the namespace whose clients a route is for; "" for all. Source:
// Gateway API, GEP-1294, "Namespace boundaries".
func (r route) consumer(service Key) string {
	if r.key.Namespace == service.Namespace {
		return ""
	}
	return r.key.Namespace
}

// onPort is what is attached to one port of a service for some clients.
type onPort struct {
	consumer string
	port     uint32
}

// routesOn are the routes of a service by where they are attached, each list with
// the kind that counts first, and in it the oldest first. Source: Gateway API,
// HTTPRouteRule and GEP-1294.
func (m *Model) routesOn(service Key, ports []servicePort) map[onPort][]route {
	all := map[onPort][]route{}
	for key := range m.attached[service] {
		r, ok := m.route(key)
		if !ok {
			continue
		}
		for _, p := range ports {
			at := onPort{r.consumer(service), p.number}
			if slices.ContainsFunc(r.parents, func(ref gateway.ParentReference) bool {
				return parentOf(key.Namespace, ref) == service && asks(ref, p)
			}) {
				all[at] = append(all[at], r)
			}
		}
	}
	for _, list := range all {
		slices.SortFunc(list, func(a, b route) int {
			return cmp.Or(
				cmp.Compare(slices.Index(routeKinds, a.key.Kind), slices.Index(routeKinds, b.key.Kind)),
				a.meta.CreationTimestamp.Compare(b.meta.CreationTimestamp.Time),
				cmp.Compare(a.key.Namespace, b.key.Namespace), cmp.Compare(a.key.Name, b.key.Name),
			)
		})
	}
	return all
}

// counting are those of a list that count: of the first kind, and of routes that
// nothing tells apart one.
func counting(list []route) []route {
	n := 0
	for n < len(list) && list[n].key.Kind == list[0].key.Kind {
		n++
	}
	if n > 1 && list[0].key.Kind == KindTCPRoute {
		n = 1
	}
	return list[:n]
}

// routeTables are the routes of a service: those of the Gateway API, and on ports
// that have none those of a VirtualService, else of a ServiceProfile.
func (m *Model) routeTables(service Key, host string, ports []servicePort) (tables []*waypointapi.RouteTable, streams []*waypointapi.StreamTable) {
	tables, streams = m.gatewayTables(service, ports)
	if len(tables)+len(streams) > 0 {
		return tables, streams
	}
	if v := m.virtualOf(service, host); v != nil {
		return m.virtualTables(v, ports)
	}
	if p := m.profileOf(service); p != nil {
		result := routes.FromProfile(p.profile(), service.Namespace+"/"+host)
		return []*waypointapi.RouteTable{{InOrder: true, Routes: result.Routes}}, nil
	}
	return nil, nil
}

// gatewayTables are the routes of the Gateway API: a table for the ports that have
// the same ones, for the clients of each namespace that has routes of its own.
func (m *Model) gatewayTables(service Key, ports []servicePort) (tables []*waypointapi.RouteTable, streams []*waypointapi.StreamTable) {
	type shape struct{ consumer, routes string }
	on := m.routesOn(service, ports)
	portsOf, listOf := map[shape][]uint32{}, map[shape][]route{}
	for at, list := range on {
		list = counting(list)
		s := shape{consumer: at.consumer}
		for _, r := range list {
			s.routes += r.key.String() + ";"
		}
		portsOf[s], listOf[s] = append(portsOf[s], at.port), list
	}
	for _, s := range slices.SortedFunc(maps.Keys(portsOf), func(a, b shape) int {
		return cmp.Or(cmp.Compare(a.consumer, b.consumer), cmp.Compare(slices.Min(portsOf[a]), slices.Min(portsOf[b])))
	}) {
		numbers := portsOf[s]
		slices.Sort(numbers)
		if len(numbers) == len(ports) {
			numbers = nil // all
		}
		var merged routes.Result
		for _, r := range listOf[s] {
			result := r.translate(m.resolverFor(r.key, service.Namespace), m.extensionsOf(r.key.Namespace))
			merged.Routes, merged.Streams = append(merged.Routes, result.Routes...), append(merged.Streams, result.Streams...)
		}
		if len(merged.Streams) > 0 {
			streams = append(streams, &waypointapi.StreamTable{ClientNamespace: s.consumer, Ports: numbers, Routes: merged.Streams})
		} else {
			tables = append(tables, &waypointapi.RouteTable{ClientNamespace: s.consumer, Ports: numbers, Routes: merged.Routes})
		}
	}
	return tables, streams
}

// kindGrants is what routes are attached to that lead into another namespace: what
// its ReferenceGrants allow.
const kindGrants Kind = "grants"

// resolverFor finds the backends of a route whose parent is in a namespace. Without
// a ReferenceGrant a route leads to its own namespace and to that of its parent,
// where its clients could go by themselves; into a third one the waypoint would be
// a way around that namespace's NetworkPolicies.
func (m *Model) resolverFor(of Key, parentNamespace string) routes.Resolver {
	return func(group, kind, namespace, name string, port uint32) routes.Backend {
		problem := func(reason, format string, args ...any) routes.Backend {
			return routes.Backend{Problem: routes.Problem{Reason: reason, Text: fmt.Sprintf(format, args...)}}
		}
		if group != "" || kind != "Service" {
			return problem(routes.ReasonInvalidKind, "a backend of kind %s is not supported: want a Service", kind)
		}
		if namespace != of.Namespace && namespace != parentNamespace && !m.granted(of, namespace, name) {
			return problem(routes.ReasonNotPermitted, "service %s/%s is in another namespace, and no ReferenceGrant there allows %ss of namespace %s to lead to it", namespace, name, of.Kind, of.Namespace)
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

// granted reports whether a ReferenceGrant lets a route lead to a service of
// another namespace. Source: Gateway API, ReferenceGrantSpec.
func (m *Model) granted(of Key, namespace, service string) bool {
	s := m.spaces[namespace]
	if s == nil {
		return false
	}
	for _, g := range s.grants {
		from := slices.ContainsFunc(g.Spec.From, func(f gateway.ReferenceGrantFrom) bool {
			return f.Group == gateway.GroupName && string(f.Kind) == string(of.Kind) && string(f.Namespace) == of.Namespace
		})
		if from && slices.ContainsFunc(g.Spec.To, func(t gateway.ReferenceGrantTo) bool {
			return t.Group == "" && t.Kind == "Service" && (t.Name == nil || string(*t.Name) == service)
		}) {
			return true
		}
	}
	return false
}
