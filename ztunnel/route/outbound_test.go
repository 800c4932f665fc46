package route_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ambit-mesh/ambit/internal/meshapi/workloadapi"
	"github.com/ambit-mesh/ambit/internal/workload"
	"github.com/ambit-mesh/ambit/ztunnel/route"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type (
	pbWorkload = workloadapi.Workload
	pbService  = workloadapi.Service
)

func vip(s string) *workloadapi.NetworkAddress {
	return &workloadapi.NetworkAddress{Address: netip.MustParseAddr(s).AsSlice()}
}

func addrs(list ...string) [][]byte {
	var out [][]byte
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s).AsSlice())
	}
	return out
}

func ports(pairs ...uint32) []*workloadapi.Port {
	var out []*workloadapi.Port
	for i := 0; i+1 < len(pairs); i += 2 {
		out = append(out, &workloadapi.Port{ServicePort: pairs[i], TargetPort: pairs[i+1]})
	}
	return out
}

// pod is a workload ns/uid of service account uid.
func pod(uid, addr string, change ...func(*pbWorkload)) *pbWorkload {
	w := &pbWorkload{Uid: uid, Name: uid, Namespace: "ns", ServiceAccount: uid, TrustDomain: "td", Addresses: addrs(addr)}
	for _, fn := range change {
		fn(w)
	}
	return w
}

func tunnel(w *pbWorkload)    { w.TunnelProtocol = workloadapi.TunnelProtocol_HBONE }
func unhealthy(w *pbWorkload) { w.Status = workloadapi.WorkloadStatus_UNHEALTHY }
func onHost(w *pbWorkload)    { w.NetworkMode = workloadapi.NetworkMode_HOST_NETWORK }

func of(service string, pairs ...uint32) func(*pbWorkload) {
	return func(w *pbWorkload) {
		if w.Services == nil {
			w.Services = map[string]*workloadapi.PortList{}
		}
		w.Services[service] = &workloadapi.PortList{Ports: ports(pairs...)}
	}
}

func on(node string) func(*pbWorkload) { return func(w *pbWorkload) { w.Node = node } }

func network(n string) func(*pbWorkload) { return func(w *pbWorkload) { w.Network = n } }

func byAddr(a string, port uint32) *workloadapi.GatewayAddress {
	return &workloadapi.GatewayAddress{HboneMtlsPort: port, Destination: &workloadapi.GatewayAddress_Address{Address: vip(a)}}
}

func byHost(host string, port uint32) *workloadapi.GatewayAddress {
	return &workloadapi.GatewayAddress{HboneMtlsPort: port, Destination: &workloadapi.GatewayAddress_Hostname{
		Hostname: &workloadapi.NamespacedHostname{Namespace: "ns", Hostname: host},
	}}
}

func via(g *workloadapi.GatewayAddress) func(*pbWorkload) {
	return func(w *pbWorkload) { w.Waypoint = g }
}

func service(host, addr string, change ...func(*pbService)) *pbService {
	s := &pbService{Name: host, Namespace: "ns", Hostname: host, Ports: ports(80, 8080)}
	if addr != "" {
		s.Addresses = append(s.Addresses, vip(addr))
	}
	for _, fn := range change {
		fn(s)
	}
	return s
}

func passthrough(s *pbService) {
	s.LoadBalancing = &workloadapi.LoadBalancing{Mode: workloadapi.LoadBalancing_PASSTHROUGH}
}

func svcVia(g *workloadapi.GatewayAddress) func(*pbService) {
	return func(s *pbService) { s.Waypoint = g }
}

func picture(t testing.TB, list ...proto.Message) *workload.Snapshot {
	t.Helper()
	return storeOf(t, list...).Snapshot()
}

func storeOf(t testing.TB, list ...proto.Message) *workload.Store {
	t.Helper()
	store := workload.NewStore(workload.Config{})
	for _, m := range list {
		r, a := &discoveryv3.Resource{}, &workloadapi.Address{}
		switch m := m.(type) {
		case *pbWorkload:
			r.Name, a.Type = m.Uid, &workloadapi.Address_Workload{Workload: m}
		case *pbService:
			r.Name, a.Type = m.Namespace+"/"+m.Hostname, &workloadapi.Address_Service{Service: m}
		}
		var err error
		if r.Resource, err = anypb.New(a); err != nil {
			t.Fatal(err)
		}
		if rejected := store.ApplyAddresses([]*discoveryv3.Resource{r}, nil); len(rejected) > 0 {
			t.Fatal(rejected)
		}
	}
	return store
}

// text is a plan in one line: mode, hop, authority, who may answer, and what is
// known of the destination.
func text(p route.Plan) string {
	out := []string{p.Mode.String(), p.Hop.String()}
	if p.Host != "" {
		out[1] = fmt.Sprintf("%s:%d", p.Host, p.Hop.Port())
	}
	if p.Mode == route.Tunnel {
		out = append(out, p.Authority.String())
		var who []string
		for _, id := range p.Accept {
			who = append(who, id.ServiceAccount)
		}
		out = append(out, "accept="+strings.Join(who, ","))
	}
	if p.Destination != nil {
		out = append(out, "to="+p.Destination.UID)
	}
	if p.Service != nil {
		out = append(out, "svc="+p.Service.Hostname)
	}
	if p.Waypoint {
		out = append(out, "waypoint")
	}
	return strings.Join(out, " ")
}

// Where a pod of the mesh was a moment ago nothing is sent in the clear: who is
// there now may be anybody.
func TestResolveWhoIsGone(t *testing.T) {
	now := time.Now()
	for _, tt := range []struct {
		name string
		gone *pbWorkload
		when time.Time
		dst  string
		want string // "" means refused
	}{
		{"a pod of the mesh", pod("d", "10.0.0.2", tunnel), now, "10.0.0.2:80", ""},
		{"the same, IPv4 in IPv6", pod("d", "10.0.0.2", tunnel), now, "[::ffff:10.0.0.2]:80", ""},
		{"a minute later", pod("d", "10.0.0.2", tunnel), now.Add(2 * workload.GoneFor), "10.0.0.2:80", "direct 10.0.0.2:80"},
		{"a pod outside", pod("d", "10.0.0.2"), now, "10.0.0.2:80", "direct 10.0.0.2:80"},
		{"its neighbour", pod("d", "10.0.0.2", tunnel), now, "10.0.0.3:80", "direct 10.0.0.3:80"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			store := storeOf(t, pod("s", "10.0.0.1", tunnel), tt.gone)
			store.ApplyAddresses(nil, []string{tt.gone.Uid})
			snap := store.Snapshot()
			got, err := route.Resolve(snap, snap.Workload("s"), netip.MustParseAddrPort(tt.dst), route.Options{Now: tt.when})
			if tt.want != "" {
				if err != nil || text(got) != tt.want {
					t.Errorf("Resolve = %q, %v; want %q", text(got), err, tt.want)
				}
				return
			}
			if re, ok := errors.AsType[*route.Error](err); !ok || re.Reason != route.ReasonNoDestination {
				t.Errorf("Resolve = %q, %v; want it refused", text(got), err)
			}
		})
	}
}

func TestResolve(t *testing.T) {
	san := func(s *pbService) { s.SubjectAltNames = []string{"spiffe://td/ns/ns/sa/extra"} }
	families := func(f workloadapi.IPFamilies) func(*pbService) { return func(s *pbService) { s.IpFamilies = f } }
	noPorts := func(s *pbService) { s.Ports = nil }
	wpPort := func(s *pbService) { s.Ports = ports(15009, 15008) }
	two := func(w *pbWorkload) { w.Addresses = addrs("10.0.0.2", "2001:db8::2") }
	nameOnly := func(w *pbWorkload) { w.Addresses, w.Hostname = nil, "db.example" }
	weighted := func(s *pbService) {
		s.WeightedWaypoints = []*workloadapi.WeightedWaypoint{{Destination: byHost("canary", 15008), Weight: 1}}
	}
	tests := []struct {
		name   string
		all    []proto.Message
		dst    string
		want   string
		reason route.Reason
	}{
		{name: "unknown_dest -> TCP original", dst: "1.2.3.4:80", want: "direct 1.2.3.4:80"},
		{name: "wrong_network -> TCP original", all: []proto.Message{pod("d", "10.0.0.2", tunnel, network("n2"))}, dst: "10.0.0.2:80", want: "direct 10.0.0.2:80"},
		{name: "known_dest remote tcp", all: []proto.Message{pod("d", "10.0.0.2", on("elsewhere"))}, dst: "10.0.0.2:80", want: "direct 10.0.0.2:80 to=d"},
		{name: "known_dest local tcp", all: []proto.Message{pod("d", "10.0.0.2", on("here"))}, dst: "10.0.0.2:80", want: "direct 10.0.0.2:80 to=d"},
		{name: "known_dest remote hbone", all: []proto.Message{pod("d", "10.0.0.2", tunnel, on("elsewhere"))}, dst: "10.0.0.2:80", want: "tunnel 10.0.0.2:15008 10.0.0.2:80 accept=d to=d"},
		{name: "known_dest local hbone: no shortcut", all: []proto.Message{pod("d", "10.0.0.2", tunnel, on("here"))}, dst: "10.0.0.2:80", want: "tunnel 10.0.0.2:15008 10.0.0.2:80 accept=d to=d"},
		{name: "IPv4 in IPv6 destination", all: []proto.Message{pod("d", "10.0.0.2", tunnel)}, dst: "[::ffff:10.0.0.2]:80", want: "tunnel 10.0.0.2:15008 10.0.0.2:80 accept=d to=d"},
		{name: "source_waypoint is ignored", all: []proto.Message{pod("src", "10.0.0.1", tunnel, via(byAddr("10.0.0.9", 15008))), pod("d", "10.0.0.2", tunnel), pod("wp", "10.0.0.9", tunnel)}, dst: "10.0.0.2:80", want: "tunnel 10.0.0.2:15008 10.0.0.2:80 accept=d to=d"},
		{name: "destination_waypoint used, authority is the original", all: []proto.Message{pod("d", "10.0.0.2", tunnel, via(byAddr("10.0.0.9", 15018))), pod("wp", "10.0.0.9", tunnel)}, dst: "10.0.0.2:80", want: "tunnel 10.0.0.9:15018 10.0.0.2:80 accept=wp to=wp waypoint"},
		{name: "destination_waypoint of a plain workload: HBONE all the same", all: []proto.Message{pod("d", "10.0.0.2", via(byAddr("10.0.0.9", 15008))), pod("wp", "10.0.0.9")}, dst: "10.0.0.2:80", want: "tunnel 10.0.0.9:15008 10.0.0.2:80 accept=wp to=wp waypoint"},
		{name: "destination_waypoint by host name of a service", all: []proto.Message{pod("d", "10.0.0.2", tunnel, via(byHost("wp.svc", 15009))), service("wp.svc", "", wpPort, san), pod("wp", "10.0.0.9", tunnel, of("ns/wp.svc"))}, dst: "10.0.0.2:80", want: "tunnel 10.0.0.9:15008 10.0.0.2:80 accept=extra,wp to=wp waypoint"},
		{name: "destination_waypoint_mismatch_ip: the source's identity from another address goes through it", all: []proto.Message{pod("src", "10.0.0.1", tunnel), pod("d", "10.0.0.2", tunnel, via(byAddr("10.0.0.9", 15008))), pod("wp", "10.0.0.9", tunnel, func(w *pbWorkload) { w.ServiceAccount = "src" })}, dst: "10.0.0.2:80", want: "tunnel 10.0.0.9:15008 10.0.0.2:80 accept=src to=wp waypoint"},
		{name: "the waypoint itself goes direct", all: []proto.Message{pod("src", "10.0.0.1", tunnel), pod("d", "10.0.0.2", tunnel, via(byAddr("10.0.0.1", 15008)))}, dst: "10.0.0.2:80", want: "tunnel 10.0.0.2:15008 10.0.0.2:80 accept=d to=d"},
		{name: "an instance of the waypoint's service goes direct", all: []proto.Message{pod("src", "10.0.0.1", tunnel, of("ns/wp.svc")), service("wp.svc", "", wpPort), pod("d", "10.0.0.2", tunnel, via(byHost("wp.svc", 15009)))}, dst: "10.0.0.2:80", want: "tunnel 10.0.0.2:15008 10.0.0.2:80 accept=d to=d"},
		{name: "destination_waypoint missing: refused, no way around", all: []proto.Message{pod("d", "10.0.0.2", tunnel, via(byAddr("10.0.0.9", 15008)))}, dst: "10.0.0.2:80", reason: route.ReasonUnknownWaypoint},
		{name: "destination_svc_waypoint", all: []proto.Message{service("s", "10.9.0.1", svcVia(byHost("wp.svc", 15009))), pod("d", "10.0.0.2", tunnel, of("ns/s")), service("wp.svc", "", wpPort), pod("wp", "10.0.0.9", tunnel, of("ns/wp.svc"))}, dst: "10.9.0.1:80", want: "tunnel 10.0.0.9:15008 10.9.0.1:80 accept=wp to=wp svc=s waypoint"},
		{name: "service waypoint by a workload's host name", all: []proto.Message{service("s", "10.9.0.1", svcVia(byHost("wp.example", 15008))), pod("wp", "10.0.0.9", tunnel, func(w *pbWorkload) { w.Hostname = "wp.example" })}, dst: "10.9.0.1:80", want: "tunnel 10.0.0.9:15008 10.9.0.1:80 accept=wp to=wp svc=s waypoint"},
		{name: "service waypoint unknown: refused", all: []proto.Message{service("s", "10.9.0.1", svcVia(byHost("wp.svc", 15009))), pod("d", "10.0.0.2", tunnel, of("ns/s"))}, dst: "10.9.0.1:80", reason: route.ReasonUnknownWaypoint},
		{name: "service waypoint that the control plane says cannot be used: refused", all: []proto.Message{service("s", "10.9.0.1", svcVia(byHost("_unusable.wp.ns", 15008))), pod("d", "10.0.0.2", tunnel, of("ns/s")), service("wp.ns", "", wpPort), pod("wp", "10.0.0.9", tunnel, of("ns/wp.ns"))}, dst: "10.9.0.1:80", reason: route.ReasonUnknownWaypoint},
		{name: "service waypoint is a service without a port for tunnels: refused", all: []proto.Message{service("s", "10.9.0.1", svcVia(byHost("wp.svc", 15008))), pod("d", "10.0.0.2", tunnel, of("ns/s")), service("wp.svc", ""), pod("wp", "10.0.0.9", tunnel, of("ns/wp.svc"))}, dst: "10.9.0.1:80", reason: route.ReasonUnknownWaypoint},
		{name: "service waypoint of its name in another namespace: refused", all: []proto.Message{service("s", "10.9.0.1", svcVia(byHost("wp.svc", 15009))), pod("d", "10.0.0.2", tunnel, of("ns/s")), service("wp.svc", "", wpPort, func(s *pbService) { s.Namespace = "evil" }), pod("wp", "10.0.0.9", tunnel, of("evil/wp.svc"))}, dst: "10.9.0.1:80", reason: route.ReasonUnknownWaypoint},
		{name: "destination_waypoint without healthy endpoint: refused", all: []proto.Message{pod("d", "10.0.0.2", tunnel, via(byHost("wp.svc", 15009))), service("wp.svc", "", wpPort), pod("wp", "10.0.0.9", tunnel, unhealthy, of("ns/wp.svc"))}, dst: "10.0.0.2:80", reason: route.ReasonUnknownWaypoint},
		{name: "service waypoint without healthy endpoint: refused", all: []proto.Message{service("s", "10.9.0.1", svcVia(byHost("wp.svc", 15009))), service("wp.svc", "", wpPort), pod("wp", "10.0.0.9", tunnel, unhealthy, of("ns/wp.svc"))}, dst: "10.9.0.1:80", reason: route.ReasonUnknownWaypoint},
		{name: "service waypoint even from the waypoint's own pod", all: []proto.Message{pod("src", "10.0.0.1", tunnel), service("s", "10.9.0.1", svcVia(byAddr("10.0.0.1", 15008)))}, dst: "10.9.0.1:80", want: "tunnel 10.0.0.1:15008 10.9.0.1:80 accept=src to=src svc=s waypoint"},
		{name: "waypoint of an endpoint is ignored for a service", all: []proto.Message{service("s", "10.9.0.1"), pod("d", "10.0.0.2", tunnel, of("ns/s"), via(byAddr("10.0.0.9", 15008)))}, dst: "10.9.0.1:80", want: "tunnel 10.0.0.2:15008 10.0.0.2:8080 accept=d to=d svc=s"},
		{name: "weighted waypoint before the single one", all: []proto.Message{service("s", "10.9.0.1", svcVia(byAddr("10.0.0.8", 15008)), weighted), service("canary", "", func(s *pbService) { s.Ports = ports(15008, 15008) }), pod("wp2", "10.0.0.9", tunnel, of("ns/canary"))}, dst: "10.9.0.1:80", want: "tunnel 10.0.0.9:15008 10.9.0.1:80 accept=wp2 to=wp2 svc=s waypoint"},
		{name: "waypoint service without ports, endpoint with an application tunnel", all: []proto.Message{service("s", "10.9.0.1", svcVia(byHost("wp.svc", 15008))), service("wp.svc", "", noPorts), pod("wp", "10.0.0.9", tunnel, of("ns/wp.svc"), func(w *pbWorkload) { w.ApplicationTunnel = &workloadapi.ApplicationTunnel{Port: 15088} })}, dst: "10.9.0.1:80", want: "tunnel 10.0.0.9:15008 10.9.0.1:80 accept=wp to=wp svc=s waypoint"},
		{name: "empty_service -> error, no passthrough", all: []proto.Message{service("s", "10.9.0.1")}, dst: "10.9.0.1:80", reason: route.ReasonNoUpstream},
		{name: "service without that port -> error", all: []proto.Message{service("s", "10.9.0.1"), pod("d", "10.0.0.2", tunnel, of("ns/s"))}, dst: "10.9.0.1:81", reason: route.ReasonNoUpstream},
		{name: "service with unhealthy endpoints only -> error", all: []proto.Message{service("s", "10.9.0.1"), pod("d", "10.0.0.2", tunnel, unhealthy, of("ns/s"))}, dst: "10.9.0.1:80", reason: route.ReasonNoUpstream},
		{name: "target_port mapped by the service", all: []proto.Message{service("s", "10.9.0.1", san), pod("d", "10.0.0.2", tunnel, of("ns/s"))}, dst: "10.9.0.1:80", want: "tunnel 10.0.0.2:15008 10.0.0.2:8080 accept=extra,d to=d svc=s"},
		{name: "target_port mapped by the endpoint", all: []proto.Message{service("s", "10.9.0.1"), pod("d", "10.0.0.2", tunnel, of("ns/s", 80, 9090))}, dst: "10.9.0.1:80", want: "tunnel 10.0.0.2:15008 10.0.0.2:9090 accept=d to=d svc=s"},
		{name: "plain endpoint of a service", all: []proto.Message{service("s", "10.9.0.1"), pod("d", "10.0.0.2", of("ns/s"))}, dst: "10.9.0.1:80", want: "direct 10.0.0.2:8080 to=d svc=s"},
		{name: "hairpin: the pod picks itself behind the VIP", all: []proto.Message{pod("src", "10.0.0.1", tunnel, of("ns/s")), service("s", "10.9.0.1")}, dst: "10.9.0.1:80", want: "tunnel 10.0.0.1:15008 10.0.0.1:8080 accept=src to=src svc=s"},
		{name: "host_network endpoint by VIP ok", all: []proto.Message{service("s", "10.9.0.1"), pod("d", "10.0.0.2", onHost, of("ns/s"))}, dst: "10.9.0.1:80", want: "direct 10.0.0.2:8080 to=d svc=s"},
		{name: "host_network by IP unknown", all: []proto.Message{pod("d", "10.0.0.2", onHost)}, dst: "10.0.0.2:80", want: "direct 10.0.0.2:80"},
		{name: "multiple_address_workload picks requested IP", all: []proto.Message{pod("d", "10.0.0.2", tunnel, two)}, dst: "[2001:db8::2]:80", want: "tunnel [2001:db8::2]:15008 [2001:db8::2]:80 accept=d to=d"},
		{name: "multiple_address_workload picks the family of the VIP", all: []proto.Message{service("s", "2001:db8::9"), pod("d", "10.0.0.2", tunnel, two, of("ns/s"))}, dst: "[2001:db8::9]:80", want: "tunnel [2001:db8::2]:15008 [2001:db8::2]:8080 accept=d to=d svc=s"},
		{name: "service_ip_families restriction", all: []proto.Message{service("s", "2001:db8::9", families(workloadapi.IPFamilies_IPV4_ONLY)), pod("d", "10.0.0.2", tunnel, two, of("ns/s"))}, dst: "[2001:db8::9]:80", want: "tunnel 10.0.0.2:15008 10.0.0.2:8080 accept=d to=d svc=s"},
		{name: "service_ip_families leaves no address -> error", all: []proto.Message{service("s", "10.9.0.1", families(workloadapi.IPFamilies_IPV6_ONLY)), pod("d", "10.0.0.2", tunnel, of("ns/s"))}, dst: "10.9.0.1:80", reason: route.ReasonNoDestination},
		{name: "passthrough_svc -> original", all: []proto.Message{service("s", "10.9.0.1", passthrough), pod("d", "10.0.0.2", tunnel, of("ns/s"))}, dst: "10.9.0.1:80", want: "direct 10.9.0.1:80"},
		{name: "passthrough_svc_with_waypoint -> waypoint", all: []proto.Message{service("s", "10.9.0.1", passthrough, svcVia(byAddr("10.0.0.9", 15008))), pod("wp", "10.0.0.9", tunnel)}, dst: "10.9.0.1:80", want: "tunnel 10.0.0.9:15008 10.9.0.1:80 accept=wp to=wp svc=s waypoint"},
		{name: "a VIP comes before a workload of that address", all: []proto.Message{service("s", "10.0.0.2"), pod("d", "10.0.0.2", tunnel), pod("e", "10.0.0.3", tunnel, of("ns/s"))}, dst: "10.0.0.2:80", want: "tunnel 10.0.0.3:15008 10.0.0.3:8080 accept=e to=e svc=s"},
		{name: "double_hbone refused: an endpoint on another network only", all: []proto.Message{service("s", "10.9.0.1"), pod("d", "10.0.0.2", tunnel, network("n2"), of("ns/s"))}, dst: "10.9.0.1:80", reason: route.ReasonUnsupported},
		{name: "failover_to_remote refused: the local endpoint is unhealthy", all: []proto.Message{service("s", "10.9.0.1"), pod("l", "10.0.0.2", tunnel, unhealthy, of("ns/s")), pod("r", "10.0.0.3", tunnel, network("n2"), of("ns/s"))}, dst: "10.9.0.1:80", reason: route.ReasonUnsupported},
		{name: "failover_to_remote not needed: a remote endpoint beside a local one", all: []proto.Message{service("s", "10.9.0.1"), pod("a-remote", "10.0.0.3", tunnel, network("n2"), of("ns/s")), pod("l", "10.0.0.2", tunnel, of("ns/s"))}, dst: "10.9.0.1:80", want: "tunnel 10.0.0.2:15008 10.0.0.2:8080 accept=l to=l svc=s"},
		{name: "a waypoint on another network -> unsupported", all: []proto.Message{service("s", "10.9.0.1", svcVia(byHost("wp.svc", 15009))), service("wp.svc", "", wpPort), pod("wp", "10.0.0.9", tunnel, network("n2"), of("ns/wp.svc"))}, dst: "10.9.0.1:80", reason: route.ReasonUnsupported},
		{name: "an endpoint known by DNS name only: the name is looked up", all: []proto.Message{service("s", "10.9.0.1"), pod("d", "10.0.0.2", nameOnly, of("ns/s"))}, dst: "10.9.0.1:80", want: "direct db.example:8080 to=d svc=s"},
		{name: "an endpoint known by DNS name only, behind a tunnel -> unsupported", all: []proto.Message{service("s", "10.9.0.1"), pod("d", "10.0.0.2", nameOnly, tunnel, of("ns/s"))}, dst: "10.9.0.1:80", reason: route.ReasonUnsupported},
		{name: "loop into the outbound port", dst: "127.0.0.1:15001", reason: route.ReasonSelfCall},
		{name: "loop into the plaintext port", dst: "127.0.0.1:15006", reason: route.ReasonSelfCall},
		{name: "loop into the tunnel port by IPv6", dst: "[::1]:15008", reason: route.ReasonSelfCall},
		{name: "15080 is no port of ours", dst: "127.0.0.1:15080", want: "direct 127.0.0.1:15080"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			snap := picture(t, append([]proto.Message{pod("src", "10.0.0.1", tunnel)}, tt.all...)...)
			p, err := route.Resolve(snap, snap.Workload("src"), netip.MustParseAddrPort(tt.dst), route.Options{Rand: func(uint64) uint64 { return 0 }})
			var re *route.Error
			switch {
			case tt.reason == 0 && err != nil:
				t.Errorf("Resolve: %v", err)
			case tt.reason == 0:
				if got := text(p); got != tt.want {
					t.Errorf("plan = %s\nwant   %s", got, tt.want)
				}
			case !errors.As(err, &re) || re.Reason != tt.reason:
				t.Errorf("Resolve = %s, %v; want %v", text(p), err, tt.reason)
			}
		})
	}
}

// What has endpoints that are ill may have healthy ones in a moment; what has none
// has not.
func TestWhatMayPass(t *testing.T) {
	for _, tt := range []struct {
		name string
		all  []proto.Message
		dst  string
		want bool
	}{
		{"no endpoint", []proto.Message{service("s", "10.9.0.1")}, "10.9.0.1:80", false},
		{"none for that port", []proto.Message{service("s", "10.9.0.1"), pod("d", "10.0.0.2", tunnel, of("ns/s"))}, "10.9.0.1:81", false},
		{"none that is healthy", []proto.Message{service("s", "10.9.0.1"), pod("d", "10.0.0.2", tunnel, unhealthy, of("ns/s"))}, "10.9.0.1:80", true},
	} {
		snap := picture(t, append([]proto.Message{pod("src", "10.0.0.1", tunnel)}, tt.all...)...)
		_, err := route.Resolve(snap, snap.Workload("src"), netip.MustParseAddrPort(tt.dst), route.Options{Rand: func(uint64) uint64 { return 0 }})
		if re, ok := errors.AsType[*route.Error](err); !ok || re.MayPass != tt.want {
			t.Errorf("%s: %v, want one that may pass: %v", tt.name, err, tt.want)
		}
	}
}

func TestUnsupportedNamesWhatIsUnsupported(t *testing.T) {
	snap := picture(t, pod("src", "10.0.0.1"), service("s", "10.9.0.1"), pod("d", "10.0.0.2", tunnel, network("n2"), of("ns/s")))
	_, err := route.Resolve(snap, snap.Workload("src"), netip.MustParseAddrPort("10.9.0.1:80"), route.Options{Rand: func(uint64) uint64 { return 0 }})
	if err == nil || !strings.Contains(err.Error(), `multi-network`) || !strings.Contains(err.Error(), `"n2"`) {
		t.Errorf("error = %v, want one that names multi-network and n2", err)
	}
}

func TestResolveExcludesWhatWasTried(t *testing.T) {
	snap := picture(t, pod("src", "10.0.0.1"), service("s", "10.9.0.1"), pod("a", "10.0.0.2", tunnel, of("ns/s")), pod("b", "10.0.0.3", tunnel, of("ns/s")))
	var got, tried []string
	for range 3 {
		p, err := route.Resolve(snap, snap.Workload("src"), netip.MustParseAddrPort("10.9.0.1:80"), route.Options{
			Rand:    func(uint64) uint64 { return 0 },
			Exclude: func(uid string) bool { return slices.Contains(tried, uid) },
		})
		if err != nil {
			got = append(got, "none")
			break
		}
		tried = append(tried, p.Destination.UID)
		got = append(got, p.Destination.UID)
	}
	if want := []string{"a", "b", "none"}; !slices.Equal(got, want) {
		t.Errorf("tries went to %v, want %v", got, want)
	}
}

func TestFromWaypointByTheAddressOfTheConnection(t *testing.T) {
	snap := picture(t,
		pod("src", "10.0.0.1", tunnel, func(w *pbWorkload) { w.Addresses = addrs("10.0.0.1", "10.0.0.5") }),
		pod("wp", "10.0.0.9", tunnel, func(w *pbWorkload) { w.ServiceAccount, w.Addresses = "src", addrs("10.0.0.9", "10.0.0.5") }),
		pod("d", "10.0.0.2", tunnel, via(byAddr("10.0.0.9", 15008))))
	for from, want := range map[string]bool{"10.0.0.1": true, "10.0.0.5": false} {
		p, err := route.Resolve(snap, snap.Workload("src"), netip.MustParseAddrPort("10.0.0.2:80"), route.Options{
			Rand: func(uint64) uint64 { return 0 }, SourceIP: netip.MustParseAddr(from),
		})
		if err != nil || p.Waypoint != want {
			t.Errorf("from %s: through the waypoint = %v, %v; want %v", from, p.Waypoint, err, want)
		}
	}
}
