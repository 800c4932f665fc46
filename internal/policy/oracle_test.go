package policy_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/meshapi/securityapi"
	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/internal/policy/oracle"
)

func equalVerdicts(a, b policy.Verdict) bool {
	return a.Allowed == b.Allowed && a.Policy == b.Policy && a.Rule == b.Rule && a.Reason == b.Reason &&
		slices.Equal(a.Missing, b.Missing) && slices.Equal(a.DryRun, b.DryRun)
}

// world is a small stock of values, so that random policies hit often.
type world struct{ r *rand.Rand }

func (w world) some(p float64) bool { return w.r.Float64() < p }

func pick[T any](w world, from ...T) T { return from[w.r.IntN(len(from))] }

// several makes a list: mostly short or empty, at times long enough to be
// indexed.
func several[T any](w world, one func() T) []T {
	n := pick(w, 0, 0, 0, 0, 0, 1, 1, 2, 3)
	if w.some(0.02) {
		n = 40
	}
	var out []T
	for range n {
		out = append(out, one())
	}
	return out
}

func (w world) text() string {
	return pick(w, "", "a", "b", "ab", "td", "td/ns/a/sa/b", "td/ns/", "/sa/b", "/sa/a", "td2/ns/b/sa/ab", "ns")
}

func (w world) stringMatch() *securityapi.StringMatch {
	switch w.r.IntN(9) {
	case 0:
		return &securityapi.StringMatch{}
	case 1:
		return presence()
	case 2, 3:
		return prefix(w.text())
	case 4, 5:
		return suffix(w.text())
	}
	return exact(w.text())
}

func (w world) addr() netip.Addr {
	return netip.MustParseAddr(pick(w, "10.0.0.1", "10.0.0.2", "10.0.1.1", "192.168.0.1", "2001:db8::1", "2001:db8::2", "::1"))
}

func (w world) address() *securityapi.Address {
	switch w.r.IntN(12) {
	case 0:
		return &securityapi.Address{Address: []byte{1, 2, 3}, Length: 8}
	case 1:
		return &securityapi.Address{Address: []byte{10, 0, 0, 1}, Length: pick(w, uint32(33), 256+24, 1<<31)}
	case 2:
		return &securityapi.Address{}
	}
	a := w.addr()
	return &securityapi.Address{Address: a.AsSlice(), Length: uint32(w.r.IntN(a.BitLen() + 1))}
}

func (w world) port() uint32 { return pick(w, uint32(0), 80, 443, 8080, 65535, 65536, 65536+80) }

func (w world) account() *securityapi.ServiceAccountMatch {
	return sa(pick(w, "", "a", "b"), pick(w, "", "a", "b", "ab"))
}

func (w world) match() *match {
	if w.some(0.1) {
		return &match{}
	}
	return &match{
		Namespaces: several(w, w.stringMatch), NotNamespaces: several(w, w.stringMatch),
		Principals: several(w, w.stringMatch), NotPrincipals: several(w, w.stringMatch),
		SourceIps: several(w, w.address), NotSourceIps: several(w, w.address),
		DestinationIps: several(w, w.address), NotDestinationIps: several(w, w.address),
		DestinationPorts: several(w, w.port), NotDestinationPorts: several(w, w.port),
		ServiceAccounts: several(w, w.account), NotServiceAccounts: several(w, w.account),
	}
}

func (w world) clause() *clause { return oneOf(several(w, w.match)...) }
func (w world) rule() *rule     { return allOf(several(w, w.clause)...) }

func (w world) policies() []*securityapi.Authorization {
	out := several(w, func() *securityapi.Authorization {
		a := authorization("", pick(w, securityapi.Action_ALLOW, securityapi.Action_DENY), several(w, w.rule))
		a.DryRun = w.some(0.2)
		return a
	})
	if len(out) > 6 {
		out = out[:6]
	}
	for i, a := range out {
		a.Name = string(rune('a' + i))
	}
	return out
}

func (w world) request() (policy.Request, oracle.Request) {
	src, dst, port := w.addr(), w.addr(), uint16(w.port())
	r := policy.Request{SourceIP: src, Destination: netip.AddrPortFrom(dst, port)}
	o := oracle.Request{SourceIP: src.AsSlice(), DestinationIP: dst.AsSlice(), Port: port}
	if w.some(0.7) {
		r.Peer = identity.ID{TrustDomain: pick(w, "td", "td2"), Namespace: pick(w, "a", "b"), ServiceAccount: pick(w, "a", "b", "ab")}
		o.HasIdentity, o.TrustDomain, o.Namespace, o.ServiceAccount = true, r.Peer.TrustDomain, r.Peer.Namespace, r.Peer.ServiceAccount
	}
	return r, o
}

// compare says how Evaluate differs from the oracle; "" when it does not.
func compare(ap policy.Applicable, list []*securityapi.Authorization, r policy.Request, o oracle.Request) string {
	got, want := policy.Evaluate(ap, r), oracle.Decide(list, o)
	switch {
	case got.Allowed != want.Allowed:
		return "allowed differs"
	case len(want.DeniedBy) > 0 && !want.DeniedBy[got.Policy]:
		return "denied by a policy that does not match"
	case len(want.DeniedBy) == 0 && len(want.AllowedBy) > 0 && !want.AllowedBy[got.Policy]:
		return "allowed by a policy that does not match"
	case len(want.DeniedBy)+len(want.AllowedBy) == 0 && got.Policy != "":
		return "names a policy though none matches"
	}
	if got.Policy != "" {
		i := slices.IndexFunc(list, func(a *securityapi.Authorization) bool { return "shop/"+a.Name == got.Policy })
		if rule := oracle.FirstRule(list[i], o); rule != got.Rule {
			return "names another rule"
		}
	}
	matched := 0
	for _, text := range got.DryRun {
		if text != "deny: no dry-run allow policy matches" {
			matched++
		}
	}
	if matched != len(want.DryRun) {
		return "dry run differs"
	}
	return ""
}

func TestEvaluateEqualsOracle(t *testing.T) {
	w := world{rand.New(rand.NewPCG(1, 2))}
	var allowed, denied, named int
	for range 4000 {
		list := w.policies()
		ap := mustCompile(t, list...)
		for range 8 {
			r, o := w.request()
			if diff := compare(ap, list, r, o); diff != "" {
				t.Fatalf("%s\npolicies: %v\nrequest: %+v\ngot %+v\nwant %+v", diff, list, r, policy.Evaluate(ap, r), oracle.Decide(list, o))
			}
			v := policy.Evaluate(ap, r)
			if v.Allowed {
				allowed++
			} else {
				denied++
			}
			if v.Policy != "" {
				named++
			}
		}
	}
	if total := allowed + denied; allowed < total/20 || denied < total/20 || named < total/20 {
		t.Errorf("the random policies say little: %d allowed, %d denied, %d by name", allowed, denied, named)
	}
}

// Whatever bytes parse as a policy compile without a panic, and decide as the
// oracle does.
func FuzzCompile(f *testing.F) {
	w := world{rand.New(rand.NewPCG(3, 4))}
	for range 20 {
		for _, a := range w.policies() {
			raw, err := proto.Marshal(a)
			if err != nil {
				f.Fatal(err)
			}
			if len(raw) < 1<<10 { // long ones only slow the search down
				f.Add(raw, uint64(7))
			}
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte, seed uint64) {
		var a securityapi.Authorization
		if proto.Unmarshal(raw, &a) != nil {
			return
		}
		a.Namespace = "shop" // as compare expects; it does not decide
		p, err := policy.Compile(&a)
		if err != nil {
			return
		}
		if p.Name() != "shop/"+a.Name {
			t.Fatalf("Name = %q of %v", p.Name(), &a)
		}
		ap := policy.Applicable{Known: true, Policies: []*policy.Policy{p}}
		w := world{rand.New(rand.NewPCG(seed, 0))}
		for range 4 {
			r, o := w.request()
			if diff := compare(ap, []*securityapi.Authorization{&a}, r, o); diff != "" {
				t.Fatalf("%s\npolicy: %v\nrequest: %+v", diff, &a, r)
			}
		}
	})
}
