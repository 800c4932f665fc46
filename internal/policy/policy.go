package policy

import (
	"fmt"

	"github.com/ambit-mesh/ambit/internal/meshapi/securityapi"
)

// Scope says to which workloads a policy applies.
type Scope uint8

const (
	ScopeGlobal    Scope = iota // to all
	ScopeNamespace              // to those of its namespace
	ScopeWorkload               // to those that name it
)

// String returns the name that config dumps use.
func (s Scope) String() string {
	switch s {
	case ScopeGlobal:
		return "Global"
	case ScopeNamespace:
		return "Namespace"
	case ScopeWorkload:
		return "WorkloadSelector"
	}
	return fmt.Sprintf("Scope(%d)", uint8(s))
}

// Action is what a match does.
type Action uint8

const (
	Allow Action = iota
	Deny
)

// String returns the name that config dumps use.
func (a Action) String() string {
	switch a {
	case Allow:
		return "Allow"
	case Deny:
		return "Deny"
	}
	return fmt.Sprintf("Action(%d)", uint8(a))
}

// Policy is one compiled authorization policy. It never changes.
type Policy struct {
	name      string
	namespace string
	scope     Scope
	action    Action
	dryRun    bool
	rules     []rule
	source    *securityapi.Authorization
}

// Compile checks a policy as the control plane sent it and makes it ready to
// match. The message must not change afterwards.
//
// An unknown scope or action is an error: the caller keeps what it had. A
// comparison that cannot be understood (no kind set, an address of a wrong
// length, a prefix longer than its address) is left out, as the ambient
// ecosystem does; a match may become empty by that and then never matches.
func Compile(a *securityapi.Authorization) (*Policy, error) {
	p := &Policy{name: a.GetName(), namespace: a.GetNamespace(), dryRun: a.GetDryRun(), source: a}
	if p.name == "" {
		return nil, fmt.Errorf("policy in namespace %q has no name", p.namespace)
	}
	switch a.GetScope() {
	case securityapi.Scope_GLOBAL:
		p.scope = ScopeGlobal
	case securityapi.Scope_NAMESPACE:
		p.scope = ScopeNamespace
	case securityapi.Scope_WORKLOAD_SELECTOR:
		p.scope = ScopeWorkload
	default:
		return nil, fmt.Errorf("policy %s: scope %d is not known", p.Name(), a.GetScope())
	}
	switch a.GetAction() {
	case securityapi.Action_ALLOW:
		p.action = Allow
	case securityapi.Action_DENY:
		p.action = Deny
	default:
		return nil, fmt.Errorf("policy %s: action %d is not known", p.Name(), a.GetAction())
	}
	for _, r := range a.GetRules() {
		p.rules = append(p.rules, compileRule(r))
	}
	return p, nil
}

// Name is "namespace/name", the key by which workloads name the policy.
func (p *Policy) Name() string { return p.namespace + "/" + p.name }

// Namespace is where the policy lives.
func (p *Policy) Namespace() string { return p.namespace }

// Scope says to which workloads the policy applies.
func (p *Policy) Scope() Scope { return p.scope }

// Action is what a match does.
func (p *Policy) Action() Action { return p.action }

// DryRun reports whether the policy is only observed, not enforced.
func (p *Policy) DryRun() bool { return p.dryRun }

// Source is the message that the policy was compiled from, for display. The
// caller must not change it.
func (p *Policy) Source() *securityapi.Authorization { return p.source }

// match returns the index of the first rule that matches, or -1.
func (p *Policy) match(s *subject) int {
	for i := range p.rules {
		if p.rules[i].matches(s) {
			return i
		}
	}
	return -1
}
