package filter

import (
	"fmt"
	"strings"

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

// match returns the index of the first rule that matches, or -1.
func (p *Policy) match(s *Subject, path string) int {
	restrictive := p.action == waypointapi.Action_DENY || p.action == waypointapi.Action_CUSTOM
	for i, r := range p.rules {
		all := true
		for _, c := range r {
			if all = c.matches(s, path, restrictive); !all {
				break
			}
		}
		if all {
			return i
		}
	}
	return -1
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
// In a set a CUSTOM policy comes first, then DENY, then ALLOW. A request whose
// path servers read in two ways passes when it would in either reading.
func Authorize(s *Subject, sets ...[]*Policy) Verdict {
	v := Verdict{Allowed: true, Rule: -1, Reason: "no allow policies"}
	path, alt := "", ""
	if s.HTTP != nil {
		path, alt = s.HTTP.Path, s.HTTP.AltPath
	}
	for _, set := range sets {
		got := decide(set, s, path)
		if got.Allowed && alt != "" {
			if other := decide(set, s, alt); !other.Allowed {
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

// decide evaluates one set.
func decide(set []*Policy, s *Subject, path string) Verdict {
	v := Verdict{Rule: -1}
	for _, action := range []waypointapi.Action{waypointapi.Action_CUSTOM, waypointapi.Action_DENY} {
		for _, p := range set {
			if p.action != action {
				continue
			}
			i := p.match(s, path)
			switch {
			case i < 0:
			case p.dryRun:
				v.Noted = append(v.Noted, fmt.Sprintf("deny by %s[%d]", p.name, i))
			default:
				v.Policy, v.Rule, v.Reason = p.name, i, fmt.Sprintf("denied by %s[%d]", p.name, i)
				if action == waypointapi.Action_CUSTOM {
					v.Reason += fmt.Sprintf(": its provider %q is not known here", p.provider)
				}
				return v
			}
		}
	}
	return decideAllow(set, s, path, v)
}

// decideAllow evaluates the policies that let pass, and those that only watch.
func decideAllow(set []*Policy, s *Subject, path string, v Verdict) Verdict {
	var names []string
	for _, p := range set {
		if p.action != waypointapi.Action_ALLOW && p.action != waypointapi.Action_AUDIT {
			continue
		}
		i := p.match(s, path)
		switch {
		case p.action == waypointapi.Action_AUDIT || p.dryRun:
			if i >= 0 {
				v.Noted = append(v.Noted, fmt.Sprintf("%s by %s[%d]", strings.ToLower(p.action.String()), p.name, i))
			}
		case i >= 0 && !v.Allowed:
			v.Allowed, v.Policy, v.Rule, v.Reason = true, p.name, i, fmt.Sprintf("allowed by %s[%d]", p.name, i)
		default:
			names = append(names, p.name)
		}
	}
	switch {
	case v.Allowed:
	case len(names) > maxNames:
		v.Reason = fmt.Sprintf("allow policies exist, but none allowed: %s and %d more", strings.Join(names[:maxNames], ", "), len(names)-maxNames)
	case len(names) > 0:
		v.Reason = "allow policies exist, but none allowed: " + strings.Join(names, ", ")
	default:
		v.Allowed, v.Reason = true, "no allow policies"
	}
	return v
}

// maxNames is how many policies a reason names.
const maxNames = 3
