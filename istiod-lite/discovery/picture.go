package discovery

import "github.com/ambit-mesh/ambit/istiod-lite/model"

// picture is what stands now, with the ways to find it that clients know. The
// server's mutex guards it; resources themselves never change.
type picture struct {
	byName    map[model.Type]map[string]*model.Resource
	byAlias   index // network/address to names of workloads and services
	byService index // name of a service to names of its workloads
	byNode    index // node to names of its workloads
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
		byAlias: index{}, byService: index{}, byNode: index{},
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
	for _, service := range r.Services {
		p.byService.add(service, r.Name)
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
	for _, service := range r.Services {
		p.byService.remove(service, r.Name)
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
