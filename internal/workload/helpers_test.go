package workload_test

import (
	"net/netip"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ambit-mesh/ambit/internal/meshapi/securityapi"
	"github.com/ambit-mesh/ambit/internal/meshapi/workloadapi"
	"github.com/ambit-mesh/ambit/internal/workload"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type (
	pbWorkload = workloadapi.Workload
	pbService  = workloadapi.Service
	pbPort     = workloadapi.Port
	resources  = []*discoveryv3.Resource
)

func raw(s string) []byte { return netip.MustParseAddr(s).AsSlice() }

func raws(list ...string) [][]byte {
	var out [][]byte
	for _, s := range list {
		out = append(out, raw(s))
	}
	return out
}

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

// vip reads "10.0.0.1", or "10.0.0.0/8" for a range.
func vip(s string) *workloadapi.NetworkAddress {
	if p, err := netip.ParsePrefix(s); err == nil {
		return &workloadapi.NetworkAddress{Address: p.Addr().AsSlice(), Length: proto.Uint32(uint32(p.Bits()))}
	}
	return &workloadapi.NetworkAddress{Address: raw(s)}
}

func vips(list ...string) []*workloadapi.NetworkAddress {
	var out []*workloadapi.NetworkAddress
	for _, s := range list {
		out = append(out, vip(s))
	}
	return out
}

// ports reads pairs of service port and target port.
func ports(pairs ...uint32) []*pbPort {
	var out []*pbPort
	for i := 0; i+1 < len(pairs); i += 2 {
		out = append(out, &pbPort{ServicePort: pairs[i], TargetPort: pairs[i+1]})
	}
	return out
}

// in is the membership of one service, with ports that the endpoint maps.
func in(service string, pairs ...uint32) map[string]*workloadapi.PortList {
	return map[string]*workloadapi.PortList{service: {Ports: ports(pairs...)}}
}

// resource wraps a workload, a service or a policy.
func resource(t testing.TB, m proto.Message) *discoveryv3.Resource {
	t.Helper()
	r := &discoveryv3.Resource{}
	switch m := m.(type) {
	case *pbWorkload:
		r.Name = m.GetUid()
		r.Resource = pack(t, &workloadapi.Address{Type: &workloadapi.Address_Workload{Workload: m}})
	case *pbService:
		r.Name = m.GetNamespace() + "/" + m.GetHostname()
		r.Resource = pack(t, &workloadapi.Address{Type: &workloadapi.Address_Service{Service: m}})
	case *securityapi.Authorization:
		r.Name = m.GetNamespace() + "/" + m.GetName()
		r.Resource = pack(t, m)
	default:
		t.Fatalf("no resource of %T", m)
	}
	return r
}

func pack(t testing.TB, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func newStore() *workload.Store { return workload.NewStore(workload.Config{NodeName: "node-1"}) }

// apply gives addresses and policies to s; none may be rejected.
func apply(t testing.TB, s *workload.Store, list ...proto.Message) *workload.Snapshot {
	t.Helper()
	for _, m := range list {
		put := s.ApplyAddresses
		if _, ok := m.(*securityapi.Authorization); ok {
			put = s.ApplyAuthorizations
		}
		if rejected := put(resources{resource(t, m)}, nil); len(rejected) > 0 {
			t.Fatalf("rejected: %v", rejected)
		}
	}
	return s.Snapshot()
}

// picture is the snapshot of these resources alone.
func picture(t testing.TB, list ...proto.Message) *workload.Snapshot {
	t.Helper()
	return apply(t, newStore(), list...)
}

// key names what was found, for tables: a UID, a service key, or "".
func found(w *workload.Workload, svc *workload.Service) string {
	switch {
	case w != nil:
		return w.UID
	case svc != nil:
		return svc.Key.String()
	}
	return ""
}
