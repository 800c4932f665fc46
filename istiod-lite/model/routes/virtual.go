//lint:file-ignore SA1019 old names of fields are still written, and are understood.

package routes

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	api "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
)

// Virtual translates the routes of a VirtualService, those of HTTP expanded, for one
// port of its service. They are in order: the first that matches counts.
func Virtual(v *networking.VirtualService, http *Expanded, port uint32, resolve Resolver) Result {
	c := &converter{Result: Result{Problems: slices.Clone(http.problems)}}
	for _, p := range http.parts {
		c.namespace, c.resolve = p.namespace, p.resolve
		if out := c.virtualRoute(p, port); out != nil {
			c.Routes = append(c.Routes, out)
		}
	}
	c.namespace, c.resolve = v.Namespace, resolve
	c.virtualStreams(v, port)
	return c.Result
}

// virtualStreams translates the routes of connections: those of TLS by the server
// that is asked for, those of TCP for all the others. Of several for one name the
// first counts.
func (c *converter) virtualStreams(v *networking.VirtualService, port uint32) {
	add := func(path, name string, ports []uint32, labels bool, hosts []string, to []*api.RouteDestination) {
		if labels {
			c.problem(path, "a waypoint does not compare labels, addresses or gateways of connections: this match never holds")
			return
		}
		if len(ports) > 0 && !slices.Contains(ports, port) {
			return
		}
		out := &waypointapi.StreamRoute{Name: name, Hostnames: hosts}
		for i, d := range to {
			weight := uint32(max(0, d.GetWeight()))
			if len(to) == 1 {
				weight = max(1, weight)
			}
			out.Backends = append(out.Backends, c.destination(fmt.Sprintf("%s.route[%d].destination", path, i), d.GetDestination(), weight))
		}
		c.Streams = append(c.Streams, out)
	}
	portsOf := func(n uint32) []uint32 {
		if n == 0 {
			return nil
		}
		return []uint32{n}
	}
	for i, r := range v.Spec.GetTls() {
		path, name := fmt.Sprintf("spec.tls[%d]", i), fmt.Sprintf("VirtualService %s/%s tls[%d]", v.Namespace, v.Name, i)
		for _, m := range r.GetMatch() {
			odd := len(m.GetDestinationSubnets())+len(m.GetSourceLabels()) > 0 || m.GetSourceNamespace() != "" || len(m.GetGateways()) > 0 && !slices.Contains(m.GetGateways(), "mesh")
			add(path, name, portsOf(m.GetPort()), odd, m.GetSniHosts(), r.GetRoute())
		}
	}
	for i, r := range v.Spec.GetTcp() {
		path, name := fmt.Sprintf("spec.tcp[%d]", i), fmt.Sprintf("VirtualService %s/%s tcp[%d]", v.Namespace, v.Name, i)
		if len(r.GetMatch()) == 0 {
			add(path, name, nil, false, nil, r.GetRoute())
		}
		for _, m := range r.GetMatch() {
			odd := len(m.GetDestinationSubnets())+len(m.GetSourceLabels()) > 0 || m.GetSourceNamespace() != "" || m.GetSourceSubnet() != "" || len(m.GetGateways()) > 0 && !slices.Contains(m.GetGateways(), "mesh")
			add(path, name, portsOf(m.GetPort()), odd, nil, r.GetRoute())
		}
	}
}

// virtualRoute translates one route; nil when it is for other ports.
func (c *converter) virtualRoute(p part, port uint32) *waypointapi.Route {
	path, r := p.path, p.route
	out := &waypointapi.Route{Name: p.name}
	for i, m := range r.GetMatch() {
		if m.GetPort() != 0 && m.GetPort() != port || len(m.GetGateways()) > 0 && !slices.Contains(m.GetGateways(), "mesh") {
			continue
		}
		out.Matches = append(out.Matches, c.virtualMatch(fmt.Sprintf("%s.match[%d]", path, i), m))
	}
	if len(r.GetMatch()) > 0 && len(out.Matches) == 0 {
		return nil
	}
	out.Filters = c.virtualFilters(path, r)
	for i, d := range r.GetRoute() {
		weight := uint32(max(0, d.GetWeight()))
		if len(r.GetRoute()) == 1 {
			weight = max(1, weight) // the only one gets everything
		}
		b := c.destination(fmt.Sprintf("%s.route[%d].destination", path, i), d.GetDestination(), weight)
		b.Filters = headerFilters(d.GetHeaders())
		out.Backends = append(out.Backends, b)
	}
	if t := r.GetTimeout(); t != nil && t.AsDuration() > 0 {
		out.Timeout = t
	}
	out.Retry, out.TryTimeout = c.virtualRetry(path+".retries", r.GetRetries())
	if p.missing != "" {
		out.Filters = append(out.Filters, broken())
	}
	return out
}

// virtualMatch translates one match. What cannot be seen makes it match nothing.
func (c *converter) virtualMatch(path string, m *api.HTTPMatchRequest) *waypointapi.RouteMatch {
	out := &waypointapi.RouteMatch{Method: virtualText(m.GetMethod()), Scheme: virtualText(m.GetScheme())}
	if a := virtualText(m.GetAuthority()); a != nil {
		a.IgnoreCase = true
		out.Authority = a
	}
	switch u := m.GetUri().GetMatchType().(type) {
	case *api.StringMatch_Exact:
		out.Path = &waypointapi.Path{Kind: &waypointapi.Path_Exact{Exact: u.Exact}, IgnoreCase: m.GetIgnoreUriCase()}
	case *api.StringMatch_Prefix:
		out.Path = &waypointapi.Path{Kind: &waypointapi.Path_TextPrefix{TextPrefix: u.Prefix}, IgnoreCase: m.GetIgnoreUriCase()}
	case *api.StringMatch_Regex:
		out.Path = &waypointapi.Path{Kind: &waypointapi.Path_Regex{Regex: u.Regex}, IgnoreCase: m.GetIgnoreUriCase()}
	}
	for _, name := range slices.Sorted(maps.Keys(m.GetHeaders())) {
		out.Headers = append(out.Headers, &waypointapi.NamedMatch{Name: name, Value: presentText(m.GetHeaders()[name])})
	}
	for _, name := range slices.Sorted(maps.Keys(m.GetWithoutHeaders())) {
		value := presentText(m.GetWithoutHeaders()[name])
		value.Invert = true
		out.Headers = append(out.Headers, &waypointapi.NamedMatch{Name: name, Value: value})
	}
	for _, name := range slices.Sorted(maps.Keys(m.GetQueryParams())) {
		out.Query = append(out.Query, &waypointapi.NamedMatch{Name: name, Value: presentText(m.GetQueryParams()[name])})
	}
	if m.GetSourceNamespace() != "" {
		out.ClientNamespaces = []string{m.GetSourceNamespace()}
	}
	if len(m.GetSourceLabels()) > 0 {
		c.problem(path, "a waypoint does not see labels of clients: this match never holds; use principals in an AuthorizationPolicy, or a header")
		out.Method = &waypointapi.StringMatch{Kind: &waypointapi.StringMatch_Present{Present: true}, Invert: true}
	}
	return out
}

// virtualText translates a comparison; nil stays nil.
func virtualText(m *api.StringMatch) *waypointapi.StringMatch {
	switch k := m.GetMatchType().(type) {
	case *api.StringMatch_Exact:
		return exactly(k.Exact)
	case *api.StringMatch_Prefix:
		return &waypointapi.StringMatch{Kind: &waypointapi.StringMatch_Prefix{Prefix: k.Prefix}}
	case *api.StringMatch_Regex:
		return regex(k.Regex)
	}
	return nil
}

// presentText is a comparison; an empty one asks only that something is there.
func presentText(m *api.StringMatch) *waypointapi.StringMatch {
	if t := virtualText(m); t != nil {
		return t
	}
	return &waypointapi.StringMatch{Kind: &waypointapi.StringMatch_Present{Present: true}}
}

// destination translates a destination. Without a port the service has to have one
// only.
func (c *converter) destination(path string, d *api.Destination, weight uint32) *waypointapi.Backend {
	port := d.GetPort().GetNumber()
	found := c.resolve("host", "", c.namespace, d.GetHost(), port)
	b := &waypointapi.Backend{Service: found.Service, Port: port, Subset: d.GetSubset(), Weight: weight}
	if found.Problem != (Problem{}) {
		found.Problem.Path = path
		c.Unresolved = append(c.Unresolved, found.Problem)
		b.Broken = found.Problem.Text
	}
	return b
}

// virtualFilters translates what a route does beside choosing a destination, in the
// order in which it happens.
func (c *converter) virtualFilters(path string, r *api.HTTPRoute) []*waypointapi.Filter {
	var out []*waypointapi.Filter
	if r.GetCorsPolicy() != nil {
		out = append(out, &waypointapi.Filter{Kind: &waypointapi.Filter_Cors{Cors: c.virtualCors(path+".corsPolicy", r.GetCorsPolicy())}})
	}
	if r.GetFault() != nil {
		out = append(out, &waypointapi.Filter{Kind: &waypointapi.Filter_Fault{Fault: c.virtualFault(path+".fault", r.GetFault())}})
	}
	out = append(out, headerFilters(r.GetHeaders())...)
	if d := r.GetDirectResponse(); d != nil {
		body := d.GetBody().GetBytes()
		if s := d.GetBody().GetString_(); s != "" {
			body = []byte(s)
		}
		out = append(out, &waypointapi.Filter{Kind: &waypointapi.Filter_Answer{Answer: &waypointapi.DirectAnswer{Status: d.GetStatus(), Body: body}}})
	}
	if d := r.GetRedirect(); d != nil {
		redirect := &waypointapi.Redirect{Scheme: d.GetScheme(), Host: d.GetAuthority(), Port: d.GetPort(), Status: cmp.Or(d.GetRedirectCode(), 301)}
		if d.GetUri() != "" {
			redirect.Path = &waypointapi.PathChange{Kind: &waypointapi.PathChange_Full{Full: d.GetUri()}}
		}
		out = append(out, &waypointapi.Filter{Kind: &waypointapi.Filter_Redirect{Redirect: redirect}})
	}
	if w := r.GetRewrite(); w != nil {
		rewrite := &waypointapi.Rewrite{Host: w.GetAuthority()}
		switch {
		case w.GetUriRegexRewrite() != nil:
			rewrite.Path = &waypointapi.PathChange{Kind: &waypointapi.PathChange_Regex{Regex: &waypointapi.RegexChange{
				Match: w.GetUriRegexRewrite().GetMatch(), Substitution: w.GetUriRegexRewrite().GetRewrite(),
			}}}
		case w.GetUri() != "" && hasPrefix(r):
			rewrite.Path = &waypointapi.PathChange{Kind: &waypointapi.PathChange_Prefix{Prefix: w.GetUri()}}
		case w.GetUri() != "":
			rewrite.Path = &waypointapi.PathChange{Kind: &waypointapi.PathChange_Full{Full: w.GetUri()}}
		}
		out = append(out, &waypointapi.Filter{Kind: &waypointapi.Filter_Rewrite{Rewrite: rewrite}})
	}
	return append(out, c.virtualMirrors(path, r)...)
}

// hasPrefix reports whether a route asks for a prefix of the path.
func hasPrefix(r *api.HTTPRoute) bool {
	return slices.ContainsFunc(r.GetMatch(), func(m *api.HTTPMatchRequest) bool { return m.GetUri().GetPrefix() != "" })
}

// virtualMirrors translates copies.
func (c *converter) virtualMirrors(path string, r *api.HTTPRoute) []*waypointapi.Filter {
	type mirror struct {
		to    *api.Destination
		share uint32
	}
	var all []mirror
	if m := r.GetMirror(); m != nil {
		share := uint32(million)
		if p := r.GetMirrorPercentage(); p != nil {
			share = perMillion(p)
		} else if p := r.GetMirrorPercent(); p != nil {
			share = p.GetValue() * (million / 100)
		}
		all = append(all, mirror{m, share})
	}
	for _, m := range r.GetMirrors() {
		share := uint32(million)
		if m.GetPercentage() != nil {
			share = perMillion(m.GetPercentage())
		}
		all = append(all, mirror{m.GetDestination(), share})
	}
	var out []*waypointapi.Filter
	for i, m := range all {
		out = append(out, &waypointapi.Filter{Kind: &waypointapi.Filter_Mirror{Mirror: &waypointapi.Mirror{
			Backend: c.destination(fmt.Sprintf("%s.mirrors[%d].destination", path, i), m.to, 1), PerMillion: m.share,
		}}})
	}
	return out
}

// million is what shares of requests are given in.
const million = 1_000_000

// perMillion reads a percentage.
func perMillion(p *api.Percent) uint32 {
	return uint32(min(million, max(0, p.GetValue()*(million/100))))
}

// headerFilters translates changes of headers.
func headerFilters(h *api.Headers) []*waypointapi.Filter {
	change := func(o *api.Headers_HeaderOperations) *waypointapi.HeaderChange {
		out := &waypointapi.HeaderChange{Remove: o.GetRemove()}
		for _, name := range slices.Sorted(maps.Keys(o.GetSet())) {
			out.Set = append(out.Set, &waypointapi.Header{Name: name, Value: o.GetSet()[name]})
		}
		for _, name := range slices.Sorted(maps.Keys(o.GetAdd())) {
			out.Add = append(out.Add, &waypointapi.Header{Name: name, Value: o.GetAdd()[name]})
		}
		return out
	}
	var out []*waypointapi.Filter
	if h.GetRequest() != nil {
		out = append(out, &waypointapi.Filter{Kind: &waypointapi.Filter_RequestHeaders{RequestHeaders: change(h.GetRequest())}})
	}
	if h.GetResponse() != nil {
		out = append(out, &waypointapi.Filter{Kind: &waypointapi.Filter_ResponseHeaders{ResponseHeaders: change(h.GetResponse())}})
	}
	return out
}

// virtualCors translates CORS.
func (c *converter) virtualCors(path string, p *api.CorsPolicy) *waypointapi.Cors {
	out := &waypointapi.Cors{
		Methods: p.GetAllowMethods(), Headers: p.GetAllowHeaders(), Expose: p.GetExposeHeaders(), MaxAge: p.GetMaxAge(),
		Credentials: p.GetAllowCredentials().GetValue(), ForwardUnmatched: p.GetUnmatchedPreflights() != api.CorsPolicy_IGNORE,
	}
	for i, o := range p.GetAllowOrigins() {
		t := virtualText(o)
		if t == nil {
			c.problem(fmt.Sprintf("%s.allowOrigins[%d]", path, i), "compares with nothing")
			continue
		}
		if t.GetExact() == "*" {
			t = &waypointapi.StringMatch{Kind: &waypointapi.StringMatch_Present{Present: true}}
		}
		out.Origins = append(out.Origins, t)
	}
	for _, o := range p.GetAllowOrigin() {
		if o == "*" {
			out.Origins = append(out.Origins, &waypointapi.StringMatch{Kind: &waypointapi.StringMatch_Present{Present: true}})
		} else {
			out.Origins = append(out.Origins, exactly(o))
		}
	}
	return out
}

// virtualFault translates delays and errors on purpose.
func (c *converter) virtualFault(path string, f *api.HTTPFaultInjection) *waypointapi.Fault {
	out := &waypointapi.Fault{}
	if d := f.GetDelay(); d != nil {
		out.DelayPerMillion = share(d.GetPercentage(), d.GetPercent())
		if out.Delay = d.GetFixedDelay(); out.Delay == nil {
			c.problem(path+".delay", "want a fixedDelay")
		}
	}
	if a := f.GetAbort(); a != nil {
		out.AbortPerMillion = share(a.GetPercentage(), 0)
		switch k := a.GetErrorType().(type) {
		case *api.HTTPFaultInjection_Abort_HttpStatus:
			out.AbortStatus = uint32(k.HttpStatus)
		case *api.HTTPFaultInjection_Abort_GrpcStatus:
			code, ok := grpcCodes[strings.ToUpper(k.GrpcStatus)]
			if !ok {
				c.problem(path+".abort.grpcStatus", "%q is not known", k.GrpcStatus)
			}
			out.AbortStatus, out.AbortGrpcStatus = 200, wrapperspb.UInt32(code)
		default:
			c.problem(path+".abort", "want httpStatus or grpcStatus")
			out.AbortPerMillion = 0
		}
	}
	return out
}

// share is that of a fault: all requests unless it says otherwise.
func share(p *api.Percent, old int32) uint32 {
	switch {
	case p != nil:
		return perMillion(p)
	case old > 0:
		return uint32(old) * (million / 100)
	}
	return million
}

// grpcCodes are the statuses of gRPC by their names.
var grpcCodes = map[string]uint32{
	"OK": 0, "CANCELLED": 1, "UNKNOWN": 2, "INVALID_ARGUMENT": 3, "DEADLINE_EXCEEDED": 4, "NOT_FOUND": 5, "ALREADY_EXISTS": 6, "PERMISSION_DENIED": 7,
	"RESOURCE_EXHAUSTED": 8, "FAILED_PRECONDITION": 9, "ABORTED": 10, "OUT_OF_RANGE": 11, "UNIMPLEMENTED": 12, "INTERNAL": 13, "UNAVAILABLE": 14, "DATA_LOSS": 15, "UNAUTHENTICATED": 16,
}

// virtualRetry translates retries and the timeout of one try.
func (c *converter) virtualRetry(path string, r *api.HTTPRetry) (*waypointapi.Retry, *durationpb.Duration) {
	if r == nil || r.GetAttempts() <= 0 {
		return nil, nil
	}
	out := &waypointapi.Retry{Attempts: c.attempts(path+".attempts", int(r.GetAttempts())), Backoff: r.GetBackoff()}
	for word := range strings.SplitSeq(cmp.Or(r.GetRetryOn(), "connect-failure,refused-stream,unavailable,cancelled,503"), ",") {
		c.retryOn(path, strings.ToLower(strings.TrimSpace(word)), out)
	}
	try := r.GetPerTryTimeout()
	if try.AsDuration() == 0*time.Second {
		try = nil
	}
	return out, try
}

// retryOn takes one condition.
func (c *converter) retryOn(path, word string, out *waypointapi.Retry) {
	switch word {
	case "":
	case "5xx":
		out.ServerError, out.Reset_, out.ConnectFailure = true, true, true
	case "gateway-error":
		out.GatewayError, out.Reset_, out.ConnectFailure = true, true, true
	case "reset", "reset-before-request", "http3-post-connect-failure":
		out.Reset_ = true
	case "connect-failure", "refused-stream":
		out.ConnectFailure = true
	case "retriable-4xx":
		out.Statuses = append(out.Statuses, 409)
	case "retriable-status-codes", "retriable-headers", "envoy-ratelimited":
	case "cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable":
		out.GrpcStatuses = append(out.GrpcStatuses, grpcCodes[strings.ToUpper(strings.ReplaceAll(word, "-", "_"))])
	default:
		var status uint32
		if _, err := fmt.Sscanf(word, "%d", &status); err != nil || status < 100 || status > 599 {
			c.problem(path+".retryOn", "%q is not known", word)
			return
		}
		out.Statuses = append(out.Statuses, status)
	}
}
