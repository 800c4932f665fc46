//lint:file-ignore SA1019 old names of fields are still written, and are understood.

package routes

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	api "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"
)

// Delegate is a VirtualService to which another one leaves some of its requests.
type Delegate struct {
	Object  *networking.VirtualService
	Resolve Resolver // of its namespace
	// Problem is why it cannot be used; empty when it can.
	Problem string
}

// Delegates finds a delegate for a VirtualService.
type Delegates func(namespace, name string) Delegate

// Expanded is the HTTP routes of a VirtualService in their order, those of its
// delegates in place of what leaves requests to them. Source: istio.io/api,
// networking/v1alpha3, HTTPRoute.delegate.
type Expanded struct {
	parts    []part
	problems []Problem
}

// part is one route.
type part struct {
	path, name string
	route      *api.HTTPRoute
	namespace  string // in which short names of destinations are meant
	resolve    Resolver
	missing    string // why requests are refused instead; empty: they are not
}

// Expand puts delegates in their places.
func Expand(v *networking.VirtualService, resolve Resolver, find Delegates) *Expanded {
	x := &Expanded{}
	for i, r := range v.Spec.GetHttp() {
		p := part{
			path: fmt.Sprintf("spec.http[%d]", i), name: routeName(v, i, r), route: r, namespace: v.Namespace, resolve: resolve,
		}
		if r.GetDelegate() == nil {
			x.parts = append(x.parts, p)
			continue
		}
		x.delegate(p, v, find)
	}
	return x
}

// routeName is what a route is called in records.
func routeName(v *networking.VirtualService, i int, r *api.HTTPRoute) string {
	name := fmt.Sprintf("VirtualService %s/%s[%d]", v.Namespace, v.Name, i)
	if r.GetName() != "" {
		name += " " + r.GetName()
	}
	return name
}

// NamesPorts reports whether matches ask for ports.
func (x *Expanded) NamesPorts() bool {
	return slices.ContainsFunc(x.parts, func(p part) bool {
		return slices.ContainsFunc(p.route.GetMatch(), func(m *api.HTTPMatchRequest) bool { return m.GetPort() != 0 })
	})
}

// Empty reports whether there are no routes.
func (x *Expanded) Empty() bool { return len(x.parts) == 0 }

// delegate appends the routes of the delegate that a route names. Without one, the
// requests that it would have got are refused: routes that stand after it were not
// written for them.
func (x *Expanded) delegate(root part, v *networking.VirtualService, find Delegates) {
	problem := func(format string, args ...any) {
		x.problems = append(x.problems, Problem{Path: root.path + ".delegate", Text: fmt.Sprintf(format, args...)})
	}
	refuse := func(format string, args ...any) {
		problem(format, args...)
		root.missing = x.problems[len(x.problems)-1].Text
		x.parts = append(x.parts, root)
	}
	r := root.route
	if len(r.GetRoute()) > 0 || r.GetRedirect() != nil || r.GetDirectResponse() != nil {
		refuse("stands beside route, redirect or directResponse: want it alone")
		return
	}
	d := r.GetDelegate()
	namespace := cmp.Or(d.GetNamespace(), v.Namespace)
	found := find(namespace, d.GetName())
	if found.Problem != "" {
		refuse("%s", found.Problem)
		return
	}
	o := found.Object
	for i, leaf := range o.Spec.GetHttp() {
		name := routeName(o, i, leaf)
		if leaf.GetDelegate() != nil {
			problem("%s delegates in turn: only one level is possible, and it takes no effect", name)
			continue
		}
		merged, why := mergeRoutes(r, leaf)
		if why != "" {
			problem("%s asks for what this route does not let through (%s), and takes no effect", name, why)
			continue
		}
		x.parts = append(x.parts, part{path: root.path + ".delegate", name: root.name + ", " + name, route: merged, namespace: o.Namespace, resolve: found.Resolve})
	}
}

// mergeRoutes is a delegate's route as far as the root lets it: what the delegate does
// not say the root does. why is what contradicts; empty when nothing does.
func mergeRoutes(root, leaf *api.HTTPRoute) (merged *api.HTTPRoute, why string) {
	out := proto.Clone(leaf).(*api.HTTPRoute)
	if out.Match, why = mergeMatches(root.GetMatch(), leaf.GetMatch()); why != "" {
		return nil, why
	}
	if out.Rewrite == nil {
		out.Rewrite = root.GetRewrite()
	}
	if out.Timeout == nil {
		out.Timeout = root.GetTimeout()
	}
	if out.Retries == nil {
		out.Retries = root.GetRetries()
	}
	if out.Fault == nil {
		out.Fault = root.GetFault()
	}
	if out.CorsPolicy == nil {
		out.CorsPolicy = root.GetCorsPolicy()
	}
	if out.Mirror == nil && len(out.Mirrors) == 0 {
		from := proto.Clone(root).(*api.HTTPRoute)
		out.Mirror, out.MirrorPercent, out.MirrorPercentage, out.Mirrors = from.Mirror, from.MirrorPercent, from.MirrorPercentage, from.Mirrors
	}
	out.Headers = mergeHeaders(root.GetHeaders(), leaf.GetHeaders())
	return out, ""
}

// mergeHeaders makes the changes of both; where both set one header the delegate does.
func mergeHeaders(root, leaf *api.Headers) *api.Headers {
	if root == nil || leaf == nil {
		if leaf == nil {
			return root
		}
		return leaf
	}
	operations := func(a, b *api.Headers_HeaderOperations) *api.Headers_HeaderOperations {
		if a == nil || b == nil {
			if b == nil {
				return a
			}
			return b
		}
		return &api.Headers_HeaderOperations{
			Set: merged(a.GetSet(), b.GetSet()), Add: merged(a.GetAdd(), b.GetAdd()), Remove: slices.Concat(a.GetRemove(), b.GetRemove()),
		}
	}
	return &api.Headers{Request: operations(root.GetRequest(), leaf.GetRequest()), Response: operations(root.GetResponse(), leaf.GetResponse())}
}

// merged is both maps; b counts where both have a key.
func merged[V any](a, b map[string]V) map[string]V {
	if len(a)+len(b) == 0 {
		return nil
	}
	out := maps.Clone(a)
	if out == nil {
		out = map[string]V{}
	}
	maps.Copy(out, b)
	return out
}

// mergeMatches are the matches that hold for both. Each one of the delegate has to be a
// part of one of the root's.
func mergeMatches(root, leaf []*api.HTTPMatchRequest) (out []*api.HTTPMatchRequest, why string) {
	if len(root) == 0 {
		return leaf, ""
	}
	if len(leaf) == 0 {
		return root, ""
	}
	for i, l := range leaf {
		var reason string
		found := false
		for _, r := range root {
			if field := contradicts(r, l); field != "" {
				reason = field
				continue
			}
			out, found = append(out, mergeMatch(r, l)), true
		}
		if !found {
			return nil, fmt.Sprintf("match[%d].%s", i, reason)
		}
	}
	return out, ""
}

// mergeMatch is a match that asks for what both ask for, the narrower of the two.
func mergeMatch(root, leaf *api.HTTPMatchRequest) *api.HTTPMatchRequest {
	out := proto.Clone(leaf).(*api.HTTPMatchRequest)
	for _, f := range []struct {
		of   **api.StringMatch
		root *api.StringMatch
	}{{&out.Uri, root.GetUri()}, {&out.Scheme, root.GetScheme()}, {&out.Method, root.GetMethod()}, {&out.Authority, root.GetAuthority()}} {
		if *f.of == nil {
			*f.of = f.root
		}
	}
	out.Headers, out.WithoutHeaders = merged(root.GetHeaders(), leaf.GetHeaders()), merged(root.GetWithoutHeaders(), leaf.GetWithoutHeaders())
	out.QueryParams, out.SourceLabels = merged(root.GetQueryParams(), leaf.GetQueryParams()), merged(root.GetSourceLabels(), leaf.GetSourceLabels())
	out.Port, out.SourceNamespace = cmp.Or(leaf.GetPort(), root.GetPort()), cmp.Or(leaf.GetSourceNamespace(), root.GetSourceNamespace())
	if len(out.Gateways) == 0 {
		out.Gateways = root.GetGateways()
	}
	if leaf.GetUri() == nil {
		out.IgnoreUriCase = root.GetIgnoreUriCase()
	}
	return out
}

// contradicts is the field in which a delegate's match is no part of the root's; empty
// when there is none.
func contradicts(root, leaf *api.HTTPMatchRequest) string {
	for _, f := range []struct {
		name string
		r, l *api.StringMatch
	}{{"uri", root.GetUri(), leaf.GetUri()}, {"scheme", root.GetScheme(), leaf.GetScheme()}, {"method", root.GetMethod(), leaf.GetMethod()}, {"authority", root.GetAuthority(), leaf.GetAuthority()}} {
		if f.r != nil && f.l != nil && !narrows(f.r, f.l) {
			return f.name
		}
	}
	for _, f := range []struct {
		name string
		r, l map[string]*api.StringMatch
	}{{"headers", root.GetHeaders(), leaf.GetHeaders()}, {"queryParams", root.GetQueryParams(), leaf.GetQueryParams()}} {
		for _, key := range slices.Sorted(maps.Keys(f.l)) {
			if r, both := f.r[key]; both && !narrows(r, f.l[key]) {
				return f.name + "[" + key + "]"
			}
		}
	}
	for key, l := range leaf.GetWithoutHeaders() { // what the root keeps out the delegate has to keep out
		if r, both := root.GetWithoutHeaders()[key]; both && !narrows(l, r) {
			return "withoutHeaders[" + key + "]"
		}
	}
	for key, value := range leaf.GetSourceLabels() {
		if r, both := root.GetSourceLabels()[key]; both && r != value {
			return "sourceLabels"
		}
	}
	switch {
	case root.GetUri() != nil && leaf.GetUri() != nil && root.GetIgnoreUriCase() != leaf.GetIgnoreUriCase():
		return "ignoreUriCase"
	case root.GetPort() != 0 && leaf.GetPort() != 0 && root.GetPort() != leaf.GetPort():
		return "port"
	case root.GetSourceNamespace() != "" && leaf.GetSourceNamespace() != "" && root.GetSourceNamespace() != leaf.GetSourceNamespace():
		return "sourceNamespace"
	case len(root.GetGateways()) > 0 && slices.ContainsFunc(leaf.GetGateways(), func(g string) bool { return !slices.Contains(root.GetGateways(), g) }):
		return "gateways"
	}
	return ""
}

// narrows reports whether all that leaf holds for root holds for too. Of a regular
// expression that cannot be known: it narrows only one that asks that something is
// there, and what is narrower than it is not known either, unless it is the same.
func narrows(root, leaf *api.StringMatch) bool {
	switch r := root.GetMatchType().(type) {
	case *api.StringMatch_Exact:
		l, ok := leaf.GetMatchType().(*api.StringMatch_Exact)
		return ok && l.Exact == r.Exact
	case *api.StringMatch_Prefix:
		switch l := leaf.GetMatchType().(type) {
		case *api.StringMatch_Exact:
			return strings.HasPrefix(l.Exact, r.Prefix)
		case *api.StringMatch_Prefix:
			return strings.HasPrefix(l.Prefix, r.Prefix)
		}
		return false
	case *api.StringMatch_Regex:
		l, ok := leaf.GetMatchType().(*api.StringMatch_Regex)
		return ok && l.Regex == r.Regex
	}
	return true
}
