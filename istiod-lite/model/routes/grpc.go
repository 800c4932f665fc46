package routes

import (
	"cmp"
	"fmt"

	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
)

// GRPC translates a GRPCRoute.
func GRPC(r *gateway.GRPCRoute, resolve Resolver, extend Extensions) Result {
	c := &converter{namespace: r.Namespace, resolve: resolve, extend: extend}
	for i := range r.Spec.Rules {
		path := fmt.Sprintf("spec.rules[%d]", i)
		c.begin()
		c.Routes = append(c.Routes, c.grpcRule(path, ruleName("GRPCRoute", &r.ObjectMeta, i, r.Spec.Rules[i].Name), &r.Spec.Rules[i]))
		c.end(len(r.Spec.Rules))
	}
	c.ignoreHostnames(r.Spec.Hostnames)
	return c.Result
}

// grpcRule translates one rule.
func (c *converter) grpcRule(path, name string, rule *gateway.GRPCRouteRule) *waypointapi.Route {
	out := &waypointapi.Route{Name: name}
	for i := range rule.Matches {
		out.Matches = append(out.Matches, c.grpcMatch(fmt.Sprintf("%s.matches[%d]", path, i), &rule.Matches[i]))
	}
	filters := func(path string, all []gateway.GRPCRouteFilter) (out []*waypointapi.Filter) {
		for i := range all {
			out = append(out, c.httpFilter(fmt.Sprintf("%s.filters[%d]", path, i), likeHTTP(&all[i])))
		}
		return out
	}
	out.Filters = filters(path, rule.Filters)
	for i := range rule.BackendRefs {
		ref := &rule.BackendRefs[i]
		at := fmt.Sprintf("%s.backendRefs[%d]", path, i)
		b := c.backend(at, ref.BackendObjectReference, weightOf(ref.Weight))
		b.Filters = filters(at, ref.Filters)
		out.Backends = append(out.Backends, b)
	}
	out.Session = c.session(path+".sessionPersistence", rule.SessionPersistence)
	return out
}

// likeHTTP is a filter as HTTPRoutes have it: its kinds are some of theirs, under
// the same names.
func likeHTTP(f *gateway.GRPCRouteFilter) *gateway.HTTPRouteFilter {
	return &gateway.HTTPRouteFilter{
		Type: gateway.HTTPRouteFilterType(f.Type), RequestHeaderModifier: f.RequestHeaderModifier,
		ResponseHeaderModifier: f.ResponseHeaderModifier, RequestMirror: f.RequestMirror, ExtensionRef: f.ExtensionRef,
	}
}

// GRPCMirrorsOf are the references to services in filters.
func GRPCMirrorsOf(filters []gateway.GRPCRouteFilter) (all []gateway.BackendObjectReference) {
	for i := range filters {
		all = append(all, MirrorsOf([]gateway.HTTPRouteFilter{*likeHTTP(&filters[i])})...)
	}
	return all
}

// GRPCExtensionsOf are the references to objects that say what filters do.
func GRPCExtensionsOf(filters []gateway.GRPCRouteFilter) (all []gateway.LocalObjectReference) {
	for i := range filters {
		all = append(all, ExtensionsOf([]gateway.HTTPRouteFilter{*likeHTTP(&filters[i])})...)
	}
	return all
}

// grpcMatch translates one match. Its precedence is the characters of the service,
// then those of the method. Source: Gateway API, GRPCRouteRule.
func (c *converter) grpcMatch(path string, m *gateway.GRPCRouteMatch) *waypointapi.RouteMatch {
	out := &waypointapi.RouteMatch{Path: &waypointapi.Path{Kind: &waypointapi.Path_Prefix{Prefix: "/"}}}
	if m.Method != nil {
		service, method := deref(m.Method.Service), deref(m.Method.Method)
		out.Precedence = uint64(len(service))<<32 | uint64(len(method))
		kind := gateway.GRPCMethodMatchExact
		if m.Method.Type != nil {
			kind = *m.Method.Type
		}
		switch {
		case service == "" && method == "":
			c.problem(path+".method", "names neither a service nor a method: it matches nothing")
			out.Path.Kind = &waypointapi.Path_Exact{}
		case kind == gateway.GRPCMethodMatchExact && service != "" && method != "":
			out.Path.Kind = &waypointapi.Path_Exact{Exact: "/" + service + "/" + method}
		case kind == gateway.GRPCMethodMatchExact && method == "":
			out.Path.Kind = &waypointapi.Path_TextPrefix{TextPrefix: "/" + service + "/"}
		case kind == gateway.GRPCMethodMatchExact:
			out.Path.Kind = &waypointapi.Path_Regex{Regex: "/[^/]+/" + quote(method)}
		case kind == gateway.GRPCMethodMatchRegularExpression:
			out.Path.Kind = &waypointapi.Path_Regex{Regex: "/(?:" + cmp.Or(service, "[^/]+") + ")/(?:" + cmp.Or(method, "[^/]+") + ")"}
		default:
			c.problem(path+".method.type", "%q is not known: it matches nothing", kind)
			out.Path.Kind = &waypointapi.Path_Exact{}
		}
	}
	for _, h := range m.Headers {
		out.Headers = append(out.Headers, &waypointapi.NamedMatch{
			Name: string(h.Name), Value: textOf(h.Type != nil && *h.Type == gateway.GRPCHeaderMatchRegularExpression, h.Value),
		})
	}
	return out
}

// deref is what p points to, or the zero value.
func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
