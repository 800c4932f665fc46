package config

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/ambit-mesh/ambit/internal/meshapi/securityapi"
	"github.com/ambit-mesh/ambit/internal/workload"
	"github.com/ambit-mesh/ambit/waypoint/filter"
	"github.com/ambit-mesh/ambit/waypoint/jwt"
)

// scoped is what applies by its namespace, by the mesh, by selecting workloads, or by
// being attached to objects by name.
type scoped interface {
	Name() string
	Namespace() string
	Scope() securityapi.Scope
	Attached() bool
}

// byNamespace sorts objects by where they apply; those of the mesh are under "".
func byNamespace[T scoped](all map[string]T) map[string][]T {
	out := map[string][]T{}
	for _, x := range all {
		switch {
		case x.Attached() || x.Scope() == securityapi.Scope_WORKLOAD_SELECTOR:
		case x.Scope() == securityapi.Scope_GLOBAL:
			out[""] = append(out[""], x)
		default:
			out[x.Namespace()] = append(out[x.Namespace()], x)
		}
	}
	for _, list := range out {
		slices.SortFunc(list, func(a, b T) int { return cmp.Compare(a.Name(), b.Name()) })
	}
	return out
}

// named appends objects by name. missing are names of those that have not arrived.
func named[T any](to []T, all map[string]T, names []string) (found []T, missing []string) {
	for _, name := range names {
		if x, ok := all[name]; ok {
			to = append(to, x)
		} else {
			missing = append(missing, name)
		}
	}
	return to, missing
}

// Rules are what a request has to pass: policies, and tokens that are believed.
type Rules struct {
	Policies *filter.Set
	// Tokens are looked at before the policies are asked. nil: nobody looks.
	Tokens []*jwt.Authentication
	// Missing are names of policies and authentications that have not arrived, or
	// of what they hang on. While there are any nobody passes.
	Missing []string
}

// rulesKey names the rules of some services, or of some workloads.
type rulesKey struct {
	workload  bool
	namespace string
	service   *Service // whose authentications count for the workload, too; often nil
	names     string   // of policies and authentications that are named
}

// rulesCache has rules that were put together once. A new one begins with each
// change of policies or authentications.
type rulesCache struct {
	mu  sync.Mutex
	all map[rulesKey]*Rules
}

// maxRules is how many rules are kept: our choice. Beyond it all are put together
// again, as services change while policies do not.
const maxRules = 10000

// get returns the rules of a key, made by fn when they are not there.
func (c *rulesCache) get(key rulesKey, fn func() *Rules) *Rules {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.all[key]
	if r == nil {
		if len(c.all) >= maxRules || c.all == nil {
			c.all = map[rulesKey]*Rules{}
		}
		r = fn()
		c.all[key] = r
	}
	return r
}

// noRules are those of what nobody has said anything about.
var noRules = &Rules{}

// indexRules sorts policies and authentications by where they apply.
func (p *Picture) indexRules() {
	p.policiesOf, p.tokensOf = byNamespace(p.policies), byNamespace(p.tokens)
	p.rules = &rulesCache{}
}

// ServiceRules are the policies that are attached to a service, and the tokens that
// are believed for it: by being attached, by its namespace and by the mesh.
func (p *Picture) ServiceRules(svc *Service) *Rules {
	switch {
	case svc == nil:
		return noRules
	case p.rules == nil:
		return unknownRules(svc.Policies, svc.Authentications)
	case svc.ruleNames == "" && len(p.tokens) == 0:
		return noRules
	}
	return p.rules.get(rulesKey{namespace: svc.Namespace, names: svc.ruleNames}, func() *Rules {
		policies, missing := named(nil, p.policies, svc.Policies)
		tokens, more := p.serviceTokens(svc)
		return &Rules{Policies: filter.NewSet(policies), Tokens: tokens, Missing: append(missing, more...)}
	})
}

// unknownRules are those of which nothing has arrived.
func unknownRules(policies, authentications []string) *Rules {
	if len(policies)+len(authentications) == 0 {
		return noRules
	}
	return &Rules{Missing: slices.Concat(policies, authentications)}
}

// serviceTokens are the authentications of a service.
func (p *Picture) serviceTokens(svc *Service) (tokens []*jwt.Authentication, missing []string) {
	if svc == nil {
		return nil, nil
	}
	return named(slices.Concat(p.tokensOf[""], p.tokensOf[svc.Namespace]), p.tokens, svc.Authentications)
}

// WorkloadRules are those that apply to a workload by its namespace, by the mesh, and
// by selecting it, with the tokens that are believed for the service through which
// it was asked for, if there is one. Which ones select it is only known once the
// control plane has told of it: until then that is what is missing.
func (p *Picture) WorkloadRules(svc *Service, w *workload.Workload) *Rules {
	e := p.endpoints[w.UID]
	if e == nil {
		return &Rules{Missing: []string{"those of workload " + w.UID}}
	}
	if p.rules == nil {
		return unknownRules(e.Policies, e.Authentications)
	}
	key := rulesKey{workload: true, namespace: w.Namespace, names: e.ruleNames}
	if len(p.tokens) > 0 {
		key.service = svc
	}
	return p.rules.get(key, func() *Rules {
		policies, missing := named(slices.Concat(p.policiesOf[""], p.policiesOf[w.Namespace]), p.policies, e.Policies)
		tokens, more := p.serviceTokens(key.service)
		for _, a := range slices.Concat(p.tokensOf[""], p.tokensOf[w.Namespace]) {
			if !slices.Contains(tokens, a) {
				tokens = append(tokens, a)
			}
		}
		tokens, evenMore := named(tokens, p.tokens, e.Authentications)
		return &Rules{Policies: filter.NewSet(policies), Tokens: tokens, Missing: slices.Concat(missing, more, evenMore)}
	})
}

// TokenSources are where keys are fetched, each once, in order of the names of the
// authentications.
func (p *Picture) TokenSources() []jwt.Source {
	var out []jwt.Source
	seen := map[jwt.Source]bool{}
	for _, a := range slices.SortedFunc(maps.Values(p.tokens), func(a, b *jwt.Authentication) int { return cmp.Compare(a.Name(), b.Name()) }) {
		for _, src := range a.Sources() {
			if !seen[src] {
				seen[src] = true
				out = append(out, src)
			}
		}
	}
	return out
}

// joinNames is one text for names of policies and authentications.
func joinNames(policies, authentications []string) string {
	if len(policies)+len(authentications) == 0 {
		return ""
	}
	return strings.Join(policies, " ") + "|" + strings.Join(authentications, " ")
}
