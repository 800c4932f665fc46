package workload_test

import (
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ambit-mesh/ambit/internal/meshapi/securityapi"
	"github.com/ambit-mesh/ambit/internal/policy"
)

// Whatever bytes come as a policy: a rejected one changes nothing, one that is
// taken applies or not but never makes another one go, and removal takes it away.
func FuzzApplyAuthorizations(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 6 {
		a := authz("shop", "p", securityapi.Scope(i%3))
		for range r.IntN(3) {
			match := &securityapi.Match{DestinationPorts: []uint32{r.Uint32N(1 << 16)}}
			a.Rules = append(a.Rules, &securityapi.Rule{Clauses: []*securityapi.Clause{{Matches: []*securityapi.Match{match}}}})
		}
		res := resource(f, a)
		f.Add(res.Name, res.Resource.Value)
	}
	f.Add("shop/keep", []byte{})
	f.Add("", []byte{0xff})
	keep := authz("shop", "keep", securityapi.Scope_NAMESPACE)
	web := &pbWorkload{Uid: "c//Pod/shop/web", Name: "web", Namespace: "shop", ServiceAccount: "web", Node: "node-1"}
	subject := policy.Subject{Name: "web", Namespace: "shop", ServiceAccount: "web"}
	f.Fuzz(func(t *testing.T, name string, body []byte) {
		store := newStore()
		apply(t, store, keep, web)
		kept := func() bool {
			for _, p := range store.PoliciesFor(subject).Policies {
				if p.Name() == "shop/keep" {
					return true
				}
			}
			return false
		}
		res := resource(t, keep)
		res.Name = name
		res.Resource = &anypb.Any{TypeUrl: res.Resource.TypeUrl, Value: body}
		before := store.Snapshot()
		rejected := store.ApplyAuthorizations(resources{res}, nil)
		for n := range rejected {
			if n != name {
				t.Errorf("%q is rejected, which was not sent; %q was", n, name)
			}
		}
		if len(rejected) > 0 && store.Snapshot() != before {
			t.Error("a rejected policy made another picture")
		}
		if name != "shop/keep" && !kept() {
			t.Errorf("policy %q took another one away", name)
		}
		store.ApplyAuthorizations(nil, []string{name})
		if name != "shop/keep" && (!kept() || len(store.PoliciesFor(subject).Policies) != 1) {
			t.Errorf("after its removal %q is still felt: %v", name, store.PoliciesFor(subject))
		}
	})
}
