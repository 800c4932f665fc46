package workload_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/meshapi/securityapi"
	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/internal/workload"
)

// STRICT arrives as a name in a workload, not as a policy: the gate decides
// again about live connections when either of the two changes.
func TestStrictArrivesInTheWorkload(t *testing.T) {
	strictPolicy := &securityapi.Authorization{
		Namespace: "root", Name: "strict", Scope: securityapi.Scope_WORKLOAD_SELECTOR, Action: securityapi.Action_DENY,
		Rules: []*securityapi.Rule{{Clauses: []*securityapi.Clause{{Matches: []*securityapi.Match{{
			NotPrincipals: []*securityapi.StringMatch{{MatchType: &securityapi.StringMatch_Presence{Presence: &emptypb.Empty{}}}},
		}}}}}},
	}
	pod := &pbWorkload{Uid: "c//Pod/shop/web", Name: "web", Namespace: "shop", ServiceAccount: "web", Node: "node-1"}
	s := newStore()
	gate := policy.NewGate(s, policy.GateConfig{})
	s.OnChange(func(*workload.Snapshot) { gate.Changed() })
	apply(t, s, pod, strictPolicy)

	subject := policy.Subject{Name: "web", Namespace: "shop", ServiceAccount: "web"}
	request := policy.Request{SourceIP: ip("10.0.0.9"), Destination: netip.MustParseAddrPort("10.0.0.1:80")}
	plain, err := gate.Admit(t.Context(), subject, request)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Release()
	request.Peer = identity.ID{TrustDomain: "td", Namespace: "shop", ServiceAccount: "cart"}
	proven, err := gate.Admit(t.Context(), subject, request)
	if err != nil {
		t.Fatal(err)
	}
	defer proven.Release()

	named := proto.Clone(pod).(*pbWorkload)
	named.AuthorizationPolicies = []string{"root/strict"}
	apply(t, s, named)
	var revoked *policy.RevokedError
	if !errors.As(plain.Cause(), &revoked) || revoked.Verdict.Policy != "root/strict" {
		t.Errorf("plaintext: cause = %v, want it cut by root/strict", plain.Cause())
	}
	if proven.Cause() != nil {
		t.Errorf("a connection with an identity was cut: %v", proven.Cause())
	}
}

// Readers walk snapshots while a writer makes new ones that share with them; the
// race detector sees to it that nothing shared is written to.
func TestReadWhileWriting(t *testing.T) {
	s := newStore()
	apply(t, s, &pbService{Namespace: "s", Hostname: "svc", Addresses: vips("10.9.0.1"), Ports: ports(80, 8080)})
	var done atomic.Bool
	var group lifecycle.Group
	for range 3 {
		group.Go(t.Context(), "read", func(context.Context) {
			for !done.Load() {
				snap := s.Snapshot()
				svc := snap.LookupService("", ip("10.9.0.1"), "s")
				for _, e := range snap.Endpoints(svc) {
					if snap.Workload(e.Workload.UID) != e.Workload {
						t.Error("a snapshot disagrees with itself")
						return
					}
				}
				if w := snap.LookupWorkload("", ip("10.0.0.1")); w != nil {
					snap.Pick(svc, workload.PickOptions{Source: w, Port: 80, Rand: func(n uint64) uint64 { return n - 1 }})
				}
			}
		})
	}
	for i := range 1500 {
		uid := fmt.Sprint("c//Pod/s/", i%50)
		if i%4 == 3 {
			s.ApplyAddresses(nil, []string{uid})
		} else {
			apply(t, s, ep(uid, ""))
		}
	}
	done.Store(true)
	group.Wait()
}
