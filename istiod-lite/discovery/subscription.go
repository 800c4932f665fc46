package discovery

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// subscription is what one client wants of one type, and what it has not seen.
// The server's mutex guards it.
type subscription struct {
	t   model.Type
	url string

	wildcard bool                // everything
	names    map[string]struct{} // else: names and aliases that the client asked for
	services map[string]struct{} // else: services sent, whose endpoints follow
	sent     map[string]struct{} // else: names that the client holds
	node     string              // else: whose pods the client gets unasked
	scope    *scope              // what it may have; nil: everything

	pending map[string]struct{} // names that the client has not seen the state of
	oldest  time.Time           // when the first of them was noted
	hasty   map[string]struct{} // those of them that go ahead of the others
	urgent  bool                // the next response must not wait for company
	owed    bool                // a response must come even if it is empty
	asked   time.Time           // when the first request came

	status TypeStatus
}

// newSubscription is that of a first request, before it was read.
func newSubscription(t model.Type, url, node string, in *scope, now time.Time) *subscription {
	return &subscription{
		t: t, url: url, node: node, scope: in, asked: now, owed: true, urgent: true,
		names:    map[string]struct{}{},
		services: map[string]struct{}{},
		sent:     map[string]struct{}{},
		pending:  map[string]struct{}{},
		hasty:    map[string]struct{}{},
		status:   TypeStatus{Type: url},
	}
}

// start reads the first request: everything is meant when no name is given. What
// the client holds in another version, or should not hold any more, is marked.
func (sub *subscription) start(p *picture, req *discoveryv3.DeltaDiscoveryRequest, now time.Time) {
	asked, gone := req.ResourceNamesSubscribe, req.ResourceNamesUnsubscribe
	sub.wildcard = (len(asked) == 0 || slices.Contains(asked, "*")) && !slices.Contains(gone, "*")
	held := req.InitialResourceVersions
	for name, version := range held {
		r := p.byName[sub.t][name]
		if r == nil || r.Version() != version || !sub.scope.has(sub.t, name) {
			sub.mark(name, now)
		}
		if !sub.wildcard {
			sub.names[name], sub.sent[name] = struct{}{}, struct{}{}
			sub.follow(p, r, held, now)
		}
	}
	unasked := p.byNode[sub.node]
	if sub.wildcard {
		sub.markNew(maps.Keys(p.byName[sub.t]), held, now)
	} else if sub.t == model.TypeAddress {
		sub.markNew(maps.Keys(unasked), held, now)
	}
	sub.update(p, req, now)
}

// markNew marks names that are not among the held ones and that the client may have.
func (sub *subscription) markNew(names iter.Seq[string], held map[string]string, now time.Time) {
	for name := range names {
		if _, holds := held[name]; !holds && sub.scope.has(sub.t, name) {
			sub.mark(name, now)
		}
	}
}

// update reads names of a request. What is asked for by name is always answered:
// with its state, or with its removal.
func (sub *subscription) update(p *picture, req *discoveryv3.DeltaDiscoveryRequest, now time.Time) {
	none := slices.Contains(req.ResourceNamesUnsubscribe, "*")
	for _, name := range req.ResourceNamesSubscribe {
		if name == "*" {
			if !sub.wildcard && !none {
				sub.wildcard = true
				sub.markNew(maps.Keys(p.byName[sub.t]), nil, now)
			}
			continue
		}
		sub.names[name] = struct{}{}
		sub.owed, sub.urgent = true, true
		sub.mark(name, now)
	}
	if none && sub.wildcard {
		sub.wildcard = false
		for name := range p.byName[sub.t] {
			sub.sent[name] = struct{}{} // it has them all, and hears when they go
		}
	}
	for _, name := range req.ResourceNamesUnsubscribe {
		delete(sub.names, name)
		for _, r := range p.resolve(sub.t, name) {
			delete(sub.sent, r.Name)
			delete(sub.services, r.Name)
		}
	}
}

// mark notes that the client has not seen the state of a name.
func (sub *subscription) mark(name string, now time.Time) {
	if len(sub.pending) == 0 {
		sub.oldest = now
	}
	sub.pending[name] = struct{}{}
}

// follow marks the endpoints of a service that a client on demand gets, but for
// those that it holds.
func (sub *subscription) follow(p *picture, r *model.Resource, held map[string]string, now time.Time) {
	if r == nil || !r.IsService || sub.wildcard {
		return
	}
	if _, known := sub.services[r.Name]; known {
		return
	}
	sub.services[r.Name] = struct{}{}
	sub.markNew(p.backing(r.Name), held, now)
}

// wants reports whether a change is for this client. old and now may be nil.
func (sub *subscription) wants(name string, old, now *model.Resource) bool {
	has := func(set map[string]struct{}, names ...string) bool {
		return slices.ContainsFunc(names, func(n string) bool { _, ok := set[n]; return ok })
	}
	if sub.wildcard || has(sub.names, name) || has(sub.sent, name) {
		return true
	}
	for _, r := range []*model.Resource{old, now} {
		if r == nil {
			continue
		}
		if sub.node != "" && r.Node == sub.node || has(sub.services, r.Services...) || has(sub.names, r.Wire.Aliases...) {
			return true
		}
	}
	return false
}

// waits reports whether anything is to be sent.
func (sub *subscription) waits() bool { return len(sub.pending) > 0 || sub.owed }

// delta is what one response sends of one type.
type delta struct {
	sub       *subscription
	resources []*model.Resource
	removed   []string
	owed      bool // it goes out even when it is empty
}

// isEmpty reports whether there is nothing to send.
func (d delta) isEmpty() bool { return len(d.resources) == 0 && len(d.removed) == 0 && !d.owed }

// choice is which of the pending names go into a response.
type choice struct {
	hasty         bool // only those that go ahead of others
	there, gone   bool // those that stand for something, or for nothing any more
	evenIfNothing bool // a response that is owed goes out though it is empty
}

// everything is the choice of all.
func everything() choice { return choice{there: true, gone: true, evenIfNothing: true} }

// take moves pending names into a response of about limit bytes, of the state now:
// workloads of the client's own node first, then by name.
func (sub *subscription) take(p *picture, c choice, limit int) delta {
	d := delta{sub: sub, owed: c.evenIfNothing && sub.owed}
	from := sub.pending
	if c.hasty {
		from = sub.hasty
	}
	seen, size := map[string]bool{}, 0
	for more := true; more && size < limit; { // following a service adds to pending
		more = false
		for _, name := range sub.inOrder(p, from) {
			found := sub.resolve(p, name)
			if size >= limit {
				break
			}
			if !c.there && len(found) > 0 || !c.gone && len(found) == 0 {
				continue
			}
			more = true
			delete(sub.pending, name)
			delete(sub.hasty, name)
			if len(found) == 0 {
				d.removed = append(d.removed, name)
				size += len(name)
				delete(sub.sent, name)
				delete(sub.services, name)
			}
			for _, r := range found {
				if seen[r.Name] {
					continue
				}
				seen[r.Name] = true
				d.resources = append(d.resources, r)
				size += proto.Size(r.Wire)
				if !sub.wildcard {
					sub.sent[r.Name] = struct{}{}
					sub.follow(p, r, nil, sub.oldest)
				}
			}
		}
	}
	far := sub.far(p)
	slices.SortFunc(d.resources, func(a, b *model.Resource) int {
		return cmp.Or(cmp.Compare(far(a.Name), far(b.Name)), cmp.Compare(a.Name, b.Name))
	})
	if !d.isEmpty() {
		sub.owed, sub.urgent = false, false
	}
	return d
}

// resolve is what the client means by a name, and may have.
func (sub *subscription) resolve(p *picture, name string) []*model.Resource {
	found := p.resolve(sub.t, name)
	if sub.scope == nil {
		return found
	}
	return slices.DeleteFunc(found, func(r *model.Resource) bool { return !sub.scope.has(sub.t, r.Name) })
}

// inOrder are names in the order in which they are sent.
func (sub *subscription) inOrder(p *picture, of map[string]struct{}) []string {
	names := slices.Collect(maps.Keys(of))
	far := sub.far(p)
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(far(a), far(b)), cmp.Compare(a, b)) })
	return names
}

// far is 0 for workloads of the client's own node and 1 for all else.
func (sub *subscription) far(p *picture) func(name string) int {
	local := p.byNode[sub.node]
	return func(name string) int {
		if _, ok := local[name]; ok {
			return 0
		}
		return 1
	}
}
