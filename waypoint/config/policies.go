package config

import (
	"cmp"
	"slices"

	"github.com/ambit-mesh/ambit/internal/meshapi/securityapi"
	"github.com/ambit-mesh/ambit/internal/workload"
	"github.com/ambit-mesh/ambit/waypoint/filter"
)

// indexPolicies sorts policies by where they apply.
func (p *Picture) indexPolicies() {
	p.byNamespace = map[string][]*filter.Policy{}
	for _, policy := range p.policies {
		switch {
		case policy.Attached() || policy.Scope() == securityapi.Scope_WORKLOAD_SELECTOR:
		case policy.Scope() == securityapi.Scope_GLOBAL:
			p.byNamespace[""] = append(p.byNamespace[""], policy)
		default:
			p.byNamespace[policy.Namespace()] = append(p.byNamespace[policy.Namespace()], policy)
		}
	}
	for _, list := range p.byNamespace {
		slices.SortFunc(list, func(a, b *filter.Policy) int { return cmp.Compare(a.Name(), b.Name()) })
	}
}

// ServicePolicies are those attached to a service. missing are names of policies
// that have not arrived.
func (p *Picture) ServicePolicies(svc *Service) (policies []*filter.Policy, missing []string) {
	if svc == nil {
		return nil, nil
	}
	return p.named(nil, svc.Policies)
}

// WorkloadPolicies are those that apply to a workload by its namespace, by the
// mesh, and by selecting it. Which ones select it is only known once the control
// plane has told of it: until then that is what is missing.
func (p *Picture) WorkloadPolicies(w *workload.Workload) (policies []*filter.Policy, missing []string) {
	global, local := p.byNamespace[""], p.byNamespace[w.Namespace]
	e := p.endpoints[w.UID]
	if e == nil {
		return nil, []string{"those of workload " + w.UID}
	}
	if len(e.Policies) == 0 {
		switch {
		case len(local) == 0:
			return global, nil
		case len(global) == 0:
			return local, nil
		}
	}
	return p.named(slices.Concat(global, local), e.Policies)
}

// named appends policies by name.
func (p *Picture) named(to []*filter.Policy, names []string) (policies []*filter.Policy, missing []string) {
	for _, name := range names {
		if policy := p.policies[name]; policy != nil {
			to = append(to, policy)
		} else {
			missing = append(missing, name)
		}
	}
	return to, missing
}
