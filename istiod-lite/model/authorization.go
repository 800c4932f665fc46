package model

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"istio.io/api/annotation"
	api "istio.io/api/security/v1beta1"
	typeapi "istio.io/api/type/v1beta1"
	security "istio.io/client-go/pkg/apis/security/v1"

	"github.com/ambit-mesh/ambit/internal/meshapi/securityapi"
)

// fromPolicy is what ztunnel enforces of an AuthorizationPolicy. What it cannot
// enforce never makes a policy more permissive: rules of ALLOW policies that need
// HTTP are left out, DENY policies deny without looking at HTTP.
func (m *Model) fromPolicy(p *security.AuthorizationPolicy) ([]*Resource, []Condition) {
	dryRun, err := dryRunOf(p)
	if err != nil {
		return nil, []Condition{notAccepted("annotation %s: %v", annotation.IoIstioDryRun.Name, err)}
	}
	whole, bad := m.waypointPolicy(p, dryRun)
	if hasTargets(&p.Spec) {
		return []*Resource{whole}, []Condition{m.targetCondition(p, bad)}
	}
	resources, conditions := m.fromPolicyBelow(p, dryRun)
	if near := m.waypointsNear(p.Namespace); len(near) > 0 {
		conditions = append(conditions, m.waypointCondition(p, bad, "enforced by "+strings.Join(near, ", ")+" for what is bound there"))
	}
	return append(resources, whole), conditions
}

// fromPolicyBelow is the part of a policy that node proxies enforce.
func (m *Model) fromPolicyBelow(p *security.AuthorizationPolicy, dryRun bool) ([]*Resource, []Condition) {
	switch {
	case dryRun && !m.cfg.DryRun:
		return nil, []Condition{notAccepted("not sent: dry-run policies are switched off, because proxies that do not know them would enforce them")}
	case p.Spec.Action == api.AuthorizationPolicy_AUDIT && len(m.waypointsNear(p.Namespace)) > 0:
		return nil, []Condition{notAccepted("only waypoints note what it matches; it decides nothing, and who comes around them is not noted")}
	case p.Spec.Action == api.AuthorizationPolicy_CUSTOM && len(m.waypointsNear(p.Namespace)) > 0:
		return m.customBelow(p, dryRun)
	case p.Spec.Action != api.AuthorizationPolicy_ALLOW && p.Spec.Action != api.AuthorizationPolicy_DENY:
		return nil, []Condition{notAccepted("action %v: ztunnel knows only ALLOW and DENY", p.Spec.Action)}
	}
	a := &securityapi.Authorization{Name: p.Name, Namespace: p.Namespace, DryRun: dryRun, Scope: m.scopeOf(p.Namespace, p.Spec.Selector)}
	if p.Spec.Action == api.AuthorizationPolicy_DENY {
		a.Action = securityapi.Action_DENY
	}
	c := converter{namespace: p.Namespace, deny: a.Action == securityapi.Action_DENY, http: map[string]bool{}, waypoints: m.waypointsNear(p.Namespace)}
	for i, rule := range p.Spec.Rules {
		if r := c.rule(fmt.Sprintf("spec.rules[%d]", i), rule); r != nil {
			a.Rules = append(a.Rules, r)
		}
	}
	condition := c.condition(a)
	m.letWaypointsPass(a)
	return []*Resource{authorizationResource(a)}, []Condition{condition}
}

// customBelow is what node proxies make of a policy whose provider waypoints ask: who
// comes around the waypoint, and may be meant, is refused, as nobody would ask about
// it. What a rule asks of HTTP is then unknown, and counts as if it held.
func (m *Model) customBelow(p *security.AuthorizationPolicy, dryRun bool) ([]*Resource, []Condition) {
	a := &securityapi.Authorization{
		Name: p.Name, Namespace: p.Namespace, DryRun: dryRun, Scope: m.scopeOf(p.Namespace, p.Spec.Selector), Action: securityapi.Action_DENY,
	}
	c := converter{namespace: p.Namespace, deny: true, http: map[string]bool{}}
	for i, rule := range p.Spec.Rules {
		r := c.rule(fmt.Sprintf("spec.rules[%d]", i), rule)
		r.Clauses = slices.DeleteFunc(r.Clauses, func(clause *securityapi.Clause) bool {
			return slices.ContainsFunc(clause.Matches, func(x *securityapi.Match) bool { return proto.Size(x) == 0 })
		})
		a.Rules = append(a.Rules, r)
	}
	m.letWaypointsPass(a)
	return []*Resource{authorizationResource(a)}, []Condition{{Type: ConditionZtunnel, True: true, Reason: ReasonAccepted,
		Message: "only waypoints ask its provider: who comes around them, and may be meant, is refused"}}
}

// targetCondition says what becomes of a policy that is attached to objects by
// name.
func (m *Model) targetCondition(p *security.AuthorizationPolicy, bad []string) Condition {
	if c := m.unserved(m.policyTargets(p), "use a selector for rules on identities, addresses and ports"); c != nil {
		return *c
	}
	return m.waypointCondition(p, bad, "")
}

// waypointCondition says what waypoints make of a policy that they have; where says
// which they are.
func (m *Model) waypointCondition(p *security.AuthorizationPolicy, bad []string, where string) Condition {
	if len(bad) > 0 {
		return Condition{Type: ConditionWaypoint, Reason: ReasonPartlyInvalid, Message: "rules that could not be read are left out: " + strings.Join(bad, "; ")}
	}
	if p.Spec.Action == api.AuthorizationPolicy_CUSTOM {
		if why := m.unknownProvider(p.Spec.GetProvider().GetName()); why != "" {
			return Condition{Type: ConditionWaypoint, Reason: ReasonUnsupported, Message: "requests that match are refused: " + why}
		}
	}
	return Condition{Type: ConditionWaypoint, True: true, Reason: ReasonAccepted, Message: where}
}

// unserved says why what is attached to targets has no effect; nil when it has.
func (m *Model) unserved(targets []Key, instead string) *Condition {
	served := false
	for _, t := range targets {
		served = served || m.isServed(t)
	}
	switch {
	case len(targets) == 0:
		return &Condition{Type: ConditionWaypoint, Reason: ReasonTargetNotFound,
			Message: "no targetRef names a Service, ServiceEntry or Gateway of the policy's namespace, or, in the root namespace, a GatewayClass"}
	case !served:
		return &Condition{Type: ConditionWaypoint, Reason: ReasonNotBound,
			Message: "no target is bound to a waypoint, and a policy with targetRefs is enforced nowhere else; " + instead}
	}
	return nil
}

// isServed reports whether a target of policies stands, and has a waypoint if it
// needs one.
func (m *Model) isServed(target Key) bool {
	if target.Kind == KindGatewayClass {
		return true
	}
	s := m.spaces[target.Namespace]
	if s == nil {
		return false
	}
	switch target.Kind {
	case KindGateway:
		return s.gateways[target.Name] != nil
	case KindService:
		if o := s.services[target.Name]; o != nil {
			_, ok := m.boundTo(&o.ObjectMeta)
			return ok
		}
	case KindServiceEntry:
		if o := s.serviceEntries[target.Name]; o != nil {
			_, ok := m.boundTo(&o.ObjectMeta)
			return ok
		}
	}
	return false
}

// notAccepted says why a policy is not enforced.
func notAccepted(format string, args ...any) Condition {
	return Condition{Type: ConditionZtunnel, Reason: ReasonUnsupported, Message: fmt.Sprintf(format, args...)}
}

// hasTargets reports whether a policy is attached to objects by name.
func hasTargets(spec attachable) bool {
	return spec.GetTargetRef() != nil || len(spec.GetTargetRefs()) > 0
}

// dryRunOf reads the dry-run annotation.
func dryRunOf(p *security.AuthorizationPolicy) (bool, error) {
	text := p.Annotations[annotation.IoIstioDryRun.Name]
	if text == "" {
		return false, nil
	}
	value, err := strconv.ParseBool(text)
	if err != nil {
		return false, fmt.Errorf("want true or false, not %q", text)
	}
	return value, nil
}

// scopeOf is to which workloads a policy applies.
func (m *Model) scopeOf(namespace string, selector *typeapi.WorkloadSelector) securityapi.Scope {
	switch {
	case selector != nil:
		return securityapi.Scope_WORKLOAD_SELECTOR
	case namespace == m.cfg.RootNamespace:
		return securityapi.Scope_GLOBAL
	}
	return securityapi.Scope_NAMESPACE
}

// policiesFor are the names of the policies that select a workload: those of its
// namespace and of the root namespace, and the one of its PeerAuthentication.
func (m *Model) policiesFor(namespace string, labels map[string]string) []string {
	var names []string
	levels := []string{namespace}
	if namespace != m.cfg.RootNamespace {
		levels = append(levels, m.cfg.RootNamespace)
	}
	for _, level := range levels {
		s := m.spaces[level]
		if s == nil {
			continue
		}
		for name, p := range s.policies {
			if p.Spec.Selector != nil && m.isSent(p) && selects(p.Spec.Selector.GetMatchLabels(), labels) {
				names = append(names, level+"/"+name)
			}
		}
	}
	slices.Sort(names)
	if peer := m.peerPolicyFor(namespace, labels); peer != "" {
		names = append(names, peer)
	}
	return names
}

// isSent reports whether [Model.fromPolicy] makes a resource: a workload must not
// name a policy that never comes.
func (m *Model) isSent(p *security.AuthorizationPolicy) bool {
	dryRun, err := dryRunOf(p)
	if err != nil || dryRun && !m.cfg.DryRun || hasTargets(&p.Spec) {
		return false
	}
	return p.Spec.Action == api.AuthorizationPolicy_ALLOW || p.Spec.Action == api.AuthorizationPolicy_DENY ||
		p.Spec.Action == api.AuthorizationPolicy_CUSTOM && len(m.waypointsNear(p.Namespace)) > 0
}

// converter translates the rules of one policy.
type converter struct {
	namespace string
	deny      bool
	http      map[string]bool // attributes that only a waypoint can see
	waypoints []string        // principals of those that serve workloads of the policy
	bad       []string        // values that were left out, and why
}

// rule translates one rule; nil when it is left out.
func (c *converter) rule(path string, rule *api.Rule) *securityapi.Rule {
	r := &securityapi.Rule{}
	needsHTTP, bad := false, len(c.bad)
	if len(rule.GetTo()) > 0 {
		clause := &securityapi.Clause{}
		for i, to := range rule.To {
			needsHTTP = c.needHTTP(httpOfOperation(to.GetOperation())) || needsHTTP
			clause.Matches = append(clause.Matches, c.operation(fmt.Sprintf("%s.to[%d].operation", path, i), to.GetOperation()))
		}
		r.Clauses = append(r.Clauses, clause)
	}
	if len(rule.GetFrom()) > 0 {
		clause := &securityapi.Clause{}
		for i, from := range rule.From {
			needsHTTP = c.needHTTP(httpOfSource(from.GetSource())) || needsHTTP
			clause.Matches = append(clause.Matches, c.source(fmt.Sprintf("%s.from[%d].source", path, i), from.GetSource()))
		}
		r.Clauses = append(r.Clauses, clause)
	}
	for i, when := range rule.GetWhen() {
		match, ok := c.when(fmt.Sprintf("%s.when[%d]", path, i), when)
		if !ok {
			needsHTTP = c.needHTTP([]string{when.GetKey()}) || needsHTTP
		}
		r.Clauses = append(r.Clauses, &securityapi.Clause{Matches: []*securityapi.Match{match}})
	}
	if !c.deny && (needsHTTP || len(c.bad) > bad) {
		return nil // without what was left out it would allow more
	}
	return r
}

// needHTTP notes attributes and reports whether there are any.
func (c *converter) needHTTP(attributes []string) bool {
	for _, a := range attributes {
		c.http[a] = true
	}
	return len(attributes) > 0
}

// operation translates what a connection is for.
func (c *converter) operation(path string, o *api.Operation) *securityapi.Match {
	return &securityapi.Match{
		DestinationPorts:    c.ports(path+".ports", o.GetPorts()),
		NotDestinationPorts: c.ports(path+".notPorts", o.GetNotPorts()),
	}
}

// source translates who asks.
func (c *converter) source(path string, s *api.Source) *securityapi.Match {
	return &securityapi.Match{
		SourceIps:          c.prefixes(path+".ipBlocks", s.GetIpBlocks()),
		NotSourceIps:       c.prefixes(path+".notIpBlocks", s.GetNotIpBlocks()),
		Namespaces:         stringMatches(s.GetNamespaces()),
		NotNamespaces:      stringMatches(s.GetNotNamespaces()),
		Principals:         stringMatches(s.GetPrincipals()),
		NotPrincipals:      stringMatches(s.GetNotPrincipals()),
		ServiceAccounts:    c.accounts(s.GetServiceAccounts()),
		NotServiceAccounts: c.accounts(s.GetNotServiceAccounts()),
	}
}

// when translates a condition. ok is false when its key is one of HTTP's; the
// match is then empty, which proxies never take for true.
func (c *converter) when(path string, w *api.Condition) (match *securityapi.Match, ok bool) {
	values, not := w.GetValues(), w.GetNotValues()
	switch w.GetKey() {
	case "source.ip":
		return &securityapi.Match{SourceIps: c.prefixes(path+".values", values), NotSourceIps: c.prefixes(path+".notValues", not)}, true
	case "source.namespace":
		return &securityapi.Match{Namespaces: stringMatches(values), NotNamespaces: stringMatches(not)}, true
	case "source.principal":
		return &securityapi.Match{Principals: stringMatches(values), NotPrincipals: stringMatches(not)}, true
	case "destination.ip":
		return &securityapi.Match{DestinationIps: c.prefixes(path+".values", values), NotDestinationIps: c.prefixes(path+".notValues", not)}, true
	case "destination.port":
		return &securityapi.Match{DestinationPorts: c.ports(path+".values", values), NotDestinationPorts: c.ports(path+".notValues", not)}, true
	}
	return &securityapi.Match{}, false
}

// httpOfOperation are the attributes that need a waypoint.
func httpOfOperation(o *api.Operation) []string {
	return named(map[string][]string{
		"hosts": o.GetHosts(), "notHosts": o.GetNotHosts(),
		"methods": o.GetMethods(), "notMethods": o.GetNotMethods(),
		"paths": o.GetPaths(), "notPaths": o.GetNotPaths(),
	})
}

// httpOfSource are the attributes that need a waypoint.
func httpOfSource(s *api.Source) []string {
	return named(map[string][]string{
		"remoteIpBlocks": s.GetRemoteIpBlocks(), "notRemoteIpBlocks": s.GetNotRemoteIpBlocks(),
		"requestPrincipals": s.GetRequestPrincipals(), "notRequestPrincipals": s.GetNotRequestPrincipals(),
	})
}

// named are the names of the lists that hold something.
func named(lists map[string][]string) []string {
	maps.DeleteFunc(lists, func(_ string, list []string) bool { return len(list) == 0 })
	return slices.Sorted(maps.Keys(lists))
}

// ports reads port numbers.
func (c *converter) ports(path string, texts []string) []uint32 {
	var ports []uint32
	for i, text := range texts {
		port, err := parsePort(text)
		if err != nil {
			c.bad = append(c.bad, fmt.Sprintf("%s[%d]: %v", path, i, err))
			continue
		}
		ports = append(ports, uint32(port))
	}
	return ports
}

// parsePort reads a port from 1 to 65535.
func parsePort(text string) (uint16, error) {
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return 0, fmt.Errorf("want a port from 1 to 65535, not %q", text)
	}
	return uint16(port), nil
}

// prefixes reads addresses and prefixes.
func (c *converter) prefixes(path string, texts []string) []*securityapi.Address {
	var all []*securityapi.Address
	for i, text := range texts {
		prefix, err := parsePrefix(text)
		if err != nil {
			c.bad = append(c.bad, fmt.Sprintf("%s[%d]: %v", path, i, err))
			continue
		}
		all = append(all, &securityapi.Address{Address: prefix.Addr().AsSlice(), Length: uint32(prefix.Bits())})
	}
	return all
}

// parsePrefix reads a prefix, or an address, which is a prefix of full length.
func parsePrefix(text string) (netip.Prefix, error) {
	if prefix, err := netip.ParsePrefix(text); err == nil {
		return prefix, nil
	}
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" {
		return netip.Prefix{}, fmt.Errorf("want an address or a prefix such as 10.0.0.0/8, not %q", text)
	}
	return netip.PrefixFrom(addr, addr.BitLen()), nil
}

// stringMatches reads values with a star at one end, or alone.
func stringMatches(texts []string) []*securityapi.StringMatch {
	var all []*securityapi.StringMatch
	for _, text := range texts {
		m := &securityapi.StringMatch{}
		switch {
		case text == "*":
			m.MatchType = &securityapi.StringMatch_Presence{Presence: &emptypb.Empty{}}
		case strings.HasPrefix(text, "*"):
			m.MatchType = &securityapi.StringMatch_Suffix{Suffix: text[1:]}
		case strings.HasSuffix(text, "*"):
			m.MatchType = &securityapi.StringMatch_Prefix{Prefix: text[:len(text)-1]}
		default:
			m.MatchType = &securityapi.StringMatch_Exact{Exact: text}
		}
		all = append(all, m)
	}
	return all
}

// accounts reads namespace/name, or a name in the policy's namespace.
func (c *converter) accounts(texts []string) []*securityapi.ServiceAccountMatch {
	var all []*securityapi.ServiceAccountMatch
	for _, text := range texts {
		namespace, name, found := strings.Cut(text, "/")
		if !found {
			namespace, name = c.namespace, text
		}
		all = append(all, &securityapi.ServiceAccountMatch{Namespace: namespace, ServiceAccount: name})
	}
	return all
}

// condition is what the author should know about the outcome.
func (c *converter) condition(a *securityapi.Authorization) Condition {
	result := Condition{Type: ConditionZtunnel, True: true, Reason: ReasonAccepted}
	var notes []string
	if len(c.http) > 0 && len(c.waypoints) > 0 {
		notes = append(notes, "what asks for "+strings.Join(slices.Sorted(maps.Keys(c.http)), ", ")+" is enforced by "+strings.Join(c.waypoints, ", ")+
			" for what is bound there; who calls a workload around a waypoint gets only what the other rules give")
	} else if len(c.http) > 0 {
		result.Reason = ReasonUnsupported
		found := strings.Join(slices.Sorted(maps.Keys(c.http)), ", ")
		switch {
		case c.deny && !canMatch(a):
			notes = append(notes, "only a waypoint can see "+found+", and nothing else is left: this DENY policy has no effect. Attach it to a waypoint with targetRefs")
		case c.deny:
			notes = append(notes, "only a waypoint can see "+found+": ztunnel denies without looking at it, which is more than was asked for")
		case len(a.Rules) == 0:
			notes = append(notes, "only a waypoint can see "+found+": rules that ask for it are left out. No rule is left, so nobody gets in")
		default:
			notes = append(notes, "only a waypoint can see "+found+": rules that ask for it are left out, and who needs them does not get in")
		}
	}
	if len(c.bad) > 0 {
		result.Reason = ReasonUnsupported
		what := "what could not be read is left out: "
		if !c.deny {
			what = "rules that could not be read are left out: "
		}
		notes = append(notes, what+strings.Join(c.bad, "; "))
	}
	result.Message = strings.Join(notes, ". ")
	return result
}

// canMatch reports whether any rule can ever match: a rule matches when all its
// clauses do, and a clause of empty matches never does.
func canMatch(a *securityapi.Authorization) bool {
	return slices.ContainsFunc(a.Rules, func(r *securityapi.Rule) bool {
		return !slices.ContainsFunc(r.Clauses, func(c *securityapi.Clause) bool {
			return len(c.Matches) > 0 && !slices.ContainsFunc(c.Matches, func(m *securityapi.Match) bool { return !isEmptyMatch(m) })
		})
	})
}

// isEmptyMatch reports whether a match has no attribute.
func isEmptyMatch(m *securityapi.Match) bool {
	return len(m.Namespaces)+len(m.NotNamespaces)+len(m.Principals)+len(m.NotPrincipals)+
		len(m.SourceIps)+len(m.NotSourceIps)+len(m.DestinationIps)+len(m.NotDestinationIps)+
		len(m.DestinationPorts)+len(m.NotDestinationPorts)+len(m.ServiceAccounts)+len(m.NotServiceAccounts) == 0
}
