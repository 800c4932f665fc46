package policy_test

import (
	"net/netip"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/meshapi/securityapi"
	"github.com/ambit-mesh/ambit/internal/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func exact(s string) *securityapi.StringMatch {
	return &securityapi.StringMatch{MatchType: &securityapi.StringMatch_Exact{Exact: s}}
}

func prefix(s string) *securityapi.StringMatch {
	return &securityapi.StringMatch{MatchType: &securityapi.StringMatch_Prefix{Prefix: s}}
}

func suffix(s string) *securityapi.StringMatch {
	return &securityapi.StringMatch{MatchType: &securityapi.StringMatch_Suffix{Suffix: s}}
}

func presence() *securityapi.StringMatch {
	return &securityapi.StringMatch{MatchType: &securityapi.StringMatch_Presence{Presence: &emptypb.Empty{}}}
}

func cidr(s string) *securityapi.Address {
	p := netip.MustParsePrefix(s)
	return &securityapi.Address{Address: p.Addr().AsSlice(), Length: uint32(p.Bits())}
}

func presenceList() []*securityapi.StringMatch { return []*securityapi.StringMatch{presence()} }

func sa(ns, name string) *securityapi.ServiceAccountMatch {
	return &securityapi.ServiceAccountMatch{Namespace: ns, ServiceAccount: name}
}

type (
	match  = securityapi.Match
	clause = securityapi.Clause
	rule   = securityapi.Rule
)

// oneOf is a clause of these matches.
func oneOf(matches ...*match) *clause { return &clause{Matches: matches} }

// allOf is a rule of these clauses.
func allOf(clauses ...*clause) *rule { return &rule{Clauses: clauses} }

// is is a rule with one clause with one match.
func is(m *match) []*rule { return []*rule{allOf(oneOf(m))} }

func authorization(name string, action securityapi.Action, rules []*rule) *securityapi.Authorization {
	return &securityapi.Authorization{Name: name, Namespace: "shop", Action: action, Scope: securityapi.Scope_NAMESPACE, Rules: rules}
}

func allow(name string, rules ...*rule) *securityapi.Authorization {
	return authorization(name, securityapi.Action_ALLOW, rules)
}

func deny(name string, rules ...*rule) *securityapi.Authorization {
	return authorization(name, securityapi.Action_DENY, rules)
}

func dry(a *securityapi.Authorization) *securityapi.Authorization {
	a.DryRun = true
	return a
}

func mustCompile(t testing.TB, list ...*securityapi.Authorization) policy.Applicable {
	t.Helper()
	ap := policy.Applicable{Known: true}
	for _, a := range list {
		p, err := policy.Compile(a)
		if err != nil {
			t.Fatalf("Compile(%v): %v", a, err)
		}
		ap.Policies = append(ap.Policies, p)
	}
	return ap
}

var (
	web    = identity.ID{TrustDomain: "td", Namespace: "shop", ServiceAccount: "web"}
	nobody = identity.ID{}
)

func request(peer identity.ID) policy.Request {
	return policy.Request{
		SourceIP:    netip.MustParseAddr("10.1.2.3"),
		Peer:        peer,
		Destination: netip.MustParseAddrPort("10.9.0.7:8080"),
	}
}

// matches reports whether a deny policy of these rules refuses the request.
func matches(t *testing.T, rules []*rule, r policy.Request) bool {
	t.Helper()
	return !policy.Evaluate(mustCompile(t, deny("p", rules...)), r).Allowed
}

// The rows of RBAC: what is empty, and how parts nest.
func TestEmptyRulesAndNesting(t *testing.T) {
	hit := &match{DestinationPorts: []uint32{8080}}
	miss := &match{DestinationPorts: []uint32{9}}
	tests := []struct {
		name  string
		rules []*rule
		want  bool
	}{
		{"empty policy: no match", nil, false},
		{"empty rule: match", []*rule{{}}, true},
		{"empty clause: match", []*rule{allOf(oneOf())}, true},
		{"match without attributes: no match", is(&match{}), false},
		{"all matches of a clause empty: no match", []*rule{allOf(oneOf(&match{}, &match{}))}, false},
		{"an empty match beside one that holds: match", []*rule{allOf(oneOf(&match{}, hit))}, true},
		{"clause without matches beside one that misses: no match", []*rule{allOf(oneOf(), oneOf(miss))}, false},
		{"nesting: clauses are AND-ed, both hold", []*rule{allOf(oneOf(hit), oneOf(hit))}, true},
		{"nesting: clauses are AND-ed, one misses", []*rule{allOf(oneOf(hit), oneOf(miss))}, false},
		{"nesting: matches are OR-ed, one holds", []*rule{allOf(oneOf(miss, hit))}, true},
		{"nesting: matches are OR-ed, none holds", []*rule{allOf(oneOf(miss, miss))}, false},
		{"multi rule: they are OR-ed, one matches", []*rule{allOf(oneOf(miss)), allOf(oneOf(hit))}, true},
		{"multi rule: they are OR-ed, none matches", []*rule{allOf(oneOf(miss)), allOf(oneOf(miss))}, false},
		{"attributes are AND-ed", is(&match{DestinationPorts: []uint32{8080}, Namespaces: []*securityapi.StringMatch{exact("other")}}), false},
		{"positive and negative of one attribute are AND-ed", is(&match{DestinationPorts: []uint32{8080}, NotDestinationPorts: []uint32{8080}}), false},
		{"a comparison of no kind is dropped and empties the match", is(&match{Principals: []*securityapi.StringMatch{{}}}), false},
		{"an address of 5 bytes is dropped and empties the match", is(&match{SourceIps: []*securityapi.Address{{Address: []byte("12345")}}}), false},
		{"a prefix longer than its address is dropped and empties the match", is(&match{SourceIps: []*securityapi.Address{{Address: []byte{10, 1, 2, 3}, Length: 33}}}), false},
		{"what is dropped leaves the rest", is(&match{SourceIps: []*securityapi.Address{{Address: []byte("12345")}}, DestinationPorts: []uint32{8080}}), true},
		{"ports are cut to 16 bits", is(&match{DestinationPorts: []uint32{65536 + 8080}}), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := matches(t, tt.rules, request(web)); got != tt.want {
				t.Errorf("match = %v, want %v", got, tt.want)
			}
		})
	}
}

// Each of the six kinds of attribute, positive and negative, with TLS and from
// a plaintext client.
func TestAttributes(t *testing.T) {
	type strs = []*securityapi.StringMatch
	type addrs = []*securityapi.Address
	type sas = []*securityapi.ServiceAccountMatch
	tests := []struct {
		name       string
		match      *match
		tls, plain bool
	}{
		{"namespaces hit", &match{Namespaces: strs{exact("shop")}}, true, false},
		{"namespaces miss", &match{Namespaces: strs{exact("bank")}}, false, false},
		{"not_namespaces hit", &match{NotNamespaces: strs{exact("shop")}}, false, true},
		{"not_namespaces miss", &match{NotNamespaces: strs{exact("bank")}}, true, true},
		{"namespaces presence", &match{Namespaces: strs{presence()}}, true, false},
		{"not_namespaces presence", &match{NotNamespaces: strs{presence()}}, false, true},
		{"namespaces empty string is what plaintext has", &match{Namespaces: strs{exact("")}}, false, true},
		{"principals hit", &match{Principals: strs{exact("td/ns/shop/sa/web")}}, true, false},
		{"principals miss", &match{Principals: strs{exact("td/ns/shop/sa/cart")}}, false, false},
		{"not_principals hit", &match{NotPrincipals: strs{exact("td/ns/shop/sa/web")}}, false, true},
		{"not_principals miss", &match{NotPrincipals: strs{exact("td/ns/shop/sa/cart")}}, true, true},
		{"principals presence", &match{Principals: strs{presence()}}, true, false},
		{"not_principals presence: the STRICT rule", &match{NotPrincipals: strs{presence()}}, false, true},
		{"principals empty prefix: plaintext never hits", &match{Principals: strs{prefix("")}}, true, false},
		{"source_ips hit", &match{SourceIps: addrs{cidr("10.1.0.0/16")}}, true, true},
		{"source_ips miss", &match{SourceIps: addrs{cidr("10.2.0.0/16")}}, false, false},
		{"not_source_ips hit", &match{NotSourceIps: addrs{cidr("10.1.0.0/16")}}, false, false},
		{"not_source_ips miss", &match{NotSourceIps: addrs{cidr("10.2.0.0/16")}}, true, true},
		{"destination_ips hit", &match{DestinationIps: addrs{cidr("10.9.0.7/32")}}, true, true},
		{"destination_ips miss", &match{DestinationIps: addrs{cidr("10.9.0.8/32")}}, false, false},
		{"not_destination_ips hit", &match{NotDestinationIps: addrs{cidr("10.9.0.7/32")}}, false, false},
		{"not_destination_ips miss", &match{NotDestinationIps: addrs{cidr("10.9.0.8/32")}}, true, true},
		{"destination_ports hit", &match{DestinationPorts: []uint32{1, 8080}}, true, true},
		{"destination_ports miss", &match{DestinationPorts: []uint32{1, 2}}, false, false},
		{"not_destination_ports hit", &match{NotDestinationPorts: []uint32{1, 8080}}, false, false},
		{"not_destination_ports miss", &match{NotDestinationPorts: []uint32{1, 2}}, true, true},
		{"service_accounts hit, trust domain ignored", &match{ServiceAccounts: sas{sa("shop", "web")}}, true, false},
		{"service_accounts miss by name", &match{ServiceAccounts: sas{sa("shop", "cart")}}, false, false},
		{"service_accounts miss by namespace", &match{ServiceAccounts: sas{sa("bank", "web")}}, false, false},
		{"service_accounts empty: plaintext never hits", &match{ServiceAccounts: sas{sa("", "")}}, false, false},
		{"not_service_accounts hit", &match{NotServiceAccounts: sas{sa("shop", "web")}}, false, true},
		{"not_service_accounts miss", &match{NotServiceAccounts: sas{sa("shop", "cart")}}, true, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := matches(t, is(tt.match), request(web)); got != tt.tls {
				t.Errorf("with TLS: match = %v, want %v", got, tt.tls)
			}
			if got := matches(t, is(tt.match), request(nobody)); got != tt.plain {
				t.Errorf("plaintext: match = %v, want %v", got, tt.plain)
			}
		})
	}
}

func TestCIDRContainment(t *testing.T) {
	tests := []struct {
		name, source, cidr string
		want               bool
	}{
		{"v4 inside", "10.1.2.3", "10.1.2.0/24", true},
		{"v4 outside", "10.1.3.3", "10.1.2.0/24", false},
		{"v4 host bits set in the policy", "10.1.2.3", "10.1.2.77/24", true},
		{"v4 length 0 is every v4", "10.1.2.3", "0.0.0.0/0", true},
		{"v4 length 0 is no v6", "2001:db8::1", "0.0.0.0/0", false},
		{"v6 inside", "2001:db8::1", "2001:db8::/32", true},
		{"v6 outside", "2001:db9::1", "2001:db8::/32", false},
		{"v6 full length", "2001:db8::1", "2001:db8::1/128", true},
		{"v6 length 0 is no v4", "10.1.2.3", "::/0", false},
		{"v4 in v6 is v4", "::ffff:10.1.2.3", "10.1.2.0/24", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := request(web)
			r.SourceIP = netip.MustParseAddr(tt.source)
			// The long list is the one that is indexed by prefix length.
			for _, padding := range []int{0, 40} {
				list := []*securityapi.Address{cidr(tt.cidr)}
				for i := range padding {
					list = append(list, &securityapi.Address{Address: []byte{192, 168, byte(i), 0}, Length: uint32(17 + i%16)})
				}
				if got := matches(t, is(&match{SourceIps: list}), r); got != tt.want {
					t.Errorf("%v in %v, with %d others: %v, want %v", tt.source, tt.cidr, padding, got, tt.want)
				}
			}
		})
	}
}

// Principals are compared without spiffe://.
func TestStringMatch(t *testing.T) {
	const full = "td/ns/shop/sa/web"
	tests := []struct {
		name string
		m    *securityapi.StringMatch
		want bool
	}{
		{"exact", exact(full), true},
		{"exact with the scheme is another string", exact("spiffe://" + full), false},
		{"exact of a part", exact("td/ns/shop"), false},
		{"prefix", prefix("td/ns/shop/"), true},
		{"prefix with the scheme", prefix("spiffe://td/"), false},
		{"prefix of the whole", prefix(full), true},
		{"prefix longer than the string", prefix(full + "x"), false},
		{"suffix", suffix("/sa/web"), true},
		{"suffix that is not the end", suffix("/sa/we"), false},
		{"suffix longer than the string", suffix("x" + full), false},
		{"presence", presence(), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// The long list is the one that is hashed.
			for _, padding := range []int{0, 20} {
				list := []*securityapi.StringMatch{tt.m}
				for range padding {
					list = append(list, exact("other"))
				}
				if got := matches(t, is(&match{Principals: list}), request(web)); got != tt.want {
					t.Errorf("with %d others: match = %v, want %v", padding, got, tt.want)
				}
			}
		})
	}
}

func TestEvaluate(t *testing.T) {
	any := allOf()
	never := allOf(oneOf(&match{}))
	strict := allOf(oneOf(&match{NotPrincipals: []*securityapi.StringMatch{presence()}}))
	byPort := allOf(oneOf(&match{DestinationPorts: []uint32{8080}}))
	byDest := allOf(oneOf(&match{DestinationIps: []*securityapi.Address{cidr("10.9.0.7/32")}, DestinationPorts: []uint32{8080}}))
	tests := []struct {
		name     string
		policies []*securityapi.Authorization
		missing  []string
		unknown  bool
		peer     identity.ID
		want     policy.Verdict
	}{
		{name: "no policy: everyone may", want: policy.Verdict{Allowed: true, Rule: -1}},
		{name: "allow matches", policies: []*securityapi.Authorization{allow("a", never, byPort)}, want: policy.Verdict{Allowed: true, Policy: "shop/a", Rule: 1}},
		{name: "allow misses -> deny", policies: []*securityapi.Authorization{allow("a", never)}, want: policy.Verdict{Rule: -1}},
		{name: "allow without rules denies all", policies: []*securityapi.Authorization{allow("a")}, want: policy.Verdict{Rule: -1}},
		{name: "deny beats allow", policies: []*securityapi.Authorization{allow("a", any), deny("d", never, any)}, want: policy.Verdict{Policy: "shop/d", Rule: 1}},
		{name: "deny misses, no allow: everyone may", policies: []*securityapi.Authorization{deny("d", never)}, want: policy.Verdict{Allowed: true, Rule: -1}},
		{name: "one of two allows is enough", policies: []*securityapi.Authorization{allow("a", never), allow("b", any)}, want: policy.Verdict{Allowed: true, Policy: "shop/b", Rule: 0}},
		{name: "dest info is compared", policies: []*securityapi.Authorization{deny("d", byDest)}, want: policy.Verdict{Policy: "shop/d", Rule: 0}},
		{name: "STRICT refuses plaintext", policies: []*securityapi.Authorization{deny("strict", strict)}, want: policy.Verdict{Policy: "shop/strict", Rule: 0}},
		{name: "STRICT lets identities in", policies: []*securityapi.Authorization{deny("strict", strict)}, peer: web, want: policy.Verdict{Allowed: true, Rule: -1}},
		{name: "dry run deny alone: may, and is told", policies: []*securityapi.Authorization{dry(deny("d", any))}, want: policy.Verdict{Allowed: true, Rule: -1, DryRun: []string{"deny by shop/d[0]"}}},
		{name: "dry run allow alone: does not make others necessary", policies: []*securityapi.Authorization{dry(allow("a", never))}, want: policy.Verdict{Allowed: true, Rule: -1, DryRun: []string{"deny: no dry-run allow policy matches"}}},
		{name: "dry run allow + real allow that misses -> deny", policies: []*securityapi.Authorization{dry(allow("a", any)), allow("b", never)}, want: policy.Verdict{Rule: -1, DryRun: []string{"allow by shop/a[0]"}}},
		{name: "dry run deny + real deny", policies: []*securityapi.Authorization{dry(deny("a", any)), deny("b", any)}, want: policy.Verdict{Policy: "shop/b", Rule: 0, DryRun: []string{"deny by shop/a[0]"}}},
		{name: "a missing policy refuses", missing: []string{"shop/m"}, want: policy.Verdict{Rule: -1, Missing: []string{"shop/m"}}},
		{name: "a missing policy refuses even where an allow matches", policies: []*securityapi.Authorization{allow("a", any)}, missing: []string{"shop/m"}, want: policy.Verdict{Rule: -1, Missing: []string{"shop/m"}}},
		{name: "a deny names itself even where a policy is missing", policies: []*securityapi.Authorization{deny("d", any)}, missing: []string{"shop/m"}, want: policy.Verdict{Policy: "shop/d", Rule: 0}},
		{name: "an unknown workload refuses", unknown: true, want: policy.Verdict{Rule: -1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ap := mustCompile(t, tt.policies...)
			ap.Missing, ap.Known = tt.missing, !tt.unknown
			got := policy.Evaluate(ap, request(tt.peer))
			if got.Reason == "" {
				t.Error("the verdict has no reason")
			}
			got.Reason = ""
			if !equalVerdicts(got, tt.want) {
				t.Errorf("verdict = %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestCompileRefusesUnknownEnums(t *testing.T) {
	tests := []struct {
		name string
		a    *securityapi.Authorization
	}{
		{"unknown scope", &securityapi.Authorization{Name: "p", Scope: 3}},
		{"unknown action", &securityapi.Authorization{Name: "p", Action: 2}},
		{"no name", &securityapi.Authorization{Namespace: "shop"}},
		{"nothing", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if p, err := policy.Compile(tt.a); err == nil {
				t.Errorf("Compile = %v, want an error", p.Name())
			}
		})
	}
}
