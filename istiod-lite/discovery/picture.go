package discovery

import (
	"iter"

	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// picture is what stands now, with the ways to find it that clients know. The
// server's mutex guards it; resources themselves never change.
type picture struct {
	byName  map[model.Type]map[string]*model.Resource
	byAlias index                       // network/address to names of workloads and services
	byGroup map[string]map[ref]struct{} // members of groups; a service is the group of its workloads
	byNode  index                       // node to names of its workloads
}

// index finds names by something they have in common.
type index map[string]map[string]struct{}

// newPicture is empty.
func newPicture() picture {
	return picture{
		byName: map[model.Type]map[string]*model.Resource{
			model.TypeAddress:                {},
			model.TypeAuthorization:          {},
			model.TypeWaypointAuthorization:  {},
			model.TypeWaypointAuthentication: {},
			model.TypeWaypointProvider:       {},
			model.TypeWaypointEndpoint:       {},
			model.TypeWaypointService:        {},
		},
		byAlias: index{}, byGroup: map[string]map[ref]struct{}{}, byNode: index{},
	}
}

// apply takes one change in and returns what stood under the name before.
func (p *picture) apply(c model.Change) (old *model.Resource) {
	of := p.byName[c.Type]
	old = of[c.Name]
	if old != nil {
		p.unindex(old)
		delete(of, c.Name)
	}
	if c.Resource != nil {
		of[c.Name] = c.Resource
		p.index(c.Resource)
	}
	return old
}

// index makes a resource findable.
func (p *picture) index(r *model.Resource) {
	for _, alias := range r.Wire.Aliases {
		p.byAlias.add(alias, r.Name)
	}
	for _, groups := range [][]string{r.Services, r.Groups} {
		for _, g := range groups {
			if p.byGroup[g] == nil {
				p.byGroup[g] = map[ref]struct{}{}
			}
			p.byGroup[g][ref{r.Type, r.Name}] = struct{}{}
		}
	}
	if r.Node != "" {
		p.byNode.add(r.Node, r.Name)
	}
}

// unindex is the opposite of index.
func (p *picture) unindex(r *model.Resource) {
	for _, alias := range r.Wire.Aliases {
		p.byAlias.remove(alias, r.Name)
	}
	for _, groups := range [][]string{r.Services, r.Groups} {
		for _, g := range groups {
			delete(p.byGroup[g], ref{r.Type, r.Name})
			if len(p.byGroup[g]) == 0 {
				delete(p.byGroup, g)
			}
		}
	}
	p.byNode.remove(r.Node, r.Name)
}

// add notes a name.
func (i index) add(key, name string) {
	if i[key] == nil {
		i[key] = map[string]struct{}{}
	}
	i[key][name] = struct{}{}
}

// remove forgets a name.
func (i index) remove(key, name string) {
	delete(i[key], name)
	if len(i[key]) == 0 {
		delete(i, key)
	}
}

// backing are the names of the workloads of a service.
func (p *picture) backing(service string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for r := range p.byGroup[service] {
			if r.t == model.TypeAddress && !yield(r.name) {
				return
			}
		}
	}
}

// resolve is what a client means by a name: the resource of that name, else all
// that have it as an alias.
func (p *picture) resolve(t model.Type, name string) []*model.Resource {
	if r := p.byName[t][name]; r != nil {
		return []*model.Resource{r}
	}
	var all []*model.Resource
	if t == model.TypeAddress {
		for other := range p.byAlias[name] {
			all = append(all, p.byName[t][other])
		}
	}
	return all
}
