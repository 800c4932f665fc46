package workload_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/internal/meshapi/workloadapi"
	"github.com/ambit-mesh/ambit/internal/workload"
)

// meshPod is a pod that takes tunnels, at these addresses.
func meshPod(uid string, addrs ...string) *pbWorkload {
	return &pbWorkload{Uid: uid, Addresses: raws(addrs...), TunnelProtocol: hbone}
}

func TestLookupGone(t *testing.T) {
	plain := meshPod("a", "10.0.0.1")
	plain.TunnelProtocol = workloadapi.TunnelProtocol_NONE
	onHost := meshPod("a", "10.0.0.1")
	onHost.NetworkMode = workloadapi.NetworkMode_HOST_NETWORK
	elsewhere := meshPod("a", "10.0.0.1")
	elsewhere.Network = "n2"
	for _, tt := range []struct {
		name  string
		steps []any // resources, UIDs that are removed, times that pass
		want  bool
	}{
		{"nobody was there", nil, false},
		{"a pod that is there", []any{meshPod("a", "10.0.0.1")}, false},
		{"a pod that is gone", []any{meshPod("a", "10.0.0.1"), "a"}, true},
		{"one of its addresses", []any{meshPod("a", "10.0.0.9", "10.0.0.1"), "a"}, true},
		{"not long ago", []any{meshPod("a", "10.0.0.1"), "a", workload.GoneFor - time.Second}, true},
		{"long ago", []any{meshPod("a", "10.0.0.1"), "a", workload.GoneFor}, false},
		{"long ago, and others since", []any{meshPod("a", "10.0.0.1"), "a", workload.GoneFor, meshPod("b", "10.0.0.2"), "b"}, false},
		{"a pod that has another address now", []any{meshPod("a", "10.0.0.1"), meshPod("a", "10.0.0.2")}, true},
		{"a pod that is told of again", []any{meshPod("a", "10.0.0.1"), meshPod("a", "10.0.0.1")}, false},
		{"another pod has the address", []any{meshPod("a", "10.0.0.1"), "a", meshPod("b", "10.0.0.1")}, false},
		{"another outside the mesh had it since", []any{meshPod("a", "10.0.0.1"), "a", plain, "a"}, false},
		{"another has it too", []any{meshPod("a", "10.0.0.1"), meshPod("b", "10.0.0.1"), "a"}, false},
		{"the other goes as well", []any{meshPod("a", "10.0.0.1"), meshPod("b", "10.0.0.1"), "a", "b"}, true},
		{"a pod that had left the mesh", []any{meshPod("a", "10.0.0.1"), plain, "a"}, false},
		{"a pod outside", []any{plain, "a"}, false},
		{"a pod on its node's network", []any{onHost, "a"}, false},
		{"a pod of another network", []any{elsewhere, "a"}, false},
		{"its name is a service's now", []any{meshPod("a/b", "10.0.0.1"), &pbService{Namespace: "a", Hostname: "b"}}, true},
		{"twice gone, once long ago", []any{
			meshPod("a", "10.0.0.1"), "a", workload.GoneFor - time.Second,
			meshPod("a", "10.0.0.1"), "a", 2 * time.Second, meshPod("b", "10.0.0.2"), "b",
		}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStore()
				for _, step := range tt.steps {
					switch step := step.(type) {
					case proto.Message:
						apply(t, s, step)
					case string:
						s.ApplyAddresses(nil, []string{step})
					case time.Duration:
						time.Sleep(step)
					}
				}
				snap, at := s.Snapshot(), ip("10.0.0.1")
				if got := snap.LookupWorkload("", at) == nil && snap.LookupGone("", at, time.Now()); got != tt.want {
					t.Errorf("LookupGone = %v, want %v", got, tt.want)
				}
				if snap.LookupGone("", netip.AddrFrom16(at.As16()), time.Now()) != snap.LookupGone("", at, time.Now()) {
					t.Error("IPv4 in IPv6 is another address")
				}
			})
		})
	}
}

// TestGoneIsBounded removes more than are remembered, and looks at the last ones.
func TestGoneIsBounded(t *testing.T) {
	const many = 5000
	s := newStore()
	address := func(i int) string { return fmt.Sprintf("10.1.%d.%d", i/250, i%250) }
	for i := range many {
		uid := fmt.Sprint(i)
		apply(t, s, meshPod(uid, address(i)))
		s.ApplyAddresses(nil, []string{uid})
	}
	known := 0
	for i := range many {
		if s.Snapshot().LookupGone("", ip(address(i)), time.Now()) {
			known++
		} else if known > 0 {
			t.Fatalf("number %d is not known, and one before it is", i)
		}
	}
	if known == 0 || known > 4096 {
		t.Errorf("%d are known, want some and at most 4096", known)
	}
}

// TestGoneAgainstNaive compares with a list of all that was ever said.
func TestGoneAgainstNaive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(11, 12))
		s := newStore()
		at := map[string]string{}      // address by UID
		left := map[string]time.Time{} // by address
		free := func(addr string) bool {
			for _, a := range at {
				if a == addr {
					return false
				}
			}
			return true
		}
		answers := 0
		for range 2000 {
			uid, addr := fmt.Sprint(r.IntN(4)), fmt.Sprintf("10.0.0.%d", r.IntN(6))
			before := at[uid]
			if r.IntN(2) == 0 {
				apply(t, s, meshPod(uid, addr))
				at[uid] = addr
				delete(left, addr)
			} else {
				s.ApplyAddresses(nil, []string{uid})
				delete(at, uid)
			}
			if before != "" && at[uid] != before && free(before) {
				left[before] = time.Now()
			}
			time.Sleep(time.Duration(r.IntN(20)) * time.Second)
			for i := range 6 {
				addr := fmt.Sprintf("10.0.0.%d", i)
				when, known := left[addr]
				want := known && time.Since(when) < workload.GoneFor
				if got := s.Snapshot().LookupGone("", ip(addr), time.Now()); free(addr) && got != want {
					t.Fatalf("LookupGone(%s) = %v, want %v", addr, got, want)
				}
				if want {
					answers++
				}
			}
		}
		if answers < 100 {
			t.Errorf("only %d addresses were known to be gone: this test has shown little", answers)
		}
	})
}
