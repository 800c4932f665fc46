package filter

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/meshapi/securityapi"
	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// subject is a request of a service account of the namespace shop.
func subject(t testing.TB, account, method, target string, headers ...string) *Subject {
	t.Helper()
	s := &Subject{Conn: policy.FactsOf(connection(t, account)), RemoteIP: netip.MustParseAddr("10.0.0.1")}
	if method == "" {
		return s
	}
	parsed, err := message.ParseTarget(target)
	if err != nil {
		t.Fatal(err)
	}
	s.HTTP = &message.Request{Method: method, Target: parsed, Host: "orders.shop", Authority: "orders.shop:80"}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, "=")
		s.HTTP.Fields.Add(name, value)
	}
	return s
}

func connection(t testing.TB, account string) policy.Request {
	r := policy.Request{SourceIP: netip.MustParseAddr("10.0.0.1"), Destination: netip.MustParseAddrPort("10.0.0.2:8080")}
	if account != "" {
		id, err := identity.NewID("cluster.local", "shop", account)
		if err != nil {
			t.Fatal(err)
		}
		r.Peer = id
	}
	return r
}

func compile(t testing.TB, a *waypointapi.Authorization) *Policy {
	t.Helper()
	p, err := CompilePolicy(a)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Short ways to write policies.
func authorization(name string, action waypointapi.Action, rules ...*waypointapi.Rule) *waypointapi.Authorization {
	return &waypointapi.Authorization{Name: name, Namespace: "shop", Action: action, Rules: rules}
}

func ruleOf(matches ...*waypointapi.Match) *waypointapi.Rule {
	r := &waypointapi.Rule{}
	for _, m := range matches {
		r.Clauses = append(r.Clauses, &waypointapi.Clause{Matches: []*waypointapi.Match{m}})
	}
	return r
}

func from(account string) *waypointapi.Match {
	return &waypointapi.Match{Connection: &securityapi.Match{Principals: []*securityapi.StringMatch{{MatchType: &securityapi.StringMatch_Exact{Exact: "cluster.local/ns/shop/sa/" + account}}}}}
}

func to(method, path string) *waypointapi.Match {
	r := &waypointapi.RequestMatch{}
	if method != "" {
		r.Methods = []*waypointapi.StringMatch{exactly(method)}
	}
	switch {
	case strings.Contains(path, "*/"):
		r.Paths = []*waypointapi.PathPattern{{Kind: &waypointapi.PathPattern_Segments{Segments: &waypointapi.Segments{Segments: strings.Split(path[1:], "/")}}}}
	case strings.HasSuffix(path, "*"):
		r.Paths = []*waypointapi.PathPattern{{Kind: &waypointapi.PathPattern_Text{Text: &waypointapi.StringMatch{Kind: &waypointapi.StringMatch_Prefix{Prefix: path[:len(path)-1]}}}}}
	case path != "":
		r.Paths = []*waypointapi.PathPattern{{Kind: &waypointapi.PathPattern_Text{Text: exactly(path)}}}
	}
	return &waypointapi.Match{Request: r}
}

func exactly(s string) *waypointapi.StringMatch {
	return &waypointapi.StringMatch{Kind: &waypointapi.StringMatch_Exact{Exact: s}}
}

func TestAuthorize(t *testing.T) {
	allow, deny := waypointapi.Action_ALLOW, waypointapi.Action_DENY
	orders := compile(t, authorization("orders", allow, ruleOf(from("gateway")), ruleOf(from("payment"), to("GET", "/api/orders/*/status"))))
	noAdmin := compile(t, authorization("no-admin", deny, ruleOf(to("", "/admin*"))))
	nobody := compile(t, authorization("deny-all", allow))
	header := compile(t, authorization("header", allow, ruleOf(&waypointapi.Match{Request: &waypointapi.RequestMatch{Header: "x-role", HeaderValues: []*waypointapi.StringMatch{exactly("admin")}}})))
	notHeader := compile(t, authorization("not-header", deny, ruleOf(&waypointapi.Match{Request: &waypointapi.RequestMatch{Header: "x-ok", NotHeaderValues: []*waypointapi.StringMatch{exactly("yes")}}})))
	host := compile(t, authorization("host", allow, ruleOf(&waypointapi.Match{Request: &waypointapi.RequestMatch{Hosts: []*waypointapi.StringMatch{exactly("orders.shop")}}})))
	custom := compile(t, &waypointapi.Authorization{Name: "custom", Namespace: "shop", Action: waypointapi.Action_CUSTOM, Provider: "gone", Rules: []*waypointapi.Rule{ruleOf(to("", "/x*"))}})
	dry := compile(t, &waypointapi.Authorization{Name: "dry", Namespace: "shop", Action: deny, DryRun: true, Rules: []*waypointapi.Rule{ruleOf()}})
	portAndPath := compile(t, authorization("port", deny, ruleOf(&waypointapi.Match{Connection: &securityapi.Match{DestinationPorts: []uint32{8080}}, Request: to("", "/p").GetRequest()})))
	set := func(p ...*Policy) []*Policy { return p }
	tests := []struct {
		name    string
		s       *Subject
		sets    [][]*Policy
		allowed bool
		by      string
	}{
		{"no policy: everyone may", subject(t, "", "GET", "/"), nil, true, ""},
		{"an empty policy refuses everyone", subject(t, "gateway", "GET", "/"), [][]*Policy{set(nobody)}, false, ""},
		{"the first rule", subject(t, "gateway", "DELETE", "/anything"), [][]*Policy{set(nobody, orders)}, true, "shop/orders"},
		{"the second rule", subject(t, "payment", "GET", "/api/orders/7/status"), [][]*Policy{set(nobody, orders)}, true, "shop/orders"},
		{"another method", subject(t, "payment", "POST", "/api/orders/7/status"), [][]*Policy{set(orders)}, false, ""},
		{"two segments for one star", subject(t, "payment", "GET", "/api/orders/7/8/status"), [][]*Policy{set(orders)}, false, ""},
		{"another caller", subject(t, "web", "GET", "/api/orders/7/status"), [][]*Policy{set(orders)}, false, ""},
		{"deny beats allow", subject(t, "gateway", "GET", "/admin/x"), [][]*Policy{set(orders, noAdmin)}, false, "shop/no-admin"},
		{"each set decides", subject(t, "gateway", "GET", "/admin/x"), [][]*Policy{set(orders), set(noAdmin)}, false, "shop/no-admin"},
		{"both sets allow", subject(t, "gateway", "GET", "/y"), [][]*Policy{set(orders), set(noAdmin)}, true, "shop/orders"},
		{"dots around a deny", subject(t, "gateway", "GET", "/x/%2e%2e/admin"), [][]*Policy{set(noAdmin)}, false, "shop/no-admin"},
		{"slashes around a deny", subject(t, "gateway", "GET", "//admin"), [][]*Policy{set(noAdmin)}, false, "shop/no-admin"},
		{"encoded slash around a deny", subject(t, "gateway", "GET", "/%2fadmin"), [][]*Policy{set(noAdmin)}, false, "shop/no-admin"},
		{"parameter around an allow", subject(t, "payment", "GET", "/api/orders/7;x/status"), [][]*Policy{set(orders)}, true, "shop/orders"},
		{"encoded slash in an allow of one segment", subject(t, "payment", "GET", "/api/orders/7%2f8/status"), [][]*Policy{set(orders)}, false, ""},
		{"header", subject(t, "web", "GET", "/", "x-role=admin"), [][]*Policy{set(header)}, true, "shop/header"},
		{"only one of two header values", subject(t, "web", "GET", "/", "x-role=user", "X-Role=admin"), [][]*Policy{set(header)}, false, ""},
		{"only one of two, the other way", subject(t, "web", "GET", "/", "x-role=admin", "X-Role=user"), [][]*Policy{set(header)}, false, ""},
		{"no header", subject(t, "web", "GET", "/"), [][]*Policy{set(header)}, false, ""},
		{"negative without the header", subject(t, "web", "GET", "/"), [][]*Policy{set(notHeader)}, false, "shop/not-header"},
		{"negative with one good value among bad", subject(t, "web", "GET", "/", "x-ok=no", "x-ok=yes"), [][]*Policy{set(notHeader)}, false, "shop/not-header"},
		{"negative with the good value", subject(t, "web", "GET", "/", "x-ok=yes"), [][]*Policy{set(notHeader)}, true, ""},
		{"host with a port", subject(t, "web", "GET", "/"), [][]*Policy{set(host)}, true, "shop/host"},
		{"custom without its provider refuses", subject(t, "web", "GET", "/x"), [][]*Policy{set(custom)}, false, "shop/custom"},
		{"custom of another path", subject(t, "web", "GET", "/y"), [][]*Policy{set(custom)}, true, ""},
		{"dry run only watches", subject(t, "web", "GET", "/"), [][]*Policy{set(dry)}, true, ""},
		{"bytes: rules of HTTP allow nobody", subject(t, "payment", "", ""), [][]*Policy{set(orders)}, false, ""},
		{"bytes: rules of connections allow", subject(t, "gateway", "", ""), [][]*Policy{set(orders)}, true, "shop/orders"},
		{"bytes: a deny of HTTP only has nothing to go by", subject(t, "gateway", "", ""), [][]*Policy{set(noAdmin)}, true, ""},
		{"bytes: a deny of a port and a path denies the port", subject(t, "gateway", "", ""), [][]*Policy{set(portAndPath)}, false, "shop/port"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Authorize(tt.s, setsOf(tt.sets...)...)
			if got.Allowed != tt.allowed || got.Policy != tt.by {
				t.Errorf("%+v, want allowed %v by %q", got, tt.allowed, tt.by)
			}
		})
	}
}

// setsOf makes sets of lists.
func setsOf(lists ...[]*Policy) (sets []*Set) {
	for _, l := range lists {
		sets = append(sets, NewSet(l))
	}
	return sets
}

func TestUnknownComparisonsAreErrors(t *testing.T) {
	for name, a := range map[string]*waypointapi.Authorization{
		"method without a kind": authorization("p", 0, ruleOf(&waypointapi.Match{Request: &waypointapi.RequestMatch{Methods: []*waypointapi.StringMatch{{}}}})),
		"path without a kind":   authorization("p", 0, ruleOf(&waypointapi.Match{Request: &waypointapi.RequestMatch{Paths: []*waypointapi.PathPattern{{}}}})),
		"action to come":        authorization("p", 9),
		"scope to come":         {Name: "p", Scope: 9},
		"values of no header":   authorization("p", 0, ruleOf(&waypointapi.Match{Request: &waypointapi.RequestMatch{HeaderValues: []*waypointapi.StringMatch{exactly("x")}}})),
	} {
		if _, err := CompilePolicy(a); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// Where policies ask only for connections, the node proxy decides the same.
func TestSameAsTheNodeProxy(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	text := func() *securityapi.StringMatch {
		v := []string{"cluster.local/ns/shop/sa/a", "shop", "cluster.local/", "b"}[r.IntN(4)]
		switch r.IntN(4) {
		case 0:
			return &securityapi.StringMatch{MatchType: &securityapi.StringMatch_Prefix{Prefix: v}}
		case 1:
			return &securityapi.StringMatch{MatchType: &securityapi.StringMatch_Suffix{Suffix: v}}
		case 2:
			return &securityapi.StringMatch{MatchType: &securityapi.StringMatch_Presence{}}
		}
		return &securityapi.StringMatch{MatchType: &securityapi.StringMatch_Exact{Exact: v}}
	}
	texts := func() (out []*securityapi.StringMatch) {
		for range r.IntN(3) {
			out = append(out, text())
		}
		return out
	}
	for round := range 2000 {
		var lower []*policy.Policy
		var upper []*Policy
		for i := range 1 + r.IntN(4) {
			a := &securityapi.Authorization{Name: fmt.Sprint("p", i), Namespace: "shop", Action: securityapi.Action(r.IntN(2)), DryRun: r.IntN(5) == 0}
			b := authorization(a.Name, waypointapi.Action(a.Action))
			b.DryRun = a.DryRun
			for range r.IntN(3) {
				x, y := &securityapi.Rule{}, &waypointapi.Rule{}
				for range r.IntN(3) {
					cx, cy := &securityapi.Clause{}, &waypointapi.Clause{}
					for range r.IntN(3) {
						m := &securityapi.Match{Principals: texts(), NotPrincipals: texts(), Namespaces: texts(), NotNamespaces: texts()}
						if r.IntN(3) == 0 {
							m.DestinationPorts = []uint32{8080, 80}[r.IntN(2):]
						}
						if r.IntN(3) == 0 {
							m.SourceIps = []*securityapi.Address{{Address: []byte{10, 0, 0, byte(r.IntN(3))}, Length: 32}}
						}
						cx.Matches = append(cx.Matches, m)
						cy.Matches = append(cy.Matches, &waypointapi.Match{Connection: m})
					}
					x.Clauses, y.Clauses = append(x.Clauses, cx), append(y.Clauses, cy)
				}
				a.Rules, b.Rules = append(a.Rules, x), append(b.Rules, y)
			}
			p, err := policy.Compile(a)
			if err != nil {
				t.Fatal(err)
			}
			lower, upper = append(lower, p), append(upper, compile(t, b))
		}
		for _, account := range []string{"", "a", "b"} {
			want := policy.Evaluate(policy.Applicable{Policies: lower, Known: true}, connection(t, account))
			for _, s := range []*Subject{subject(t, account, "", ""), subject(t, account, "GET", "/a%2fb")} {
				if got := Authorize(s, NewSet(upper)); got.Allowed != want.Allowed || got.Policy != want.Policy || got.Rule != want.Rule {
					t.Fatalf("round %d: waypoint %+v, node proxy %+v", round, got, want)
				}
			}
		}
	}
}
