package discovery

import (
	"strings"

	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// ref names a resource among those of all types.
type ref struct {
	t    model.Type
	name string
}

// scope is what one waypoint may have: what is bound to it, and what that needs. All
// streams of its instances share it. The server's mutex guards it.
type scope struct {
	waypoint  string // resource name of its service
	namespace string // of it
	streams   int    // that share it

	names  map[ref]struct{}    // there, or needed and not there
	groups map[string]struct{} // all of whose members are needed
	left   map[ref]struct{}    // those of names that the last change took away
	joined map[ref]struct{}    // those that it added
}

// newScope finds out what a waypoint may have.
func newScope(p *picture, waypoint string) *scope {
	namespace, _, _ := strings.Cut(waypoint, "/")
	s := &scope{waypoint: waypoint, namespace: namespace}
	s.renew(p)
	return s
}

// has reports whether the waypoint may have a resource. The nil scope has no limits.
func (s *scope) has(t model.Type, name string) bool {
	if s == nil {
		return true
	}
	_, ok := s.names[ref{t, name}]
	return ok
}

// had reports whether the waypoint may have a resource, or might before the last
// change.
func (s *scope) had(t model.Type, name string) bool {
	if s.has(t, name) {
		return true
	}
	_, ok := s.left[ref{t, name}]
	return ok
}

// touches reports whether a change of what stood under a name may change what the
// waypoint may have. old and now may be nil.
func (s *scope) touches(t model.Type, name string, old, now *model.Resource) bool {
	if s.has(t, name) {
		return true
	}
	for _, r := range []*model.Resource{old, now} {
		if r == nil {
			continue
		}
		for _, groups := range [][]string{r.Groups, r.Services} {
			for _, g := range groups {
				if _, ok := s.groups[g]; ok {
					return true
				}
			}
		}
	}
	return false
}

// renew finds out anew what the waypoint may have, and what that adds and takes away.
func (s *scope) renew(p *picture) {
	before := s.names
	w := walk{scope: s, picture: p}
	s.names, s.groups = map[ref]struct{}{}, map[string]struct{}{}
	w.need(model.Need{Type: model.TypeAddress, Name: s.waypoint}, false)
	// What is bound comes last: it may be in the scope for another reason already,
	// and then its own needs would be missed.
	group := model.ThroughGroup(s.waypoint)
	s.groups[group] = struct{}{}
	for member := range p.byGroup[group] {
		w.take(member, true)
	}
	s.left, s.joined = map[ref]struct{}{}, map[ref]struct{}{}
	for r := range before {
		if _, still := s.names[r]; !still {
			s.left[r] = struct{}{}
		}
	}
	for r := range s.names {
		if _, known := before[r]; !known {
			s.joined[r] = struct{}{}
		}
	}
}

// settled forgets what the last change has added and taken away.
func (s *scope) settled() { s.left, s.joined = nil, nil }

// walk is one way through what is needed.
type walk struct {
	scope   *scope
	picture *picture
}

// need takes what a need means.
func (w *walk) need(n model.Need, bound bool) {
	if n.Bound && !bound {
		return
	}
	name := n.Name
	if strings.Contains(name, model.OwnNamespace) {
		name = strings.ReplaceAll(name, model.OwnNamespace, w.scope.namespace)
	}
	if n.Type != 0 {
		w.take(ref{n.Type, name}, false)
		return
	}
	if _, seen := w.scope.groups[name]; seen {
		return
	}
	w.scope.groups[name] = struct{}{}
	for member := range w.picture.byGroup[name] {
		w.take(member, false)
	}
}

// take takes one resource and what it needs, the more of it when it is bound to the
// waypoint.
func (w *walk) take(r ref, bound bool) {
	if _, seen := w.scope.names[r]; seen && !bound {
		return
	}
	w.scope.names[r] = struct{}{}
	resource := w.picture.byName[r.t][r.name]
	if resource == nil {
		return
	}
	for _, n := range resource.Needs {
		w.need(n, bound)
	}
}
