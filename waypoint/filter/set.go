package filter

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/waypoint/match"
)

// Set is policies that are asked together, with an index over their rules: which
// can match is known by who calls, by the path or by the host, without looking at
// the others. It never changes. The nil Set is one of no policies.
type Set struct {
	policies   []*Policy
	customs    int    // policies that ask a provider
	allows     int    // policies that allow and are enforced
	allowNames string // the first of them

	all      []ref            // every rule that can match, in order
	exact    map[string][]ref // by one of its keys
	prefixes map[string][]ref // by what the path begins with
	lengths  []int            // of prefixes, each once
	headers  []string         // names of fields by whose values rules are found, in lower case
	rest     []ref            // of which nothing is known
}

// ref is one rule.
type ref struct{ policy, rule int32 }

// hit is a policy that matches, with its first rule that does.
type hit struct {
	policy *Policy
	rule   int
}

// noted is how records show a match that decides nothing.
func (h *hit) noted() string {
	return fmt.Sprintf("%s by %s[%d]", strings.ToLower(h.policy.action.String()), h.policy.name, h.rule)
}

const (
	// maxNames is how many policies a reason names.
	maxNames = 3
	// fewRules is up to how many rules all are looked at: our choice, about where an
	// index begins to be faster.
	fewRules = 12
	// maxLengths is for how many lengths of prefixes the path is looked up; rules
	// with other lengths are always looked at. Our choice.
	maxLengths = 64
	// maxHeaders is for how many fields their values are looked up; rules about others
	// are always looked at. Our choice.
	maxHeaders = 8
)

// NewSet makes a set. The order of the policies is that in which they are named.
func NewSet(policies []*Policy) *Set {
	if len(policies) == 0 {
		return nil
	}
	set := &Set{policies: policies, exact: map[string][]ref{}, prefixes: map[string][]ref{}}
	var names []string
	for i, p := range policies {
		if p.action == waypointapi.Action_CUSTOM && !p.dryRun {
			set.customs++
		}
		if p.action == waypointapi.Action_ALLOW && !p.dryRun {
			if set.allows++; len(names) < maxNames {
				names = append(names, p.name)
			}
		}
		for j, r := range p.rules {
			set.add(ref{int32(i), int32(j)}, r)
		}
	}
	set.allowNames = strings.Join(names, ", ")
	if more := set.allows - len(names); more > 0 {
		set.allowNames += fmt.Sprintf(" and %d more", more)
	}
	return set
}

// add puts a rule into the index. One with a clause that never holds is left out.
func (set *Set) add(at ref, r rule) {
	if slices.ContainsFunc(r, func(c clause) bool { return len(c) == 0 }) {
		return
	}
	set.all = append(set.all, at)
	var best keys
	for _, c := range r {
		if k := c.keys(); k.rank > best.rank {
			best = k
		}
	}
	if best.rank == unknown || !set.fits(best.prefixes) || !set.looksFor(r, best) {
		set.rest = append(set.rest, at)
		return
	}
	for _, k := range best.exact {
		set.exact[k] = append(set.exact[k], at)
	}
	for _, k := range best.prefixes {
		set.prefixes[k] = append(set.prefixes[k], at)
	}
}

// fits notes the lengths of prefixes, unless they are too many.
func (set *Set) fits(prefixes []string) bool {
	lengths := set.lengths
	for _, p := range prefixes {
		if !slices.Contains(lengths, len(p)) {
			lengths = append(lengths, len(p))
		}
	}
	if len(lengths) > maxLengths {
		return false
	}
	set.lengths = lengths
	return true
}

// looksFor notes the names of fields by whose values a rule is found, unless they are
// too many.
func (set *Set) looksFor(r rule, best keys) bool {
	if best.rank > byHeader { // a clause has the lowest rank of its matches
		return true
	}
	headers := set.headers
	for _, c := range r {
		for i := range c {
			if m := c[i].request; m != nil && m.header != "" && !slices.Contains(headers, strings.ToLower(m.header)) {
				headers = append(headers, strings.ToLower(m.header))
			}
		}
	}
	if len(headers) > maxHeaders {
		return false
	}
	set.headers = headers
	return true
}

// keys are all by which a clause can be found: it holds only for requests that have
// one of them.
type keys struct {
	rank     rank
	exact    []string
	prefixes []string
}

// rank is how many requests share a key: the higher, the fewer.
type rank uint8

const (
	unknown rank = iota
	byNamespace
	byHost
	byPrefix
	byHeader
	byPath
	byToken
	byCaller
)

// keys of a clause are those of all its matches, if each has some.
func (c clause) keys() keys {
	out := keys{rank: byCaller}
	for i := range c {
		k := c[i].keys()
		if k.rank == unknown {
			return keys{}
		}
		out.rank = min(out.rank, k.rank)
		out.exact = append(out.exact, k.exact...)
		out.prefixes = append(out.prefixes, k.prefixes...)
	}
	return out
}

// keys of a match are the best that it has.
func (m *conjunction) keys() keys {
	callers, exactly := m.conn.Callers()
	if exactly {
		return keys{rank: byCaller, exact: callers}
	}
	if m.request != nil {
		best := m.request.keys()
		for _, k := range []keys{keysOf(byToken, "t", m.request.principals.yes), keysOf(byHeader, "f"+strings.ToLower(m.request.header)+"=", m.request.headers.yes)} {
			if k.rank > best.rank {
				best = k
			}
		}
		if best.rank != unknown {
			return best
		}
	}
	if len(callers) > 0 {
		return keys{rank: byNamespace, exact: callers}
	}
	return keys{}
}

// keys are paths, else hosts.
func (m *requestMatch) keys() keys {
	out := keys{rank: byPath}
	for i := range m.paths {
		text, whole := m.paths[i].Literal()
		switch {
		case whole:
			out.exact = append(out.exact, "/"+text)
		case len(text) > 1: // every path begins with a slash
			out.rank = byPrefix
			out.prefixes = append(out.prefixes, text)
		default:
			return m.hostKeys()
		}
	}
	if len(m.paths) == 0 {
		return m.hostKeys()
	}
	return out
}

// hostKeys are hosts, if all are said in full.
func (m *requestMatch) hostKeys() keys {
	out := keysOf(byHost, "h", m.hosts.yes)
	for i := range out.exact {
		out.exact[i] = strings.ToLower(out.exact[i])
	}
	return out
}

// keysOf are the values of a list, behind what tells them from others, if all are said
// in full. Of values in which case does not count they are in lower case.
func keysOf(rank rank, kind string, values []match.Text) keys {
	out := keys{rank: rank}
	for i := range values {
		v, ok := values[i].Exact()
		if !ok || rank != byHost && values[i].IgnoresCase() {
			return keys{}
		}
		out.exact = append(out.exact, kind+v)
	}
	if len(out.exact) == 0 {
		return keys{}
	}
	return out
}

// candidates appends the rules that can match a request, in order. Of a connection
// whose requests are not known every rule can.
func (set *Set) candidates(to []ref, s *Subject, path string) []ref {
	if s.HTTP == nil || len(set.all) <= fewRules {
		return append(to, set.all...)
	}
	to = append(to, set.rest...)
	for _, key := range s.Conn.Callers() {
		to = append(to, set.exact[key]...)
	}
	to = append(to, set.exact["/"+path]...)
	host, authority := strings.ToLower(s.HTTP.Host), strings.ToLower(s.HTTP.Authority)
	to = append(to, set.exact["h"+host]...)
	if authority != host {
		to = append(to, set.exact["h"+authority]...)
	}
	if s.Token != nil && s.Token.Principal != "" {
		to = append(to, set.exact["t"+s.Token.Principal]...)
	}
	for _, name := range set.headers {
		for v := range s.HTTP.Fields.Values(name) {
			to = append(to, set.exact["f"+name+"="+v]...)
		}
	}
	for _, n := range set.lengths {
		if n <= len(path) {
			to = append(to, set.prefixes[path[:n]]...)
		}
	}
	slices.SortFunc(to, func(a, b ref) int { return cmp.Or(cmp.Compare(a.policy, b.policy), cmp.Compare(a.rule, b.rule)) })
	return slices.Compact(to)
}

// hits are the policies that match, in order.
func (set *Set) hits(s *Subject, path string) []hit {
	var room [32]ref
	var out []hit
	last := int32(-1)
	for _, at := range set.candidates(room[:0], s, path) {
		if at.policy == last {
			continue // it matches already
		}
		p := set.policies[at.policy]
		if p.rules[at.rule].matches(s, path, p.restrictive()) {
			out = append(out, hit{p, int(at.rule)})
			last = at.policy
		}
	}
	return out
}
