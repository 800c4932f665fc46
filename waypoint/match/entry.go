package match

import (
	"cmp"
	"fmt"
	"iter"
	"net/url"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

// entry is one match of one route.
type entry struct {
	rank       int // smaller wins
	route      int
	precedence uint64 // more wins, where the table is not in order
	path       pathMatch
	// namespaces of clients; empty: all.
	namespaces []string

	method, authority, scheme *Text
	headers, query            []named

	condition *condition // nil: none
}

// named is a comparison of the values of a name.
type named struct {
	name string
	text Text
}

// pathKind is how a path is compared, best last.
type pathKind uint8

const (
	anyPath pathKind = iota
	regexPath
	textPrefix
	segmentPrefix
	exactPath
)

// pathMatch is a comparison of a path.
type pathMatch struct {
	kind pathKind
	want string // without a slash at the end when it is a prefix of segments
	fold bool
	text Text // of regexPath
}

// compileEntry prepares a match.
func compileEntry(m *waypointapi.RouteMatch, route int) (*entry, error) {
	e := &entry{route: route, precedence: m.GetPrecedence(), namespaces: m.GetClientNamespaces()}
	var err error
	if e.path, err = compilePath(m.GetPath()); err != nil {
		return nil, fmt.Errorf("path: %w", err)
	}
	for _, t := range []struct {
		name string
		from *waypointapi.StringMatch
		into **Text
	}{{"method", m.GetMethod(), &e.method}, {"authority", m.GetAuthority(), &e.authority}, {"scheme", m.GetScheme(), &e.scheme}} {
		if t.from == nil {
			continue
		}
		text, err := CompileText(t.from)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.name, err)
		}
		*t.into = &text
	}
	if e.headers, err = compileNamed(m.GetHeaders()); err != nil {
		return nil, fmt.Errorf("headers: %w", err)
	}
	if e.query, err = compileNamed(m.GetQuery()); err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}
	if e.condition, err = compileCondition(m.GetCondition(), 0); err != nil {
		return nil, fmt.Errorf("condition: %w", err)
	}
	return e, nil
}

// compileNamed prepares comparisons by name. Of several with one name the first
// counts. Source: Gateway API, HTTPHeaderMatch.
func compileNamed(list []*waypointapi.NamedMatch) ([]named, error) {
	var out []named
	for _, m := range list {
		if slices.ContainsFunc(out, func(n named) bool { return message.EqualName(n.name, m.GetName()) }) {
			continue
		}
		text, err := CompileText(m.GetValue())
		if err != nil {
			return nil, fmt.Errorf("%q: %w", m.GetName(), err)
		}
		out = append(out, named{m.GetName(), text})
	}
	return out, nil
}

// compilePath prepares a comparison of paths. What is compared with is brought
// into the form in which paths of requests are.
func compilePath(p *waypointapi.Path) (pathMatch, error) {
	m := pathMatch{fold: p.GetIgnoreCase()}
	switch k := p.GetKind().(type) {
	case nil:
		return m, nil
	case *waypointapi.Path_Exact:
		m.kind, m.want = exactPath, canonical(k.Exact)
	case *waypointapi.Path_Prefix:
		m.kind, m.want = segmentPrefix, strings.TrimSuffix(canonical(k.Prefix), "/")
	case *waypointapi.Path_TextPrefix:
		m.kind, m.want = textPrefix, k.TextPrefix
	case *waypointapi.Path_Regex:
		var err error
		m.kind = regexPath
		m.text, err = CompileText(&waypointapi.StringMatch{Kind: &waypointapi.StringMatch_Regex{Regex: k.Regex}, IgnoreCase: m.fold})
		m.want = k.Regex
		return m, err
	default:
		return m, fmt.Errorf("comparison of no known kind")
	}
	if m.fold {
		m.want = strings.ToLower(m.want)
	}
	return m, nil
}

// canonical is a path as requests have it, or as it is when none can.
func canonical(path string) string {
	if t, err := message.ParseTarget(path); err == nil && !t.HasQuery {
		return t.Path
	}
	return path
}

// matches compares a path.
func (p *pathMatch) matches(path string) bool {
	if p.fold && p.kind != regexPath {
		path = strings.ToLower(path)
	}
	switch p.kind {
	case anyPath:
		return true
	case exactPath:
		return path == p.want
	case textPrefix:
		return strings.HasPrefix(path, p.want)
	case segmentPrefix:
		return strings.HasPrefix(path, p.want) && (len(path) == len(p.want) || path[len(p.want)] == '/')
	case regexPath:
		return p.text.Matches(path)
	}
	return false
}

// holds compares everything.
func (e *entry) holds(req *message.Request, clientNamespace string) bool {
	return e.path.matches(req.Path) && (len(e.namespaces) == 0 || slices.Contains(e.namespaces, clientNamespace)) && e.rest(req)
}

// rest compares everything but the path.
func (e *entry) rest(req *message.Request) bool {
	if e.method != nil && !e.method.Matches(req.Method) || e.scheme != nil && !e.scheme.Matches(req.Scheme) {
		return false
	}
	if e.authority != nil && !e.authority.Matches(req.Host) && !e.authority.Matches(req.Authority) {
		return false
	}
	for i := range e.headers {
		if !e.headers[i].holdsHeader(req) {
			return false
		}
	}
	for i := range e.query {
		if !e.query[i].holdsQuery(req.Query) {
			return false
		}
	}
	return e.condition.holds(req)
}

// holdsHeader compares the values of a header: one has to hit, or with invert
// none.
func (n *named) holdsHeader(req *message.Request) bool {
	for v := range headerValues(req, n.name) {
		if n.text.hit(v) {
			return !n.text.invert
		}
	}
	return n.text.invert
}

// headerValues are the values of a header; those of the first line have names,
// too.
func headerValues(req *message.Request, name string) func(func(string) bool) {
	one := func(v string) func(func(string) bool) { return func(yield func(string) bool) { yield(v) } }
	switch {
	case message.EqualName(name, "host") || name == ":authority":
		return one(req.Authority)
	case name == ":method":
		return one(req.Method)
	case name == ":path":
		return one(req.Target.String())
	case name == ":scheme":
		return one(req.Scheme)
	}
	return req.Fields.Values(name)
}

// holdsQuery compares the first value of a parameter. Source: Gateway API,
// HTTPQueryParamMatch.
func (n *named) holdsQuery(query string) bool {
	for part := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(part, "=")
		if name, err := url.QueryUnescape(name); err != nil || name != n.name {
			continue
		}
		value, err := url.QueryUnescape(value)
		return err == nil && n.text.Matches(value)
	}
	return n.text.invert
}

// parameters are the parameters of a query that can be read, each time they come.
func parameters(query string) iter.Seq2[string, string] {
	return func(yield func(name, value string) bool) {
		for part := range strings.SplitSeq(query, "&") {
			name, value, _ := strings.Cut(part, "=")
			name, err := url.QueryUnescape(name)
			if err != nil {
				continue
			}
			if value, err = url.QueryUnescape(value); err == nil && !yield(name, value) {
				return
			}
		}
	}
}

// compare orders entries of a table that is not in order. Where there is a
// precedence it says what a path would.
func compare(a, b *entry) int {
	sign := func(x, y int) int { return y - x } // more wins
	flag := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	rankOf := func(p *pathMatch) int { // both kinds of prefix are one, and no path is the shortest
		switch p.kind {
		case exactPath:
			return 3
		case textPrefix, segmentPrefix, anyPath:
			return 2
		case regexPath:
		}
		return 1
	}
	byPath := []int{cmp.Compare(b.precedence, a.precedence)}
	if a.precedence == 0 && b.precedence == 0 {
		byPath = []int{sign(rankOf(&a.path), rankOf(&b.path)), sign(len(a.path.want), len(b.path.want))}
	}
	return cmp.Or(append(byPath,
		sign(flag(a.method != nil), flag(b.method != nil)),
		sign(len(a.headers), len(b.headers)),
		sign(len(a.query), len(b.query)),
	)...)
}
