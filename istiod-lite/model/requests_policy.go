package model

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	api "istio.io/api/security/v1beta1"
	security "istio.io/client-go/pkg/apis/security/v1"

	"github.com/ambit-mesh/ambit/internal/meshapi/securityapi"
	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
)

// waypointPolicy is a policy as waypoints enforce it: all of it. What cannot be
// read never makes it more permissive.
func (m *Model) waypointPolicy(p *security.AuthorizationPolicy, dryRun bool) (*Resource, []string) {
	a := &waypointapi.Authorization{
		Name: p.Name, Namespace: p.Namespace, Scope: m.scopeOf(p.Namespace, p.Spec.Selector), Attached: hasTargets(&p.Spec), DryRun: dryRun,
		Provider: p.Spec.GetProvider().GetName(),
	}
	restrictive := true
	switch p.Spec.Action {
	case api.AuthorizationPolicy_ALLOW:
		a.Action, restrictive = waypointapi.Action_ALLOW, false
	case api.AuthorizationPolicy_DENY:
		a.Action = waypointapi.Action_DENY
	case api.AuthorizationPolicy_AUDIT:
		a.Action = waypointapi.Action_AUDIT
	default:
		a.Action = waypointapi.Action_CUSTOM
	}
	c := &requestConverter{converter: converter{namespace: p.Namespace, deny: restrictive, http: map[string]bool{}}}
	for i, rule := range p.Spec.Rules {
		bad := len(c.bad)
		r := c.rule(fmt.Sprintf("spec.rules[%d]", i), rule)
		if len(c.bad) > bad && !restrictive {
			continue // without what was left out it would allow more
		}
		a.Rules = append(a.Rules, r)
	}
	return waypointResource(TypeWaypointAuthorization, WaypointAuthorizationURL, p.Namespace+"/"+p.Name, a,
		rulesOf(a.Namespace, a.Scope, a.Attached), needsOfPolicy(a)), c.bad
}

// requestConverter translates the rules of one policy with all that they ask for.
type requestConverter struct{ converter }

// rule translates one rule.
func (c *requestConverter) rule(path string, rule *api.Rule) *waypointapi.Rule {
	r := &waypointapi.Rule{}
	add := func(matches []*waypointapi.Match) {
		if len(matches) > 0 {
			r.Clauses = append(r.Clauses, &waypointapi.Clause{Matches: matches})
		}
	}
	var to, from []*waypointapi.Match
	for i, t := range rule.GetTo() {
		at := fmt.Sprintf("%s.to[%d].operation", path, i)
		to = append(to, &waypointapi.Match{Connection: c.operation(at, t.GetOperation()), Request: c.request(at, t.GetOperation())})
	}
	add(to)
	for i, f := range rule.GetFrom() {
		at := fmt.Sprintf("%s.from[%d].source", path, i)
		s := f.GetSource()
		from = append(from, &waypointapi.Match{Connection: c.source(at, s), Request: &waypointapi.RequestMatch{
			RequestPrincipals: texts(s.GetRequestPrincipals()), NotRequestPrincipals: texts(s.GetNotRequestPrincipals()),
			RemoteIps: c.prefixes(at+".remoteIpBlocks", s.GetRemoteIpBlocks()), NotRemoteIps: c.prefixes(at+".notRemoteIpBlocks", s.GetNotRemoteIpBlocks()),
		}})
	}
	add(from)
	for i, w := range rule.GetWhen() {
		add([]*waypointapi.Match{c.condition(fmt.Sprintf("%s.when[%d]", path, i), w)})
	}
	return r
}

// request translates what a request is for.
func (c *requestConverter) request(path string, o *api.Operation) *waypointapi.RequestMatch {
	return &waypointapi.RequestMatch{
		Methods: texts(o.GetMethods()), NotMethods: texts(o.GetNotMethods()),
		Hosts: hosts(o.GetHosts()), NotHosts: hosts(o.GetNotHosts()),
		Paths: c.paths(path+".paths", o.GetPaths()), NotPaths: c.paths(path+".notPaths", o.GetNotPaths()),
	}
}

// condition translates one condition.
func (c *requestConverter) condition(path string, w *api.Condition) *waypointapi.Match {
	if m, ok := c.when(path, w); ok {
		return &waypointapi.Match{Connection: m}
	}
	r := &waypointapi.RequestMatch{}
	yes, not := texts(w.GetValues()), texts(w.GetNotValues())
	key := w.GetKey()
	switch {
	case key == "remote.ip":
		r.RemoteIps, r.NotRemoteIps = c.prefixes(path+".values", w.GetValues()), c.prefixes(path+".notValues", w.GetNotValues())
	case key == "request.auth.principal":
		r.RequestPrincipals, r.NotRequestPrincipals = yes, not
	case key == "request.auth.audiences":
		r.Audiences, r.NotAudiences = yes, not
	case key == "request.auth.presenter":
		r.Presenters, r.NotPresenters = yes, not
	case strings.HasPrefix(key, "request.headers["):
		r.Header, r.HeaderValues, r.NotHeaderValues = strings.Trim(strings.TrimPrefix(key, "request.headers"), "[]"), yes, not
	case strings.HasPrefix(key, "request.auth.claims["):
		r.Claim, r.ClaimValues, r.NotClaimValues = brackets(strings.TrimPrefix(key, "request.auth.claims")), yes, not
	default:
		c.bad = append(c.bad, fmt.Sprintf("%s.key: %q cannot be seen by a waypoint", path, key))
	}
	return &waypointapi.Match{Request: r}
}

// brackets are the names in [a][b].
func brackets(text string) []string {
	var names []string
	for part := range strings.SplitSeq(text, "]") {
		if name, ok := strings.CutPrefix(part, "["); ok && name != "" {
			names = append(names, name)
		}
	}
	return names
}

// texts reads values with a star at one end, or alone, which means any value.
func texts(values []string) []*waypointapi.StringMatch {
	var all []*waypointapi.StringMatch
	for _, v := range values {
		all = append(all, text(v))
	}
	return all
}

// text reads one value.
func text(v string) *waypointapi.StringMatch {
	switch {
	case v == "*":
		return &waypointapi.StringMatch{Kind: &waypointapi.StringMatch_Present{Present: true}}
	case strings.HasPrefix(v, "*"):
		return &waypointapi.StringMatch{Kind: &waypointapi.StringMatch_Suffix{Suffix: v[1:]}}
	case strings.HasSuffix(v, "*"):
		return &waypointapi.StringMatch{Kind: &waypointapi.StringMatch_Prefix{Prefix: v[:len(v)-1]}}
	}
	return &waypointapi.StringMatch{Kind: &waypointapi.StringMatch_Exact{Exact: v}}
}

// hosts reads names of hosts, in which case does not count.
func hosts(values []string) []*waypointapi.StringMatch {
	all := texts(values)
	for _, t := range all {
		t.IgnoreCase = true
	}
	return all
}

// paths reads paths: a star alone, at one end, or as one segment; {*} and {**} are
// segments too. Another star would be compared as a star.
func (c *requestConverter) paths(path string, values []string) []*waypointapi.PathPattern {
	var all []*waypointapi.PathPattern
	for i, v := range values {
		p, err := pathPattern(v)
		if err != nil {
			c.bad = append(c.bad, fmt.Sprintf("%s[%d]: %v", path, i, err))
			continue
		}
		all = append(all, p)
	}
	return all
}

// pathPattern reads one path.
func pathPattern(v string) (*waypointapi.PathPattern, error) {
	template := strings.Contains(v, "{*}") || strings.Contains(v, "{**}")
	inner := v != "*" && strings.Contains(strings.TrimSuffix(strings.TrimPrefix(v, "*"), "*"), "*")
	if !template && !inner {
		return &waypointapi.PathPattern{Kind: &waypointapi.PathPattern_Text{Text: text(v)}}, nil
	}
	rest, ok := strings.CutPrefix(v, "/")
	if !ok {
		return nil, fmt.Errorf("want a path that begins with a slash, not %q", v)
	}
	var segments []string
	for s := range strings.SplitSeq(rest, "/") {
		switch {
		case s == "*" || s == "{*}":
			s = "*"
		case s == "{**}":
			s = "**"
		case strings.ContainsAny(s, "*{}"):
			return nil, fmt.Errorf("want a star as a whole segment, or at one end of the path, not %q", v)
		}
		segments = append(segments, s)
	}
	if n := slices.Index(segments, "**"); n >= 0 && slices.Contains(segments[n+1:], "**") {
		return nil, fmt.Errorf("want {**} once, not %q", v)
	}
	return &waypointapi.PathPattern{Kind: &waypointapi.PathPattern_Segments{Segments: &waypointapi.Segments{Segments: segments}}}, nil
}

// waypointsNear are the principals of the waypoints that serve anything in a
// namespace; of the root namespace, those of the mesh.
func (m *Model) waypointsNear(namespace string) []string {
	found := map[string]bool{}
	near := func(b bound, ok bool) {
		if ok {
			for _, g := range b.waypoints() {
				found[m.waypointAccount(g)] = true
			}
		}
	}
	for _, ns := range m.reach(namespace) {
		s := m.spaces[ns]
		if s == nil {
			continue
		}
		if s.namespace != nil {
			near(boundBy(s.namespace, ns))
		}
		for _, service := range s.services {
			near(boundBy(service, ns))
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// letWaypointsPass changes the form of a policy that node proxies enforce so that
// it says nothing against waypoints: these ask the same policy about the client
// itself, whom a node proxy behind them cannot see.
func (m *Model) letWaypointsPass(a *securityapi.Authorization) {
	waypoints := m.waypointsNear(a.Namespace)
	if len(waypoints) == 0 {
		return
	}
	var principals []*securityapi.StringMatch
	for _, w := range waypoints {
		principals = append(principals, exactPrincipal(w))
	}
	if a.Action == securityapi.Action_ALLOW {
		a.Rules = append(a.Rules, &securityapi.Rule{Clauses: []*securityapi.Clause{{Matches: []*securityapi.Match{{Principals: principals}}}}})
		return
	}
	for _, r := range a.Rules {
		r.Clauses = append(r.Clauses, &securityapi.Clause{Matches: []*securityapi.Match{{NotPrincipals: principals}}})
	}
}

// markPolicies marks the policies that apply in a namespace: which waypoints they
// let pass may have changed.
func (m *Model) markPolicies(namespace string, d dirty) {
	for _, level := range []string{namespace, m.cfg.RootNamespace} {
		if s := m.spaces[level]; s != nil {
			for name, p := range s.policies {
				d.add(Key{KindAuthorizationPolicy, level, name})
				if p.Spec.Action == api.AuthorizationPolicy_CUSTOM && p.Spec.Selector != nil { // sent only where waypoints are
					for _, ns := range m.reach(level) {
						m.markSelected(ns, p.Spec.Selector.GetMatchLabels(), false, d)
					}
				}
			}
			for name := range s.tokens {
				d.add(Key{KindRequestAuthentication, level, name})
			}
		}
	}
}
