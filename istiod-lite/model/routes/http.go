package routes

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/types/known/durationpb"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
)

// HTTP translates an HTTPRoute.
func HTTP(r *gateway.HTTPRoute, resolve Resolver, extend Extensions) Result {
	c := &converter{namespace: r.Namespace, resolve: resolve, extend: extend}
	for i := range r.Spec.Rules {
		path := fmt.Sprintf("spec.rules[%d]", i)
		c.begin()
		c.Routes = append(c.Routes, c.httpRule(path, ruleName("HTTPRoute", &r.ObjectMeta, i, r.Spec.Rules[i].Name), &r.Spec.Rules[i]))
		c.end(len(r.Spec.Rules))
	}
	c.ignoreHostnames(r.Spec.Hostnames)
	return c.Result
}

// httpRule translates one rule.
func (c *converter) httpRule(path, name string, rule *gateway.HTTPRouteRule) *waypointapi.Route {
	out := &waypointapi.Route{Name: name}
	for i := range rule.Matches {
		out.Matches = append(out.Matches, c.httpMatch(fmt.Sprintf("%s.matches[%d]", path, i), &rule.Matches[i]))
	}
	for i := range rule.Filters {
		out.Filters = append(out.Filters, c.httpFilter(fmt.Sprintf("%s.filters[%d]", path, i), &rule.Filters[i]))
	}
	for i := range rule.BackendRefs {
		ref := &rule.BackendRefs[i]
		at := fmt.Sprintf("%s.backendRefs[%d]", path, i)
		b := c.backend(at, ref.BackendObjectReference, weightOf(ref.Weight))
		for j := range ref.Filters {
			b.Filters = append(b.Filters, c.httpFilter(fmt.Sprintf("%s.filters[%d]", at, j), &ref.Filters[j]))
		}
		out.Backends = append(out.Backends, b)
	}
	if t := rule.Timeouts; t != nil {
		out.Timeout = c.duration(path+".timeouts.request", t.Request)
		out.TryTimeout = c.duration(path+".timeouts.backendRequest", t.BackendRequest)
	}
	out.Retry = c.retry(path+".retry", rule.Retry)
	out.Session = c.session(path+".sessionPersistence", rule.SessionPersistence)
	if c.contradict(path, rule) {
		out.Filters = []*waypointapi.Filter{broken()}
	}
	return out
}

// contradict reports whether filters of a rule cannot be done together.
func (c *converter) contradict(path string, rule *gateway.HTTPRouteRule) bool {
	count := map[gateway.HTTPRouteFilterType]int{}
	for _, f := range rule.Filters {
		count[f.Type]++
	}
	redirects := count[gateway.HTTPRouteFilterRequestRedirect] > 0
	why := ""
	switch {
	case redirects && count[gateway.HTTPRouteFilterURLRewrite] > 0:
		why = "a request is either redirected or rewritten"
	case redirects && len(rule.BackendRefs) > 0:
		why = "a request is either redirected or sent to backends"
	}
	for kind, n := range count {
		if n > 1 && kind != gateway.HTTPRouteFilterRequestMirror && kind != gateway.HTTPRouteFilterExtensionRef {
			why = fmt.Sprintf("want the filter %s once", kind)
		}
	}
	if why == "" {
		return false
	}
	c.Incompatible = true
	c.problem(path+".filters", "%s", why)
	return true
}

// MirrorsOf are the references to services in filters.
func MirrorsOf(filters []gateway.HTTPRouteFilter) (all []gateway.BackendObjectReference) {
	for _, f := range filters {
		if f.RequestMirror != nil {
			all = append(all, f.RequestMirror.BackendRef)
		}
	}
	return all
}

// ExtensionsOf are the references to objects that say what filters do.
func ExtensionsOf(filters []gateway.HTTPRouteFilter) (all []gateway.LocalObjectReference) {
	for _, f := range filters {
		if f.ExtensionRef != nil {
			all = append(all, *f.ExtensionRef)
		}
	}
	return all
}

// weightOf is the weight of a backend: 1 unless it says otherwise.
func weightOf(w *int32) uint32 {
	if w == nil {
		return 1
	}
	return uint32(max(0, *w))
}

// httpMatch translates one match. Without a path every path matches.
func (c *converter) httpMatch(path string, m *gateway.HTTPRouteMatch) *waypointapi.RouteMatch {
	out := &waypointapi.RouteMatch{Path: &waypointapi.Path{Kind: &waypointapi.Path_Prefix{Prefix: "/"}}}
	if p := m.Path; p != nil {
		value := "/"
		if p.Value != nil {
			value = *p.Value
		}
		kind := gateway.PathMatchPathPrefix
		if p.Type != nil {
			kind = *p.Type
		}
		switch kind {
		case gateway.PathMatchExact:
			out.Path.Kind = &waypointapi.Path_Exact{Exact: value}
		case gateway.PathMatchPathPrefix:
			out.Path.Kind = &waypointapi.Path_Prefix{Prefix: value}
		case gateway.PathMatchRegularExpression:
			out.Path.Kind = &waypointapi.Path_Regex{Regex: value}
		default:
			c.problem(path+".path.type", "%q is not known", kind)
			out.Path.Kind = &waypointapi.Path_Exact{}
		}
	}
	for _, h := range m.Headers {
		out.Headers = append(out.Headers, &waypointapi.NamedMatch{
			Name: string(h.Name), Value: textOf(h.Type != nil && *h.Type == gateway.HeaderMatchRegularExpression, h.Value),
		})
	}
	for _, q := range m.QueryParams {
		out.Query = append(out.Query, &waypointapi.NamedMatch{
			Name: string(q.Name), Value: textOf(q.Type != nil && *q.Type == gateway.QueryParamMatchRegularExpression, q.Value),
		})
	}
	if m.Method != nil {
		out.Method = exactly(string(*m.Method))
	}
	return out
}

// textOf is a comparison with an expression or a text.
func textOf(isRegex bool, value string) *waypointapi.StringMatch {
	if isRegex {
		return regex(value)
	}
	return exactly(value)
}

// httpFilter translates one filter. One that cannot be done makes requests fail.
func (c *converter) httpFilter(path string, f *gateway.HTTPRouteFilter) *waypointapi.Filter {
	out := &waypointapi.Filter{}
	switch {
	case f.Type == gateway.HTTPRouteFilterRequestHeaderModifier && f.RequestHeaderModifier != nil:
		out.Kind = &waypointapi.Filter_RequestHeaders{RequestHeaders: headerChange(f.RequestHeaderModifier)}
	case f.Type == gateway.HTTPRouteFilterResponseHeaderModifier && f.ResponseHeaderModifier != nil:
		out.Kind = &waypointapi.Filter_ResponseHeaders{ResponseHeaders: headerChange(f.ResponseHeaderModifier)}
	case f.Type == gateway.HTTPRouteFilterRequestRedirect && f.RequestRedirect != nil:
		out.Kind = &waypointapi.Filter_Redirect{Redirect: c.redirect(path, f.RequestRedirect)}
	case f.Type == gateway.HTTPRouteFilterURLRewrite && f.URLRewrite != nil:
		w := &waypointapi.Rewrite{Path: c.pathChange(path+".urlRewrite.path", f.URLRewrite.Path)}
		if f.URLRewrite.Hostname != nil {
			w.Host = string(*f.URLRewrite.Hostname)
		}
		out.Kind = &waypointapi.Filter_Rewrite{Rewrite: w}
	case f.Type == gateway.HTTPRouteFilterRequestMirror && f.RequestMirror != nil:
		m := f.RequestMirror
		out.Kind = &waypointapi.Filter_Mirror{Mirror: &waypointapi.Mirror{
			Backend: c.backend(path+".requestMirror.backendRef", m.BackendRef, 1), PerMillion: mirrored(m),
		}}
	case f.Type == gateway.HTTPRouteFilterCORS && f.CORS != nil:
		out.Kind = &waypointapi.Filter_Cors{Cors: corsOf(f.CORS)}
	case f.Type == gateway.HTTPRouteFilterExtensionRef && f.ExtensionRef != nil && c.extend != nil:
		do, problem := c.extend(string(f.ExtensionRef.Group), string(f.ExtensionRef.Kind), string(f.ExtensionRef.Name))
		if problem != "" {
			c.problem(path+".extensionRef", "%s", problem)
			return broken()
		}
		return do
	default:
		c.problem(path, "filter %s is not supported", f.Type)
		return broken()
	}
	return out
}

// headerChange translates changes of headers.
func headerChange(f *gateway.HTTPHeaderFilter) *waypointapi.HeaderChange {
	out := &waypointapi.HeaderChange{Remove: f.Remove}
	for _, h := range f.Set {
		out.Set = append(out.Set, &waypointapi.Header{Name: string(h.Name), Value: h.Value})
	}
	for _, h := range f.Add {
		out.Add = append(out.Add, &waypointapi.Header{Name: string(h.Name), Value: h.Value})
	}
	return out
}

// redirect translates a redirect.
func (c *converter) redirect(path string, r *gateway.HTTPRequestRedirectFilter) *waypointapi.Redirect {
	out := &waypointapi.Redirect{Path: c.pathChange(path+".requestRedirect.path", r.Path)}
	if r.Scheme != nil {
		out.Scheme = *r.Scheme
	}
	if r.Hostname != nil {
		out.Host = string(*r.Hostname)
	}
	if r.Port != nil {
		out.Port = uint32(*r.Port)
	}
	if r.StatusCode != nil {
		out.Status = uint32(*r.StatusCode)
	}
	return out
}

// pathChange translates a change of the path; nil when there is none.
func (c *converter) pathChange(path string, p *gateway.HTTPPathModifier) *waypointapi.PathChange {
	switch {
	case p == nil:
		return nil
	case p.Type == gateway.FullPathHTTPPathModifier && p.ReplaceFullPath != nil:
		return &waypointapi.PathChange{Kind: &waypointapi.PathChange_Full{Full: *p.ReplaceFullPath}}
	case p.Type == gateway.PrefixMatchHTTPPathModifier && p.ReplacePrefixMatch != nil:
		return &waypointapi.PathChange{Kind: &waypointapi.PathChange_Prefix{Prefix: *p.ReplacePrefixMatch}}
	}
	c.problem(path, "type %s is not supported", p.Type)
	return nil
}

// mirrored is the share of requests that are mirrored: all unless it says otherwise.
func mirrored(m *gateway.HTTPRequestMirrorFilter) uint32 {
	const million = 1_000_000
	switch {
	case m.Percent != nil:
		return uint32(*m.Percent) * (million / 100)
	case m.Fraction != nil:
		denominator := int64(100)
		if m.Fraction.Denominator != nil {
			denominator = max(1, int64(*m.Fraction.Denominator))
		}
		return uint32(min(million, int64(m.Fraction.Numerator)*million/denominator))
	}
	return million
}

// corsOf translates CORS. Origins may have a star in place of a host, or before a
// part of it.
func corsOf(f *gateway.HTTPCORSFilter) *waypointapi.Cors {
	out := &waypointapi.Cors{Credentials: f.AllowCredentials != nil && *f.AllowCredentials}
	for _, o := range f.AllowOrigins {
		origin := string(o)
		switch {
		case origin == "*":
			out.Origins = append(out.Origins, &waypointapi.StringMatch{Kind: &waypointapi.StringMatch_Present{Present: true}})
		case strings.Contains(origin, "*"):
			before, after, _ := strings.Cut(origin, "*")
			out.Origins = append(out.Origins, regex(quote(before)+`[^/]+`+quote(after)))
		default:
			out.Origins = append(out.Origins, exactly(origin))
		}
	}
	for _, m := range f.AllowMethods {
		out.Methods = append(out.Methods, string(m))
	}
	for _, h := range f.AllowHeaders {
		out.Headers = append(out.Headers, string(h))
	}
	for _, h := range f.ExposeHeaders {
		out.Expose = append(out.Expose, string(h))
	}
	if f.MaxAge > 0 {
		out.MaxAge = &durationpb.Duration{Seconds: int64(f.MaxAge)}
	}
	return out
}

// quote makes a text an expression that matches it.
func quote(text string) string {
	var b strings.Builder
	for _, r := range text {
		if strings.ContainsRune(`\.+*?()|[]{}^$`, r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// retry translates retries. Source: Gateway API, HTTPRouteRetry.
func (c *converter) retry(path string, r *gateway.HTTPRouteRetry) *waypointapi.Retry {
	if r == nil {
		return nil
	}
	out := &waypointapi.Retry{Attempts: 1, ConnectFailure: true, Reset_: true, Backoff: c.duration(path+".backoff", r.Backoff)}
	if r.Attempts != nil {
		out.Attempts = c.attempts(path+".attempts", *r.Attempts)
	}
	for _, code := range r.Codes {
		out.Statuses = append(out.Statuses, uint32(code))
	}
	return out
}

// mostAttempts is how often waypoints try again at most: their own bound.
const mostAttempts = 20

// attempts reads how often a request is tried again. More than waypoints do is cut.
func (c *converter) attempts(path string, n int) uint32 {
	if n > mostAttempts {
		c.Notes = append(c.Notes, Problem{Path: path, Text: fmt.Sprintf("%d are asked for, %d are made at most", n, mostAttempts)})
		return mostAttempts
	}
	return uint32(max(0, n))
}
