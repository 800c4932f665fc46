package filter

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/internal/meshapi/securityapi"
	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/internal/policy/oracle"
	"github.com/ambit-mesh/ambit/waypoint/jwt"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

// query is a request in plain parts, for the oracle.
type query struct {
	conn      oracle.Request
	http      bool
	method    string
	hosts     []string
	path, alt string
	headers   []message.Field
	remote    netip.Addr
	principal string
	claims    map[string][]string
	approved  []string
}

// naive is the outcome by the letter of the messages: the policy that decides, and
// whether the request passes in both readings.
func naive(policies []*waypointapi.Authorization, q *query) (allowed bool, by string) {
	allowed, by = naiveOnce(policies, q, q.path)
	if allowed && q.alt != "" {
		if ok, other := naiveOnce(policies, q, q.alt); !ok {
			return false, other
		}
	}
	return allowed, by
}

func naiveOnce(policies []*waypointapi.Authorization, q *query, path string) (allowed bool, by string) {
	for _, action := range []waypointapi.Action{waypointapi.Action_CUSTOM, waypointapi.Action_DENY} {
		for _, p := range policies {
			if p.Action == action && !p.DryRun && !(action == waypointapi.Action_CUSTOM && slices.Contains(q.approved, p.Provider)) && naivePolicy(p, q, path) {
				return false, p.Namespace + "/" + p.Name
			}
		}
	}
	any := false
	for _, p := range policies {
		if p.Action != waypointapi.Action_ALLOW || p.DryRun {
			continue
		}
		if any = true; naivePolicy(p, q, path) {
			return true, p.Namespace + "/" + p.Name
		}
	}
	return !any, ""
}

func naivePolicy(p *waypointapi.Authorization, q *query, path string) bool {
	deny := p.Action == waypointapi.Action_DENY || p.Action == waypointapi.Action_CUSTOM
	return slices.ContainsFunc(p.Rules, func(r *waypointapi.Rule) bool {
		return !slices.ContainsFunc(r.Clauses, func(c *waypointapi.Clause) bool {
			return len(c.Matches) > 0 && !slices.ContainsFunc(c.Matches, func(m *waypointapi.Match) bool { return naiveMatch(m, q, path, deny) })
		})
	})
}

func naiveMatch(m *waypointapi.Match, q *query, path string, deny bool) bool {
	asksConn := m.Connection != nil && proto.Size(m.Connection) > 0
	asksHTTP := m.Request != nil && naiveAsks(m.Request)
	if !asksConn && !asksHTTP {
		return false
	}
	if asksConn && oracle.FirstRule(&securityapi.Authorization{Rules: []*securityapi.Rule{{Clauses: []*securityapi.Clause{{Matches: []*securityapi.Match{m.Connection}}}}}}, q.conn) < 0 {
		return false
	}
	switch {
	case !asksHTTP:
		return true
	case !q.http:
		return deny && asksConn
	}
	r := m.Request
	principals := []string{}
	if q.principal != "" {
		principals = append(principals, q.principal)
	}
	ok := naiveList(r.Methods, r.NotMethods, q.method) && naiveList(r.Hosts, r.NotHosts, q.hosts...) &&
		naiveList(r.RequestPrincipals, r.NotRequestPrincipals, principals...)
	if len(r.Claim) > 0 {
		ok = ok && naiveList(r.ClaimValues, r.NotClaimValues, q.claims[strings.Join(r.Claim, ".")]...)
	}
	if len(r.Paths) > 0 {
		ok = ok && slices.ContainsFunc(r.Paths, func(p *waypointapi.PathPattern) bool { return naivePath(p, path) })
	}
	ok = ok && !slices.ContainsFunc(r.NotPaths, func(p *waypointapi.PathPattern) bool { return naivePath(p, path) })
	if len(r.RemoteIps) > 0 {
		ok = ok && slices.ContainsFunc(r.RemoteIps, func(a *securityapi.Address) bool { return naiveIn(a, q.remote) })
	}
	ok = ok && !slices.ContainsFunc(r.NotRemoteIps, func(a *securityapi.Address) bool { return naiveIn(a, q.remote) })
	if r.Header != "" {
		var values []string
		for _, h := range q.headers {
			if strings.EqualFold(h.Name, r.Header) {
				values = append(values, h.Value)
			}
		}
		good := func(v ...string) bool { return naiveList(r.HeaderValues, r.NotHeaderValues, v...) }
		switch {
		case len(values) == 0:
			ok = ok && good()
		case deny:
			ok = ok && slices.ContainsFunc(values, func(v string) bool { return good(v) })
		default:
			ok = ok && !slices.ContainsFunc(values, func(v string) bool { return !good(v) })
		}
	}
	return ok
}

// naiveAsks reports whether anything is asked for: the name of a header or claim alone
// is no question.
func naiveAsks(m *waypointapi.RequestMatch) bool {
	c := proto.Clone(m).(*waypointapi.RequestMatch)
	c.Header, c.Claim = "", nil
	return proto.Size(c) > 0
}

func naiveIn(a *securityapi.Address, ip netip.Addr) bool {
	base, _ := netip.AddrFromSlice(a.Address)
	p, err := base.Prefix(int(a.Length))
	return err == nil && p.Contains(ip)
}

func naiveList(yes, not []*waypointapi.StringMatch, values ...string) bool {
	hit := func(list []*waypointapi.StringMatch) bool {
		return slices.ContainsFunc(list, func(m *waypointapi.StringMatch) bool {
			return slices.ContainsFunc(values, func(v string) bool { return naiveText(m, v) })
		})
	}
	return (len(yes) == 0 || hit(yes)) && !hit(not)
}

func naiveText(m *waypointapi.StringMatch, v string) bool {
	if m.IgnoreCase {
		v = strings.ToLower(v)
	}
	low := func(s string) string {
		if m.IgnoreCase {
			return strings.ToLower(s)
		}
		return s
	}
	switch k := m.Kind.(type) {
	case *waypointapi.StringMatch_Exact:
		return v == low(k.Exact)
	case *waypointapi.StringMatch_Prefix:
		return strings.HasPrefix(v, low(k.Prefix))
	case *waypointapi.StringMatch_Suffix:
		return strings.HasSuffix(v, low(k.Suffix))
	}
	return true
}

func naivePath(p *waypointapi.PathPattern, path string) bool {
	if k, ok := p.Kind.(*waypointapi.PathPattern_Text); ok {
		return naiveText(k.Text, path)
	}
	return strings.HasPrefix(path, "/") && naiveSegments(p.GetSegments().GetSegments(), strings.Split(path[1:], "/"))
}

func naiveSegments(pattern, path []string) bool {
	switch {
	case len(pattern) == 0:
		return len(path) == 0
	case pattern[0] == "**":
		for n := range len(path) + 1 {
			if naiveSegments(pattern[1:], path[n:]) {
				return true
			}
		}
		return false
	case len(path) == 0:
		return false
	case pattern[0] == "*" && path[0] != "", pattern[0] == path[0]:
		return naiveSegments(pattern[1:], path[1:])
	}
	return false
}

// dice makes random policies and requests that have something to do with each other.
type dice struct{ *rand.Rand }

func one[T any](d dice, from ...T) T { return from[d.IntN(len(from))] }

func some[T any](d dice, most int, fn func() T) (out []T) {
	for range d.IntN(most + 1) {
		out = append(out, fn())
	}
	return out
}

func (d dice) text(from ...string) *waypointapi.StringMatch {
	v := one(d, from...)
	switch d.IntN(6) {
	case 0:
		return &waypointapi.StringMatch{Kind: &waypointapi.StringMatch_Prefix{Prefix: v[:1+d.IntN(len(v))]}}
	case 1:
		return &waypointapi.StringMatch{Kind: &waypointapi.StringMatch_Suffix{Suffix: v[d.IntN(len(v)):]}}
	case 2:
		return &waypointapi.StringMatch{Kind: &waypointapi.StringMatch_Present{Present: true}}
	}
	return exactly(v)
}

func (d dice) host() *waypointapi.StringMatch {
	t := d.text("orders.shop", "ORDERS.shop:80", "bank")
	t.IgnoreCase = true
	return t
}

func (d dice) path() *waypointapi.PathPattern {
	if d.IntN(2) == 0 {
		return &waypointapi.PathPattern{Kind: &waypointapi.PathPattern_Text{Text: d.text("/a", "/a/b", "/a/b/c", "/b", "/")}}
	}
	segments := []string{}
	for range 1 + d.IntN(4) {
		segments = append(segments, one(d, "a", "b", "c", "*", "**"))
	}
	for i := slices.Index(segments, "**"); i >= 0; {
		rest := segments[i+1:]
		if j := slices.Index(rest, "**"); j < 0 {
			break
		} else {
			rest[j] = "*"
		}
	}
	return &waypointapi.PathPattern{Kind: &waypointapi.PathPattern_Segments{Segments: &waypointapi.Segments{Segments: segments}}}
}

func (d dice) match() *waypointapi.Match {
	m := &waypointapi.Match{}
	if d.IntN(2) == 0 {
		c := &securityapi.Match{}
		name := func(exact ...string) func() *securityapi.StringMatch {
			return func() *securityapi.StringMatch {
				if d.IntN(5) == 0 {
					return &securityapi.StringMatch{MatchType: &securityapi.StringMatch_Prefix{Prefix: "cluster.local/ns/s"}}
				}
				return &securityapi.StringMatch{MatchType: &securityapi.StringMatch_Exact{Exact: one(d, exact...)}}
			}
		}
		switch d.IntN(5) {
		case 0:
			c.Principals = some(d, 2, name("cluster.local/ns/shop/sa/a", "cluster.local/ns/shop/sa/b"))
		case 1:
			c.NotPrincipals = some(d, 2, name("cluster.local/ns/shop/sa/a"))
		case 2:
			c.Namespaces = some(d, 2, name("shop", "bank"))
		case 3:
			c.ServiceAccounts = some(d, 2, func() *securityapi.ServiceAccountMatch {
				return &securityapi.ServiceAccountMatch{Namespace: "shop", ServiceAccount: one(d, "a", "b")}
			})
		case 4:
			c.DestinationPorts = []uint32{one[uint32](d, 80, 8080)}
		}
		m.Connection = c
	}
	if d.IntN(3) > 0 {
		r := &waypointapi.RequestMatch{}
		for range 1 + d.IntN(2) {
			switch d.IntN(8) {
			case 0:
				r.Methods = some(d, 2, func() *waypointapi.StringMatch { return d.text("GET", "POST") })
			case 1:
				r.Paths = some(d, 3, d.path)
			case 2:
				r.NotPaths = some(d, 2, d.path)
			case 3:
				r.Hosts = some(d, 2, d.host)
			case 4:
				r.Header, r.HeaderValues = "x-a", some(d, 2, func() *waypointapi.StringMatch { return d.text("one", "two") })
				r.NotHeaderValues = some(d, 1, func() *waypointapi.StringMatch { return d.text("one", "two") })
			case 5:
				r.RequestPrincipals = some(d, 2, func() *waypointapi.StringMatch { return d.text("iss/a", "iss/b") })
			case 6:
				r.NotRequestPrincipals = some(d, 2, func() *waypointapi.StringMatch { return d.text("iss/a", "iss/b") })
			case 7:
				r.Claim, r.ClaimValues = []string{"groups"}, []*waypointapi.StringMatch{d.text("g1", "g2")}
			}
		}
		if r.Header != "" && len(r.HeaderValues)+len(r.NotHeaderValues) == 0 {
			r.Header = ""
		}
		m.Request = r
	}
	return m
}

func (d dice) policy(i int) *waypointapi.Authorization {
	a := authorization(fmt.Sprint("p", i), waypointapi.Action(d.IntN(4)))
	a.DryRun, a.Provider = d.IntN(8) == 0, one(d, "x", "y")
	a.Rules = some(d, 4, func() *waypointapi.Rule {
		return &waypointapi.Rule{Clauses: some(d, 3, func() *waypointapi.Clause { return &waypointapi.Clause{Matches: some(d, 3, d.match)} })}
	})
	return a
}

func (d dice) query(t *testing.T) (*Subject, *query) {
	account := one(d, "", "a", "b", "c")
	method, target := one(d, "GET", "POST", "PUT"), one(d, "/", "/a", "/a/b", "/a/b/c", "/b", "/a%2fb", "/a/", "/a;x/b")
	if d.IntN(8) == 0 {
		method = ""
	}
	var headers []string
	for range d.IntN(3) {
		headers = append(headers, "X-A="+one(d, "one", "two", "three"))
	}
	s := subject(t, account, method, target, headers...)
	q := &query{
		conn: oracle.Request{SourceIP: []byte{10, 0, 0, 1}, DestinationIP: []byte{10, 0, 0, 2}, Port: 8080},
		http: method != "", method: method, hosts: []string{"orders.shop", "orders.shop:80"}, remote: s.RemoteIP,
	}
	if account != "" {
		q.conn.HasIdentity, q.conn.TrustDomain, q.conn.Namespace, q.conn.ServiceAccount = true, "cluster.local", "shop", account
	}
	if s.HTTP != nil {
		q.path, q.alt, q.headers = s.HTTP.Path, s.HTTP.AltPath, s.HTTP.Fields
	}
	if d.IntN(2) == 0 {
		q.principal = one(d, "iss/a", "iss/b")
		q.claims = map[string][]string{"groups": {one(d, "g1", "g2", "g3")}}
		s.Token = &jwt.Token{Principal: q.principal, Claims: map[string]any{"groups": []any{q.claims["groups"][0]}}}
	}
	q.approved = one(d, nil, []string{"x"}, []string{"x", "y"})
	s.Approved = q.approved
	return s, q
}

// The evaluator with its index decides as the messages say, however many policies
// there are.
func TestSameAsTheOracle(t *testing.T) {
	d := dice{rand.New(rand.NewPCG(7, 8))}
	outcomes := map[string]int{}
	for round := range 1500 {
		var messages []*waypointapi.Authorization
		var compiled []*Policy
		for i := range 1 + d.IntN(12) {
			a := d.policy(i)
			messages, compiled = append(messages, a), append(compiled, compile(t, a))
		}
		set := NewSet(compiled)
		for range 8 {
			s, q := d.query(t)
			allowed, by := naive(messages, q)
			got := Authorize(s, set)
			if got.Allowed != allowed || got.Policy != by {
				t.Fatalf("round %d: %+v, want allowed %v by %q\n%v\n%+v", round, got, allowed, by, messages, q)
			}
			outcomes[fmt.Sprint(allowed, by != "", len(set.all) > fewRules && q.http)]++
			for _, ask := range set.Asks(s) {
				if slices.Contains(q.approved, ask.Provider) {
					t.Fatalf("asked again: %+v", ask)
				}
			}
		}
	}
	for _, want := range []string{"true true true", "true false true", "false true true", "false false true", "true true false", "false true false"} {
		if outcomes[want] < 20 {
			t.Errorf("outcome %s came %d times: the test hardly looks at it: %v", want, outcomes[want], outcomes)
		}
	}
}

// AUDIT is noted whoever decides, and decides nothing.
func TestAudit(t *testing.T) {
	audit := compile(t, authorization("watch", waypointapi.Action_AUDIT, ruleOf(to("GET", "/a*"))))
	closed := compile(t, authorization("closed", waypointapi.Action_DENY, ruleOf(to("", "/a/b"))))
	for target, want := range map[string]bool{"/a": true, "/a/b": false, "/c": true} {
		v := Authorize(subject(t, "a", "GET", target), NewSet([]*Policy{audit, closed}))
		if v.Allowed != want || slices.Contains(v.Noted, "audit by shop/watch[0]") != strings.HasPrefix(target, "/a") {
			t.Errorf("%s: %+v", target, v)
		}
	}
}

// Providers that approved are not asked again; others are, once each.
func TestAsks(t *testing.T) {
	custom := func(name, provider, path string) *Policy {
		a := authorization(name, waypointapi.Action_CUSTOM, ruleOf(to("", path)))
		a.Provider = provider
		return compile(t, a)
	}
	set := NewSet([]*Policy{custom("one", "x", "/a*"), custom("two", "x", "/a/b"), custom("three", "y", "/a/b"), custom("alt", "z", "/c/d")})
	tests := []struct {
		target   string
		approved []string
		want     string
	}{
		{"/", nil, "[]"}, {"/a", nil, "[{shop/one 0 x}]"}, {"/a/b", nil, "[{shop/one 0 x} {shop/three 0 y}]"},
		{"/a/b", []string{"x"}, "[{shop/three 0 y}]"}, {"/a/b", []string{"x", "y"}, "[]"}, {"/c%2fd", nil, "[{shop/alt 0 z}]"},
	}
	for _, tt := range tests {
		s := subject(t, "a", "GET", tt.target)
		s.Approved = tt.approved
		if got := fmt.Sprint(set.Asks(s)); got != tt.want {
			t.Errorf("%s after %v: %s, want %s", tt.target, tt.approved, got, tt.want)
		}
		if v := Authorize(s, set); v.Allowed != (tt.want == "[]") {
			t.Errorf("%s after %v: %+v", tt.target, tt.approved, v)
		}
	}
}

// A template matches what the recursive reading of it says.
func FuzzTemplate(f *testing.F) {
	for _, s := range [][2]string{{"a/*/c", "/a/b/c"}, {"a/**", "/a"}, {"**/c", "/a/b/c"}, {"a/**/c", "/a/c"}, {"*", "/"}, {"**", "/"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, pattern, target string) {
		segments := strings.Split(pattern, "/")
		p := &waypointapi.PathPattern{Kind: &waypointapi.PathPattern_Segments{Segments: &waypointapi.Segments{Segments: segments}}}
		compiled, err := CompilePolicy(authorization("p", 0, ruleOf(&waypointapi.Match{Request: &waypointapi.RequestMatch{Paths: []*waypointapi.PathPattern{p}}})))
		parsed, bad := message.ParseTarget(target)
		if err != nil || bad != nil {
			return
		}
		s := &Subject{HTTP: &message.Request{Target: parsed}}
		got := compiled.rules[0].matches(s, parsed.Path, false)
		if want := naivePath(p, parsed.Path); got != want {
			t.Fatalf("%q matches %q: %v, want %v", pattern, parsed.Path, got, want)
		}
		if text, whole := compiled.rules[0][0][0].request.paths[0].Literal(); got && (!strings.HasPrefix(parsed.Path, text) || whole && text != parsed.Path) {
			t.Fatalf("%q matches %q, which does not begin with %q", pattern, parsed.Path, text)
		}
	})
}

// many are n policies of which each is about another caller, path, header or token.
func many(b testing.TB, n int) ([]*Policy, []*waypointapi.Authorization) {
	var compiled []*Policy
	var messages []*waypointapi.Authorization
	for i := range n {
		a := authorization(fmt.Sprint("p", i), waypointapi.Action(i%2))
		switch i % 6 {
		case 4:
			a.Rules = []*waypointapi.Rule{ruleOf(asked(&waypointapi.RequestMatch{Header: "X-Tenant", HeaderValues: []*waypointapi.StringMatch{exactly(fmt.Sprint(i))}}))}
		case 5:
			a.Rules = []*waypointapi.Rule{ruleOf(asked(&waypointapi.RequestMatch{RequestPrincipals: []*waypointapi.StringMatch{exactly(fmt.Sprint("iss/", i))}}))}
		case 0:
			a.Rules = []*waypointapi.Rule{ruleOf(from(fmt.Sprint("a", i)), to("GET", ""))}
		case 1:
			a.Rules = []*waypointapi.Rule{ruleOf(to("POST", fmt.Sprintf("/api/v%d/x", i)))}
		case 2:
			a.Rules = []*waypointapi.Rule{ruleOf(to("GET", fmt.Sprintf("/api/v%d*", i)))}
		case 3:
			a.Rules = []*waypointapi.Rule{ruleOf(to("POST", fmt.Sprintf("/api/v%d/*/y", i)))}
		}
		messages, compiled = append(messages, a), append(compiled, compile(b, a))
	}
	return compiled, messages
}

// asked is a match that asks something of a request.
func asked(m *waypointapi.RequestMatch) *waypointapi.Match { return &waypointapi.Match{Request: m} }

// However many policies there are, a request is compared with few of them, and it is
// those that can match.
func TestFewPoliciesAreLookedAt(t *testing.T) {
	compiled, messages := many(t, 1000)
	set := NewSet(compiled)
	for name, change := range map[string]func(s *Subject, q *query){
		"a caller": func(s *Subject, q *query) {
			s.Conn, q.conn.ServiceAccount = policy.FactsOf(connection(t, "a600")), "a600"
		},
		"a path": func(s *Subject, q *query) { s.HTTP.Path, q.path = "/api/v998/orders", "/api/v998/orders" },
		"a header": func(s *Subject, q *query) {
			s.HTTP.Fields = message.Fields{{Name: "x-TENANT", Value: "994"}}
			q.headers = s.HTTP.Fields
		},
		"a token": func(s *Subject, q *query) {
			s.Token, q.principal = &jwt.Token{Principal: "iss/995"}, "iss/995"
		},
	} {
		s := &Subject{Conn: policy.FactsOf(connection(t, "nobody")), HTTP: &message.Request{Method: "GET", Host: "orders.shop", Authority: "orders.shop"}}
		s.HTTP.Path = "/"
		q := &query{
			conn: oracle.Request{HasIdentity: true, TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "nobody", SourceIP: []byte{10, 0, 0, 1}, DestinationIP: []byte{10, 0, 0, 2}, Port: 8080},
			http: true, method: "GET", hosts: []string{"orders.shop"}, path: "/",
		}
		change(s, q)
		if n := len(set.candidates(nil, s, s.HTTP.Path)); n > 10 {
			t.Errorf("%s: %d rules are looked at", name, n)
		}
		allowed, by := naive(messages, q)
		if got := Authorize(s, set); got.Allowed != allowed || got.Policy != by || by == "" {
			t.Errorf("%s: %+v, want %v by %q", name, got, allowed, by)
		}
	}
}

func BenchmarkAuthorize(b *testing.B) {
	for _, n := range []int{10, 100, 1000, 10000} {
		compiled, messages := many(b, n)
		set := NewSet(compiled)
		s := &Subject{Conn: policy.FactsOf(connection(b, "a4")), HTTP: &message.Request{Method: "GET", Host: "orders.shop", Authority: "orders.shop"}}
		s.HTTP.Path = "/api/v2/orders"
		q := &query{
			conn: oracle.Request{HasIdentity: true, TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "a4", SourceIP: []byte{10, 0, 0, 1}, DestinationIP: []byte{10, 0, 0, 2}, Port: 8080},
			http: true, method: "GET", hosts: []string{"orders.shop"}, path: s.HTTP.Path,
		}
		want, by := naive(messages, q)
		if got := Authorize(s, set); got.Allowed != want || got.Policy != by {
			b.Fatalf("%+v, want %v by %q", got, want, by)
		}
		b.Run(fmt.Sprintf("index/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Authorize(s, set)
			}
		})
		b.Run(fmt.Sprintf("oracle/%d", n), func(b *testing.B) {
			for b.Loop() {
				naive(messages, q)
			}
		})
	}
}
