package filter

import (
	"fmt"
	"slices"

	"github.com/ambit-mesh/ambit/internal/meshapi/securityapi"
	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/internal/policy"
)

// Policy is one compiled policy. It never changes.
type Policy struct {
	name      string
	namespace string
	scope     securityapi.Scope
	attached  bool
	action    waypointapi.Action
	dryRun    bool
	provider  string
	rules     []rule
}

// rule matches when all its clauses do.
type rule []clause

// clause matches when any of its matches does. One whose matches were all empty
// is kept without any and never matches.
type clause []conjunction

// conjunction holds when both sides do.
type conjunction struct {
	conn    policy.ConnMatch
	request *requestMatch // nil: nothing is asked for
}

// CompilePolicy checks a policy as the control plane sent it and makes it ready.
func CompilePolicy(a *waypointapi.Authorization) (*Policy, error) {
	p := &Policy{
		name: a.GetNamespace() + "/" + a.GetName(), namespace: a.GetNamespace(), scope: a.GetScope(), attached: a.GetAttached(),
		action: a.GetAction(), dryRun: a.GetDryRun(), provider: a.GetProvider(),
	}
	if a.GetName() == "" {
		return nil, fmt.Errorf("policy in namespace %q has no name", a.GetNamespace())
	}
	if _, known := waypointapi.Action_name[int32(p.action)]; !known {
		return nil, fmt.Errorf("policy %s: action %d is not known", p.name, p.action)
	}
	if _, known := securityapi.Scope_name[int32(p.scope)]; !known {
		return nil, fmt.Errorf("policy %s: scope %d is not known", p.name, p.scope)
	}
	for i, r := range a.GetRules() {
		compiled := rule{}
		for j, c := range r.GetClauses() {
			if len(c.GetMatches()) == 0 {
				continue
			}
			one, err := compileClause(c)
			if err != nil {
				return nil, fmt.Errorf("policy %s, rule %d, clause %d: %w", p.name, i, j, err)
			}
			compiled = append(compiled, one)
		}
		p.rules = append(p.rules, compiled)
	}
	return p, nil
}

// compileClause leaves out matches that ask for nothing.
func compileClause(c *waypointapi.Clause) (clause, error) {
	out := clause{}
	for k, m := range c.GetMatches() {
		request, err := compileRequest(m.GetRequest())
		if err != nil {
			return nil, fmt.Errorf("match %d: %w", k, err)
		}
		one := conjunction{conn: policy.CompileMatch(m.GetConnection())}
		if request.asks() {
			one.request = request
		}
		if one.request != nil || !one.conn.Empty() {
			out = append(out, one)
		}
	}
	return out, nil
}

// Name is "namespace/name".
func (p *Policy) Name() string { return p.name }

// Namespace is where the policy lives.
func (p *Policy) Namespace() string { return p.namespace }

// Scope says to which workloads the policy applies; it counts unless Attached.
func (p *Policy) Scope() securityapi.Scope { return p.scope }

// Attached reports whether the policy applies only where a service names it.
func (p *Policy) Attached() bool { return p.attached }

// restrictive reports whether a match keeps requests out.
func (p *Policy) restrictive() bool {
	return p.action == waypointapi.Action_DENY || p.action == waypointapi.Action_CUSTOM
}

// matches reports whether all clauses of a rule do.
func (r rule) matches(s *Subject, path string, restrictive bool) bool {
	for _, c := range r {
		if !c.matches(s, path, restrictive) {
			return false
		}
	}
	return true
}

// matches reports whether a match of the clause holds.
func (c clause) matches(s *Subject, path string, restrictive bool) bool {
	for i := range c {
		if c[i].holds(s, path, restrictive) {
			return true
		}
	}
	return false
}

// holds compares both sides. Of a connection that is not HTTP nothing is known
// of requests: who allows asks in vain, who denies does not ask, as long as
// something else is left to ask for.
func (m *conjunction) holds(s *Subject, path string, restrictive bool) bool {
	if !m.conn.Empty() && !m.conn.Holds(&s.Conn) {
		return false
	}
	if m.request == nil {
		return true
	}
	if s.HTTP == nil {
		return restrictive && !m.conn.Empty()
	}
	return m.request.holds(s, path, restrictive)
}

// Verdict is the outcome and who made it.
type Verdict struct {
	Allowed bool
	// Policy is the name of the policy that decided, or "".
	Policy string
	// Rule is the index of its rule that matched, or -1.
	Rule int
	// Reason is a sentence for people.
	Reason string
	// Noted are policies that only watch and would have acted: "deny by
	// namespace/name[rule]".
	Noted []string
}

// Authorize decides by several sets of policies, each by itself: those attached
// to the service, and those of the workload. A request passes when each set lets
// it pass.
//
// In a set a CUSTOM policy comes first, whose provider must be among those that
// approved, then DENY, then ALLOW. A request whose path servers read in two ways
// passes when it would in either reading. What AUDIT policies match is noted, however
// the others decide.
func Authorize(s *Subject, sets ...*Set) Verdict {
	v := Verdict{Allowed: true, Rule: -1, Reason: "no allow policies"}
	path, alt := s.paths()
	for _, set := range sets {
		if set == nil {
			continue
		}
		got := set.decide(s, path)
		if got.Allowed && alt != "" {
			if other := set.decide(s, alt); !other.Allowed {
				got = other
				got.Reason += " (as a server reads the path that decodes slashes)"
			}
		}
		noted := append(v.Noted, got.Noted...)
		if got.Policy != "" || !got.Allowed {
			v = got
		}
		v.Noted = noted
		if !v.Allowed {
			return v
		}
	}
	return v
}

// paths are the readings of the path; alt is "" when there is one only.
func (s *Subject) paths() (path, alt string) {
	if s.HTTP == nil {
		return "", ""
	}
	return s.HTTP.Path, s.HTTP.AltPath
}

// decide evaluates the set for one reading of the path.
func (set *Set) decide(s *Subject, path string) Verdict {
	v := Verdict{Rule: -1}
	var custom, deny, allow *hit
	hits := set.hits(s, path)
	for i := range hits {
		h := &hits[i]
		switch p := h.policy; {
		case p.action == waypointapi.Action_AUDIT || p.dryRun:
			v.Noted = append(v.Noted, h.noted())
		case p.action == waypointapi.Action_CUSTOM && !slices.Contains(s.Approved, p.provider):
			custom = first(custom, h)
		case p.action == waypointapi.Action_DENY:
			deny = first(deny, h)
		case p.action == waypointapi.Action_ALLOW:
			allow = first(allow, h)
		}
	}
	switch {
	case custom != nil:
		v.by(custom, "denied")
		v.Reason += fmt.Sprintf(": its provider %q has not approved", custom.policy.provider)
	case deny != nil:
		v.by(deny, "denied")
	case allow != nil:
		v.by(allow, "allowed")
		v.Allowed = true
	case set.allows > 0:
		v.Reason = "allow policies exist, but none allowed: " + set.allowNames
	default:
		v.Allowed, v.Reason = true, "no allow policies"
	}
	return v
}

// by says who decided.
func (v *Verdict) by(h *hit, what string) {
	v.Policy, v.Rule = h.policy.name, h.rule
	v.Reason = fmt.Sprintf("%s by %s[%d]", what, h.policy.name, h.rule)
}

// first is the one that came first.
func first(have, h *hit) *hit {
	if have != nil {
		return have
	}
	return h
}

// Ask is a CUSTOM policy that wants its provider asked.
type Ask struct {
	Policy   string
	Rule     int
	Provider string
}

// AsksAnybody reports whether a policy of the set asks a provider.
func (set *Set) AsksAnybody() bool { return set != nil && set.customs > 0 }

// Asks are the CUSTOM policies that match in either reading of the path and whose
// providers have not approved, each provider once.
func (set *Set) Asks(s *Subject) []Ask {
	if !set.AsksAnybody() {
		return nil
	}
	path, alt := s.paths()
	var out []Ask
	add := func(path string) {
		for _, h := range set.hits(s, path) {
			p := h.policy
			if p.action != waypointapi.Action_CUSTOM || p.dryRun || slices.Contains(s.Approved, p.provider) ||
				slices.ContainsFunc(out, func(a Ask) bool { return a.Provider == p.provider }) {
				continue
			}
			out = append(out, Ask{p.name, h.rule, p.provider})
		}
	}
	if add(path); alt != "" {
		add(alt)
	}
	return out
}
