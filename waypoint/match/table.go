package match

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

// Table is the compiled routes of one table. It never changes.
type Table struct {
	entries []*entry // by rank

	exact    map[string]*bucket
	prefixes map[string]*bucket // of both kinds
	lengths  []int              // of prefixes, each once, longest first
	others   bucket             // of no path, regular expressions, and those that ignore case
}

// Found is the match that won.
type Found struct {
	// Route is the index of the route.
	Route int
	// Prefix is how many bytes of the path the match asked for as a prefix.
	Prefix int
}

// Compile prepares a table. A match of an unknown kind is an error: left out, it
// would send requests elsewhere.
func Compile(t *waypointapi.RouteTable) (*Table, error) {
	out := &Table{exact: map[string]*bucket{}, prefixes: map[string]*bucket{}}
	for i, route := range t.GetRoutes() {
		list := route.GetMatches()
		if len(list) == 0 {
			list = []*waypointapi.RouteMatch{{}}
		}
		for j, m := range list {
			e, err := compileEntry(m, i)
			if err != nil {
				return nil, fmt.Errorf("route %d (%s), match %d: %w", i, route.GetName(), j, err)
			}
			out.entries = append(out.entries, e)
		}
	}
	if !t.GetInOrder() {
		slices.SortStableFunc(out.entries, compare)
	}
	for i, e := range out.entries {
		e.rank = i
		out.index(e)
	}
	slices.Sort(out.lengths)
	slices.Reverse(out.lengths)
	return out, nil
}

// index puts an entry where look-ups find it. Entries come by rank.
func (t *Table) index(e *entry) {
	buckets := t.prefixes
	switch {
	case e.path.fold || e.path.kind == regexPath || e.path.kind == anyPath:
		t.others.add(e)
		return
	case e.path.kind == exactPath:
		buckets = t.exact
	case !slices.Contains(t.lengths, len(e.path.want)):
		t.lengths = append(t.lengths, len(e.path.want))
	}
	b := buckets[e.path.want]
	if b == nil {
		b = &bucket{}
		buckets[e.path.want] = b
	}
	b.add(e)
}

// Lookup finds the route of a request of a client of that namespace. ok is false
// when none matches.
func (t *Table) Lookup(req *message.Request, clientNamespace string) (f Found, ok bool) {
	asked := question{req, clientNamespace}
	best := t.exact[req.Path].best(asked, nil)
	for _, n := range t.lengths {
		if n <= len(req.Path) {
			best = t.prefixes[req.Path[:n]].best(asked, best)
		}
	}
	best = t.others.best(asked, best)
	if best == nil {
		return Found{}, false
	}
	f.Route = best.route
	if best.path.kind == segmentPrefix || best.path.kind == textPrefix {
		f.Prefix = len(best.path.want)
	}
	return f, true
}

// question is what is looked up.
type question struct {
	req       *message.Request
	namespace string // of the client
}

// bucket is the entries that one look-up finds.
type bucket struct {
	plain []*entry // by rank
	// byHeader is the entries that ask for an exact value of a header: by its
	// name in lower case, then by the value. byQuery is likewise those that ask for one
	// of a parameter, and byHost those that ask for a host, in lower case.
	byHeader, byQuery map[string]map[string][]*entry
	byHost            map[string][]*entry
}

// add appends an entry of a rank behind all others.
func (b *bucket) add(e *entry) {
	for i := range e.headers {
		h := &e.headers[i]
		value, ok := h.text.literal()
		if !ok || strings.HasPrefix(h.name, ":") || message.EqualName(h.name, "host") {
			continue
		}
		put(&b.byHeader, strings.ToLower(h.name), value, e)
		return
	}
	if e.authority != nil {
		if host, ok := e.authority.Exact(); ok {
			if b.byHost == nil {
				b.byHost = map[string][]*entry{}
			}
			host = strings.ToLower(host)
			b.byHost[host] = append(b.byHost[host], e)
			return
		}
	}
	for i := range e.query {
		if value, ok := e.query[i].text.literal(); ok {
			put(&b.byQuery, e.query[i].name, value, e)
			return
		}
	}
	b.plain = append(b.plain, e)
}

// put appends an entry under a name and a value.
func put(to *map[string]map[string][]*entry, name, value string, e *entry) {
	if *to == nil {
		*to = map[string]map[string][]*entry{}
	}
	if (*to)[name] == nil {
		(*to)[name] = map[string][]*entry{}
	}
	(*to)[name][value] = append((*to)[name][value], e)
}

// best is the entry of the best rank that holds, or the one that was best.
func (b *bucket) best(q question, best *entry) *entry {
	if b == nil {
		return best
	}
	best = first(b.plain, q, best)
	for name, values := range b.byHeader {
		for v := range q.req.Fields.Values(name) {
			best = first(values[v], q, best)
		}
	}
	if len(b.byHost) > 0 {
		host, authority := strings.ToLower(q.req.Host), strings.ToLower(q.req.Authority)
		if best = first(b.byHost[host], q, best); authority != host {
			best = first(b.byHost[authority], q, best)
		}
	}
	if len(b.byQuery) > 0 {
		seen := make(map[string]bool) // the first value counts, and a client may send thousands
		for name, value := range parameters(q.req.Query) {
			if values := b.byQuery[name]; values != nil && !seen[name] {
				seen[name] = true
				best = first(values[value], q, best)
			}
		}
	}
	return best
}

// first is the first of list that holds and is better than best.
func first(list []*entry, q question, best *entry) *entry {
	for _, e := range list {
		if best != nil && e.rank > best.rank {
			break
		}
		if e.holds(q.req, q.namespace) {
			return e
		}
	}
	return best
}
