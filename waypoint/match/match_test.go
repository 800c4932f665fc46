package match

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Short ways to write matches.
func exactly(s string) *waypointapi.StringMatch {
	return &waypointapi.StringMatch{Kind: &waypointapi.StringMatch_Exact{Exact: s}}
}

func regex(s string) *waypointapi.StringMatch {
	return &waypointapi.StringMatch{Kind: &waypointapi.StringMatch_Regex{Regex: s}}
}

func path(kind, s string) *waypointapi.Path {
	switch kind {
	case "exact":
		return &waypointapi.Path{Kind: &waypointapi.Path_Exact{Exact: s}}
	case "prefix":
		return &waypointapi.Path{Kind: &waypointapi.Path_Prefix{Prefix: s}}
	case "text":
		return &waypointapi.Path{Kind: &waypointapi.Path_TextPrefix{TextPrefix: s}}
	case "regex":
		return &waypointapi.Path{Kind: &waypointapi.Path_Regex{Regex: s}}
	}
	return nil
}

func request(method, target string, headers ...string) *message.Request {
	t, err := message.ParseTarget(target)
	if err != nil {
		panic(err)
	}
	req := &message.Request{Method: method, Target: t, Authority: "Shop:80", Host: "shop"}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, "=")
		req.Fields.Add(name, value)
	}
	return req
}

// The Gateway API's rules of precedence.
func TestPrecedence(t *testing.T) {
	routes := []*waypointapi.Route{
		{Name: "all"},
		{Name: "regex", Matches: []*waypointapi.RouteMatch{{Path: path("regex", "/a/[0-9]+")}}},
		{Name: "a", Matches: []*waypointapi.RouteMatch{{Path: path("prefix", "/a")}}},
		{Name: "a/b", Matches: []*waypointapi.RouteMatch{{Path: path("prefix", "/a/b/")}}},
		{Name: "exact", Matches: []*waypointapi.RouteMatch{{Path: path("exact", "/a/b/c")}}},
		{Name: "a POST", Matches: []*waypointapi.RouteMatch{{Path: path("prefix", "/a"), Method: exactly("POST")}}},
		{Name: "a one header", Matches: []*waypointapi.RouteMatch{{Path: path("prefix", "/a"), Headers: []*waypointapi.NamedMatch{{Name: "X", Value: exactly("1")}}}}},
		{Name: "a two headers", Matches: []*waypointapi.RouteMatch{{Path: path("prefix", "/a"), Headers: []*waypointapi.NamedMatch{{Name: "X", Value: exactly("1")}, {Name: "Y", Value: regex("[12]")}}}}},
		{Name: "a query", Matches: []*waypointapi.RouteMatch{{Path: path("prefix", "/a"), Query: []*waypointapi.NamedMatch{{Name: "q", Value: exactly("1 2")}}}}},
		{Name: "a again", Matches: []*waypointapi.RouteMatch{{Path: path("prefix", "/a")}}},
		{Name: "only header", Matches: []*waypointapi.RouteMatch{{Headers: []*waypointapi.NamedMatch{{Name: "canary", Value: exactly("true")}}}}},
		{Name: "authority", Matches: []*waypointapi.RouteMatch{{Path: path("prefix", "/host"), Authority: exactly("shop")}}},
	}
	table, err := Compile(&waypointapi.RouteTable{Routes: routes})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		want string
		req  *message.Request
	}{
		{"all", request("GET", "/other")},
		{"a", request("GET", "/a")},
		{"a", request("GET", "/a/x")},
		{"all", request("GET", "/ab")},
		{"a", request("GET", "/a/17")},
		{"a/b", request("GET", "/a/b")},
		{"a/b", request("POST", "/a/b/d", "X=1")},
		{"exact", request("GET", "/a//b/./c")},
		{"a POST", request("POST", "/a")},
		{"a POST", request("POST", "/a", "x=1", "y=2")},
		{"a one header", request("GET", "/a", "X=0", "x=1")},
		{"a two headers", request("GET", "/a", "x=1", "y=2")},
		{"a query", request("GET", "/a?p=3&q=1%202&q=7")},
		{"a", request("GET", "/a?q=7&q=1+2")},
		{"only header", request("GET", "/other", "Canary=true")},
		{"all", request("GET", "/other", "Canary=True")},
		{"authority", request("GET", "/host")},
	}
	for _, tt := range tests {
		got, ok := table.Lookup(tt.req, "")
		if !ok || routes[got.Route].Name != tt.want {
			t.Errorf("%s %s %v takes %q, %v; want %q", tt.req.Method, tt.req.Target, tt.req.Fields, routes[got.Route].Name, ok, tt.want)
		}
	}
}

// scan is the naive oracle: every entry, in the order in which they win.
func (t *Table) scan(req *message.Request, clientNamespace string) (Found, bool) {
	for _, e := range t.entries {
		if e.holds(req, clientNamespace) {
			f := Found{Route: e.route}
			if e.path.kind == segmentPrefix || e.path.kind == textPrefix {
				f.Prefix = len(e.path.want)
			}
			return f, true
		}
	}
	return Found{}, false
}

// The index answers as the scan does, in order and by precedence.
func TestIndexAgainstScan(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	word := func() string { return []string{"a", "b", "ab", "c"}[r.IntN(4)] }
	paths := func() string {
		p := ""
		for range 1 + r.IntN(3) {
			p += "/" + word()
		}
		return p
	}
	for round := range 300 {
		table := &waypointapi.RouteTable{InOrder: round%2 == 0}
		for range 1 + r.IntN(30) {
			m := &waypointapi.RouteMatch{}
			if kind := []string{"exact", "prefix", "text", "regex", "none"}[r.IntN(5)]; kind == "regex" {
				m.Path = path(kind, paths()+".*")
			} else {
				m.Path = path(kind, paths())
			}
			if m.Path != nil && r.IntN(6) == 0 {
				m.Path.IgnoreCase = true
			}
			for range r.IntN(3) {
				v := exactly(word())
				v.Invert = r.IntN(5) == 0
				m.Headers = append(m.Headers, &waypointapi.NamedMatch{Name: word(), Value: v})
			}
			if r.IntN(4) == 0 {
				m.Method = exactly("POST")
			}
			if r.IntN(4) == 0 {
				m.Authority = exactly(strings.ToUpper(word()))
				m.Authority.IgnoreCase = r.IntN(2) == 0
			}
			for range r.IntN(2) {
				v := exactly(word())
				v.Invert = r.IntN(5) == 0
				m.Query = append(m.Query, &waypointapi.NamedMatch{Name: word(), Value: v})
			}
			if r.IntN(4) == 0 {
				m.Precedence = uint64(r.IntN(3))
			}
			if r.IntN(4) == 0 {
				m.ClientNamespaces = []string{word(), word()}
			}
			table.Routes = append(table.Routes, &waypointapi.Route{Matches: []*waypointapi.RouteMatch{m}})
		}
		compiled, err := Compile(table)
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			req := request([]string{"GET", "POST"}[r.IntN(2)], paths()+"?"+word()+"="+word()+"&"+word()+"="+word()+"&%zz", word()+"="+word(), word()+"="+word())
			req.Host, req.Authority = word(), strings.ToUpper(word())
			namespace := word()
			got, ok := compiled.Lookup(req, namespace)
			want, found := compiled.scan(req, namespace)
			if ok != found || got != want {
				t.Fatalf("index %v %v, scan %v %v: %s %s %v in %v", got, ok, want, found, req.Method, req.Target, req.Fields, table)
			}
		}
	}
}

func TestPattern(t *testing.T) {
	tests := []struct {
		pattern  string
		yes, not []string
	}{
		{"/api/orders/*/status", []string{"/api/orders/7/status", "/api/orders/a%2Fb/status"}, []string{"/api/orders/7", "/api/orders//status", "/api/orders/7/8/status", "/api/orders/7/status/", "/api/orders/7/status/x", "/api/orders/status"}},
		{"/a/**", []string{"/a", "/a/", "/a/b", "/a/b/c"}, []string{"/ab", "/b"}},
		{"/**/c", []string{"/c", "/a/c", "/a/b/c"}, []string{"/a/c/d", "/ac"}},
		{"/a/**/b/*", []string{"/a/b/x", "/a/1/2/b/x"}, []string{"/a/b", "/a/b/", "/b/x"}},
	}
	for _, tt := range tests {
		p, err := CompilePattern(&waypointapi.PathPattern{Kind: &waypointapi.PathPattern_Segments{Segments: &waypointapi.Segments{Segments: strings.Split(tt.pattern[1:], "/")}}})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range slices.Concat(tt.yes, tt.not) {
			if got := p.Matches(s); got != slices.Contains(tt.yes, s) {
				t.Errorf("%s matches %s: %v", tt.pattern, s, got)
			}
		}
	}
}

func TestUnknownKindsAreErrors(t *testing.T) {
	for name, m := range map[string]*waypointapi.RouteMatch{
		"method":     {Method: &waypointapi.StringMatch{}},
		"header":     {Headers: []*waypointapi.NamedMatch{{Name: "x"}}},
		"expression": {Path: path("regex", "(")},
		"long":       {Path: path("regex", strings.Repeat("a", maxRegex+1))},
	} {
		if _, err := Compile(&waypointapi.RouteTable{Routes: []*waypointapi.Route{{Matches: []*waypointapi.RouteMatch{m}}}}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// shapes are tables of n routes, of which each asks for something else, by what they
// ask for, and a request for the last of them.
func shapes(n int) map[string]struct {
	match func(i int) *waypointapi.RouteMatch
	req   *message.Request
} {
	last := n - 1
	named := func(i int) []*waypointapi.NamedMatch {
		return []*waypointapi.NamedMatch{{Name: "x-tenant", Value: exactly(fmt.Sprint(i))}}
	}
	hosted := request("GET", "/")
	hosted.Host, hosted.Authority = fmt.Sprintf("h%d.example", last), fmt.Sprintf("h%d.example:80", last)
	return map[string]struct {
		match func(i int) *waypointapi.RouteMatch
		req   *message.Request
	}{
		"path": {func(i int) *waypointapi.RouteMatch {
			return &waypointapi.RouteMatch{Path: path([]string{"exact", "prefix"}[i%2], fmt.Sprintf("/api/service-%d/orders", i))}
		}, request("GET", fmt.Sprintf("/api/service-%d/orders", last))},
		"header": {func(i int) *waypointapi.RouteMatch { return &waypointapi.RouteMatch{Headers: named(i)} }, request("GET", "/", fmt.Sprint("x-tenant=", last))},
		"query":  {func(i int) *waypointapi.RouteMatch { return &waypointapi.RouteMatch{Query: named(i)} }, request("GET", fmt.Sprint("/?x-tenant=", last))},
		"host": {func(i int) *waypointapi.RouteMatch {
			return &waypointapi.RouteMatch{Authority: &waypointapi.StringMatch{Kind: &waypointapi.StringMatch_Exact{Exact: fmt.Sprintf("h%d.example", i)}, IgnoreCase: true}}
		}, hosted},
	}
}

// shaped is the compiled table of a shape.
func shaped(t testing.TB, n int, match func(i int) *waypointapi.RouteMatch) *Table {
	t.Helper()
	table := &waypointapi.RouteTable{}
	for i := range n {
		table.Routes = append(table.Routes, &waypointapi.Route{Matches: []*waypointapi.RouteMatch{match(i)}})
	}
	compiled, err := Compile(table)
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

// However many routes there are, a look-up compares few of them.
func TestLookupLooksAtFewRoutes(t *testing.T) {
	for name, shape := range shapes(10000) {
		table := shaped(t, 10000, shape.match)
		if got, ok := table.Lookup(shape.req, ""); !ok || got.Route != 9999 {
			t.Errorf("%s: found %v %v, want the last", name, got, ok)
		}
		for _, b := range []*bucket{&table.others, table.exact[shape.req.Path]} {
			if b != nil && len(b.plain) > 10 {
				t.Errorf("%s: %d routes are compared one by one", name, len(b.plain))
			}
		}
	}
}

// BenchmarkLookup measures one look-up among so many routes, for what they ask for, with
// the index and by looking at one after the other.
func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{10, 1000, 10000} {
		for name, shape := range shapes(n) {
			t := shaped(b, n, shape.match)
			for how, lookup := range map[string]func(*message.Request, string) (Found, bool){"index": t.Lookup, "scan": t.scan} {
				b.Run(fmt.Sprintf("%s/%s/%d", how, name, n), func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						if f, ok := lookup(shape.req, ""); !ok || f.Route != n-1 {
							b.Fatal(f, ok)
						}
					}
				})
			}
		}
	}
}
