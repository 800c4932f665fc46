package workload_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/meshapi/securityapi"
	"github.com/ambit-mesh/ambit/internal/meshapi/workloadapi"
	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/internal/workload"
)

var svcKey = workload.Key{Namespace: "s", Hostname: "svc"}

// endpointsOf lists the endpoints of s/svc by UID; "no service" without it.
func endpointsOf(snap *workload.Snapshot) string {
	svc := snap.Service(svcKey)
	if svc == nil {
		return "no service"
	}
	var out []string
	for _, e := range snap.Endpoints(svc) {
		out = append(out, e.Workload.UID)
	}
	return strings.Join(out, " ")
}

// Endpoints come from workloads only, and wait for their service.
func TestEndpointStaging(t *testing.T) {
	svc := &pbService{Namespace: "s", Hostname: "svc", Ports: ports(80, 8080)}
	all := proto.Clone(svc).(*pbService)
	all.LoadBalancing = &lb{HealthPolicy: workloadapi.LoadBalancing_ALLOW_ALL}
	left := ep("a", "")
	left.Services = nil
	moved := ep("a", "")
	moved.Services = in("s/other")
	remove := func(names ...string) func(*workload.Store) {
		return func(s *workload.Store) { s.ApplyAddresses(nil, names) }
	}
	put := func(m proto.Message) func(*workload.Store) {
		return func(s *workload.Store) { apply(t, s, m) }
	}
	tests := []struct {
		name  string
		steps []func(*workload.Store)
		want  string
	}{
		{"service first", []func(*workload.Store){put(svc), put(ep("a", ""))}, "a"},
		{"workload first", []func(*workload.Store){put(ep("a", "")), put(svc)}, "a"},
		{"service removal and re-add", []func(*workload.Store){put(svc), put(ep("a", "")), remove("s/svc"), put(svc)}, "a"},
		{"removed service has none", []func(*workload.Store){put(svc), put(ep("a", "")), remove("s/svc")}, "no service"},
		{"update of the service keeps them", []func(*workload.Store){put(svc), put(ep("a", "")), put(all)}, "a"},
		{"update of the workload: left the service", []func(*workload.Store){put(svc), put(ep("a", "")), put(left)}, ""},
		{"update of the workload: moved to another", []func(*workload.Store){put(svc), put(ep("a", "")), put(moved)}, ""},
		{"cleanup: workload removed while staged", []func(*workload.Store){put(ep("a", "")), remove("a"), put(svc)}, ""},
		{"cleanup: workload left while staged", []func(*workload.Store){put(ep("a", "")), put(left), put(svc)}, ""},
		{"unhealthy staged", []func(*workload.Store){put(ep("a", "", unhealthy)), put(ep("b", "")), put(svc)}, "b"},
		{"unhealthy staged, ALLOW_ALL", []func(*workload.Store){put(ep("a", "", unhealthy)), put(all)}, "a"},
		{"unhealthy update", []func(*workload.Store){put(svc), put(ep("a", "")), put(ep("a", "", unhealthy))}, ""},
		{"healthy again", []func(*workload.Store){put(svc), put(ep("a", "", unhealthy)), put(ep("a", ""))}, "a"},
		{"the policy changes to ALLOW_ALL", []func(*workload.Store){put(svc), put(ep("a", "", unhealthy)), put(all)}, "a"},
		{"the policy changes to ONLY_HEALTHY", []func(*workload.Store){put(all), put(ep("a", "", unhealthy)), put(svc)}, ""},
		{"unknown names are ignored", []func(*workload.Store){put(svc), put(ep("a", "")), remove("b", "x/y", "", "a/b/c")}, "a"},
		{"a workload in the place of a service of that name", []func(*workload.Store){put(svc), put(&pbWorkload{Uid: "s/svc"})}, "no service"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore()
			for _, step := range tt.steps {
				step(s)
			}
			if got := endpointsOf(s.Snapshot()); got != tt.want {
				t.Errorf("endpoints = %q, want %q", got, tt.want)
			}
			for _, w := range s.Snapshot().Workloads() { // unhealthy ones stay to be found
				if len(w.Addresses) > 0 && found(s.Snapshot().LookupWorkload("", w.Addresses[0]), nil) == "" {
					t.Errorf("workload %s is not found by its address", w.UID)
				}
			}
		})
	}
}

// Updates of one response apply before its removals.
func TestUpdatesBeforeRemovals(t *testing.T) {
	s := newStore()
	s.ApplyAddresses(resources{resource(t, ep("a", "")), resource(t, ep("b", ""))}, []string{"a"})
	if snap := s.Snapshot(); snap.Workload("a") != nil || snap.Workload("b") == nil || snap.Version() != 1 {
		t.Errorf("after one response: a %v, b %v, version %d; want only b, version 1", snap.Workload("a"), snap.Workload("b"), snap.Version())
	}
}

func TestRejections(t *testing.T) {
	addr := func(m *pbWorkload) *workloadapi.Address {
		m.Uid = "u"
		return &workloadapi.Address{Type: &workloadapi.Address_Workload{Workload: m}}
	}
	svc := func(m *pbService) *workloadapi.Address {
		m.Namespace, m.Hostname = "s", "svc"
		return &workloadapi.Address{Type: &workloadapi.Address_Service{Service: m}}
	}
	gw := func(port uint32) *workloadapi.GatewayAddress {
		return &workloadapi.GatewayAddress{HboneMtlsPort: port, Destination: &workloadapi.GatewayAddress_Address{Address: vip("10.0.0.1")}}
	}
	tests := []struct {
		name string
		in   *workloadapi.Address
		want string // part of the reason
	}{
		{"neither workload nor service", &workloadapi.Address{}, "neither a workload nor a service"},
		{"workload without uid", &workloadapi.Address{Type: &workloadapi.Address_Workload{Workload: &pbWorkload{}}}, "uid is empty"},
		{"another workload than the name says", &workloadapi.Address{Type: &workloadapi.Address_Workload{Workload: &pbWorkload{Uid: "x"}}}, `holds workload "x"`},
		{"byte_to_ip: 0 bytes", addr(&pbWorkload{Addresses: [][]byte{{}}}), "addresses[0]: an address of 0 bytes, want 4 or 16"},
		{"byte_to_ip: 5 bytes", addr(&pbWorkload{Addresses: [][]byte{raw("10.0.0.1"), []byte("12345")}}), "addresses[1]: an address of 5 bytes, want 4 or 16"},
		{"LEGACY tunnel", addr(&pbWorkload{TunnelProtocol: workloadapi.TunnelProtocol_LEGACY_ISTIO_MTLS}), "tunnel_protocol: LEGACY_ISTIO_MTLS is not supported"},
		{"unknown tunnel", addr(&pbWorkload{TunnelProtocol: 9}), "tunnel_protocol: 9 is not known"},
		{"unknown workload type", addr(&pbWorkload{WorkloadType: 9}), "workload_type: 9 is not known"},
		{"unknown status", addr(&pbWorkload{Status: 9}), "status: 9 is not known"},
		{"unknown network mode", addr(&pbWorkload{NetworkMode: 9}), "network_mode: 9 is not known"},
		{"unknown application tunnel", addr(&pbWorkload{ApplicationTunnel: &workloadapi.ApplicationTunnel{Protocol: 9}}), "application_tunnel.protocol: 9 is not known"},
		{"application tunnel port", addr(&pbWorkload{ApplicationTunnel: &workloadapi.ApplicationTunnel{Port: 65536}}), "application_tunnel.port: 65536 is not a port"},
		{"waypoint without destination", addr(&pbWorkload{Waypoint: &workloadapi.GatewayAddress{}}), "waypoint: destination is missing"},
		{"waypoint port", addr(&pbWorkload{Waypoint: gw(65536)}), "waypoint: hbone_mtls_port: 65536 is not a port"},
		{"waypoint host", addr(&pbWorkload{Waypoint: &workloadapi.GatewayAddress{Destination: &workloadapi.GatewayAddress_Hostname{Hostname: &workloadapi.NamespacedHostname{}}}}), "waypoint: hostname is empty"},
		{"network gateway address", addr(&pbWorkload{NetworkGateway: &workloadapi.GatewayAddress{Destination: &workloadapi.GatewayAddress_Address{}}}), "network_gateway: address: an address of 0 bytes"},
		{"membership key", addr(&pbWorkload{Services: in("svc")}), `services: key "svc" is not namespace/hostname`},
		{"membership port", addr(&pbWorkload{Services: in("s/svc", 80, 65536)}), `services["s/svc"]: ports[0].target_port: 65536 is not a port`},
		{"service without host name", &workloadapi.Address{Type: &workloadapi.Address_Service{Service: &pbService{Namespace: "s"}}}, "do not make a key"},
		{"another service than the name says", &workloadapi.Address{Type: &workloadapi.Address_Service{Service: &pbService{Namespace: "s", Hostname: "x"}}}, `holds service "s/x"`},
		{"VIP of 3 bytes", svc(&pbService{Addresses: []*workloadapi.NetworkAddress{{Address: []byte("123")}}}), "addresses[0]: an address of 3 bytes"},
		{"VIP range too long", svc(&pbService{Addresses: []*workloadapi.NetworkAddress{{Address: raw("10.0.0.1"), Length: proto.Uint32(33)}}}), "addresses[0]: length: a prefix of 10.0.0.1 cannot have 33 bits"},
		{"service port", svc(&pbService{Ports: ports(1<<20, 80)}), "ports[0].service_port: 1048576 is not a port"},
		{"unknown mode", svc(&pbService{LoadBalancing: &lb{Mode: 9}}), "load_balancing: mode: 9 is not known"},
		{"unknown health policy", svc(&pbService{LoadBalancing: &lb{HealthPolicy: 9}}), "load_balancing: health_policy: 9 is not known"},
		{"unknown scope", svc(&pbService{LoadBalancing: &lb{RoutingPreference: []workloadapi.LoadBalancing_Scope{region, 7}}}), "load_balancing: routing_preference[1]: 7 is not known"},
		{"unspecified scope", svc(&pbService{LoadBalancing: &lb{RoutingPreference: []workloadapi.LoadBalancing_Scope{0}}}), "load_balancing: routing_preference[0]: 0 is not known"},
		{"unknown families", svc(&pbService{IpFamilies: 9}), "ip_families: 9 is not known"},
		{"service waypoint", svc(&pbService{Waypoint: &workloadapi.GatewayAddress{}}), "waypoint: destination is missing"},
		{"weighted waypoint", svc(&pbService{WeightedWaypoints: []*workloadapi.WeightedWaypoint{{Weight: 1}}}), "weighted_waypoints[0]: destination is missing"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			name := "u"
			if _, ok := tt.in.GetType().(*workloadapi.Address_Service); ok {
				name = "s/svc"
			}
			s := newStore()
			apply(t, s, ep("u", ""), &pbService{Namespace: "s", Hostname: "svc"})
			before := s.Snapshot()
			good := ep("good", "")
			rejected := s.ApplyAddresses(resources{{Name: name, Resource: pack(t, tt.in)}, resource(t, good)}, nil)
			if len(rejected) != 1 || rejected[name] == nil || !strings.Contains(rejected[name].Error(), tt.want) {
				t.Errorf("rejected = %v, want %s: ...%s...", rejected, name, tt.want)
			}
			after := s.Snapshot()
			if after.Workload("good") == nil {
				t.Error("the good resource of the response was not taken")
			}
			if after.Workload("u") != before.Workload("u") || after.Service(svcKey) != before.Service(svcKey) {
				t.Error("a rejected resource replaced the last good one")
			}
		})
	}
}

// Bytes of the two lengths that are addresses; for the others see TestRejections.
func TestByteToIP(t *testing.T) {
	tests := []struct {
		name string
		raw  []byte
		want string
	}{
		{"byte_to_ip: 4 bytes", []byte{10, 0, 0, 1}, "10.0.0.1"},
		{"byte_to_ip: 16 bytes", append([]byte{0x20, 1, 0xd, 0xb8}, make([]byte, 12)...), "2001:db8::"},
		{"byte_to_ip: 16 bytes that hold 4", append([]byte{10: 0xff, 11: 0xff}, 10, 0, 0, 1), "10.0.0.1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			snap := picture(t, &pbWorkload{Uid: "u", Addresses: [][]byte{tt.raw}})
			if got := found(snap.LookupAddr("", ip(tt.want), "")); got != "u" {
				t.Errorf("%v leads to %q; the workload has %v", tt.want, got, snap.Workload("u").Addresses)
			}
		})
	}
}

func TestRejectsWhatIsNoAddress(t *testing.T) {
	tests := []struct {
		name string
		r    *discoveryv3.Resource
		want string
	}{
		{"no body", &discoveryv3.Resource{Name: "u"}, "no body"},
		{"another type", &discoveryv3.Resource{Name: "u", Resource: pack(t, &securityapi.Authorization{})}, "the resource is of type"},
		{"bytes that do not parse", func() *discoveryv3.Resource {
			r := resource(t, ep("u", ""))
			r.Resource.Value = []byte{0xff}
			return r
		}(), "cannot parse"},
		{"nothing", nil, "no body"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rejected := newStore().ApplyAddresses(resources{tt.r}, nil)
			if err := rejected[tt.r.GetName()]; err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("rejected = %v, want %q", rejected, tt.want)
			}
		})
	}
}

func TestDefaults(t *testing.T) {
	snap := picture(t,
		&pbWorkload{Uid: "u", Namespace: "shop", Addresses: [][]byte{raw("::ffff:10.0.0.1"), raw("10.0.0.1")},
			Waypoint: &workloadapi.GatewayAddress{Destination: &workloadapi.GatewayAddress_Address{Address: vip("10.0.0.9")}}},
		&pbService{Namespace: "s", Hostname: "svc", SubjectAltNames: []string{"spiffe://td/ns/a/sa/b", "not one"}})
	w := snap.Workload("u")
	if w.ServiceAccount != "default" || w.TrustDomain != "cluster.local" || w.ClusterID != "Kubernetes" || w.Capacity != 1 || !w.Healthy {
		t.Errorf("defaults are %q, %q, %q, %d, %v", w.ServiceAccount, w.TrustDomain, w.ClusterID, w.Capacity, w.Healthy)
	}
	if want := (identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "default"}); w.Identity != want {
		t.Errorf("identity = %v, want %v", w.Identity, want)
	}
	if len(w.Addresses) != 1 || w.Addresses[0] != ip("10.0.0.1") {
		t.Errorf("addresses = %v, want 10.0.0.1 once", w.Addresses)
	}
	if w.Waypoint.Port != workload.HBONEPort {
		t.Errorf("waypoint port = %d, want %d", w.Waypoint.Port, workload.HBONEPort)
	}
	if svc := snap.Service(svcKey); len(svc.SANs) != 1 || svc.SANs[0].ServiceAccount != "b" {
		t.Errorf("SANs = %v, want the one that parses", svc.SANs)
	}
}

func authz(ns, name string, scope securityapi.Scope) *securityapi.Authorization {
	return &securityapi.Authorization{Namespace: ns, Name: name, Scope: scope, Action: securityapi.Action_DENY}
}

func TestPoliciesFor(t *testing.T) {
	const global, namespace, selector = securityapi.Scope_GLOBAL, securityapi.Scope_NAMESPACE, securityapi.Scope_WORKLOAD_SELECTOR
	pod := &pbWorkload{Uid: "c//Pod/shop/web", Name: "web", Namespace: "shop", ServiceAccount: "web", Node: "node-1"}
	named := func(names ...string) *pbWorkload {
		p := proto.Clone(pod).(*pbWorkload)
		p.AuthorizationPolicies = names
		return p
	}
	elsewhere := proto.Clone(pod).(*pbWorkload)
	elsewhere.Node = "node-2"
	tests := []struct {
		name string
		all  []proto.Message
		want string // policies, then "missing:" names; "unknown"
	}{
		{"none", []proto.Message{pod}, ""},
		{"unknown workload", nil, "unknown"},
		{"a pod of that name on another node is another pod", []proto.Message{elsewhere}, "unknown"},
		{"global applies everywhere", []proto.Message{pod, authz("root", "g", global)}, "root/g"},
		{"namespace applies in its own", []proto.Message{pod, authz("shop", "n", namespace), authz("bank", "n", namespace)}, "shop/n"},
		{"selector applies when named", []proto.Message{named("shop/s"), authz("shop", "s", selector), authz("shop", "other", selector)}, "shop/s"},
		{"selector of another namespace when named", []proto.Message{named("root/s"), authz("root", "s", selector)}, "root/s"},
		{"named but absent", []proto.Message{named("shop/s", "shop/t"), authz("shop", "t", selector)}, "shop/t missing: shop/s"},
		{"named and of its namespace: once", []proto.Message{named("shop/n"), authz("shop", "n", namespace)}, "shop/n"},
		{"all three", []proto.Message{named("shop/s"), authz("root", "g", global), authz("shop", "n", namespace), authz("shop", "s", selector)}, "shop/n root/g shop/s"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore()
			apply(t, s, tt.all...)
			if got := describe(s.PoliciesFor(policy.Subject{Name: "web", Namespace: "shop", ServiceAccount: "web"})); got != tt.want {
				t.Errorf("applicable = %q, want %q", got, tt.want)
			}
		})
	}
}

func describe(ap policy.Applicable) string {
	if !ap.Known {
		return "unknown"
	}
	var out []string
	for _, p := range ap.Policies {
		out = append(out, p.Name())
	}
	if len(ap.Missing) > 0 {
		out = append(append(out, "missing:"), ap.Missing...)
	}
	return strings.Join(out, " ")
}

func TestAuthorizationUpdates(t *testing.T) {
	s := newStore()
	apply(t, s, authz("shop", "p", securityapi.Scope_NAMESPACE))
	first := s.Snapshot().Policy("shop/p")

	apply(t, s, authz("shop", "p", securityapi.Scope_NAMESPACE))
	if s.Snapshot().Policy("shop/p") != first || s.Snapshot().Version() != 1 {
		t.Error("the same policy sent again is another one")
	}
	bad := resource(t, authz("shop", "p", 9))
	if rejected := s.ApplyAuthorizations(resources{bad}, nil); rejected["shop/p"] == nil || s.Snapshot().Policy("shop/p") != first {
		t.Errorf("a bad policy: rejected %v; want it rejected and the last good one kept", rejected)
	}
	other := resource(t, authz("shop", "p", securityapi.Scope_NAMESPACE))
	other.Name = "shop/q"
	if rejected := s.ApplyAuthorizations(resources{other}, nil); rejected["shop/q"] == nil {
		t.Error("a policy under another name was taken")
	}
	apply(t, s, authz("shop", "p", securityapi.Scope_WORKLOAD_SELECTOR))
	apply(t, s, &pbWorkload{Uid: "u", Name: "u", Namespace: "shop", Node: "node-1"})
	if got := describe(s.PoliciesFor(policy.Subject{Name: "u", Namespace: "shop"})); got != "" {
		t.Errorf("after its scope became selector the policy still applies: %q", got)
	}
	s.ApplyAuthorizations(nil, []string{"shop/p", "shop/unknown"})
	if s.Snapshot().Policy("shop/p") != nil {
		t.Error("a removed policy is still there")
	}
}

// What the agent knows serves outbound at once; inbound waits for the control
// plane.
func TestSeed(t *testing.T) {
	s := workload.NewStore(workload.Config{Network: "n1", NodeName: "node-1", TrustDomain: "td"})
	pod := policy.Subject{Name: "web", Namespace: "shop", ServiceAccount: "web"}
	s.Seed(workload.LocalWorkload{UID: "zds-1", Name: "web", Namespace: "shop", ServiceAccount: "web", Addresses: nil})
	snap := s.Snapshot()
	w, ok := snap.LookupSource(pod)
	if !ok || !w.Seeded || w.Identity != (identity.ID{TrustDomain: "td", Namespace: "shop", ServiceAccount: "web"}) || w.Network != "n1" || w.Node != "node-1" {
		t.Fatalf("source = %+v, %v; want the seed", w, ok)
	}
	if _, ok := snap.LookupPod(pod); ok || snap.PoliciesFor(pod).Known {
		t.Error("inbound knows the pod before the control plane does")
	}
	if len(snap.Seeds()) != 1 {
		t.Errorf("seeds = %v, want one", snap.Seeds())
	}

	apply(t, s, &pbWorkload{Uid: "c//Pod/shop/web", Name: "web", Namespace: "shop", ServiceAccount: "web", Node: "node-1"})
	if w, _ := s.Snapshot().LookupSource(pod); w.Seeded {
		t.Error("the seed hides what the control plane says")
	}
	if len(s.Snapshot().Seeds()) != 0 {
		t.Error("the pod is still listed as a seed")
	}
	s.ApplyAddresses(nil, []string{"c//Pod/shop/web"})
	if w, ok := s.Snapshot().LookupSource(pod); !ok || !w.Seeded {
		t.Error("after the control plane forgot the pod the seed does not serve")
	}
	s.Seed(workload.LocalWorkload{UID: "zds-1", Name: "web2", Namespace: "shop"})
	if _, ok := s.Snapshot().LookupSource(pod); ok {
		t.Error("a seed that was replaced still serves")
	}
	if _, ok := s.Snapshot().LookupSource(policy.Subject{Name: "web2", Namespace: "shop"}); !ok {
		t.Error("without a service account the default one is meant")
	}
	s.Unseed("zds-1")
	s.Unseed("zds-1")
	if n := len(s.Snapshot().Seeds()); n != 0 {
		t.Errorf("%d seeds are left", n)
	}
}

func TestWaitForWorkload(t *testing.T) {
	pod := policy.Subject{Name: "web", Namespace: "shop", ServiceAccount: "web"}
	msg := &pbWorkload{Uid: "c//Pod/shop/web", Name: "web", Namespace: "shop", ServiceAccount: "web", Node: "node-1"}
	tests := []struct {
		name    string
		arrives time.Duration
		want    time.Duration
		ok      bool
	}{
		{"immediate", -1, 0, true},
		{"arrives later", 3 * time.Second, 3 * time.Second, true},
		{"timeout", 8 * time.Second, 5 * time.Second, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStore()
				if tt.arrives < 0 {
					apply(t, s, msg)
				} else {
					time.AfterFunc(time.Second, func() { apply(t, s, ep("unrelated", "")) })
					time.AfterFunc(tt.arrives, func() { apply(t, s, msg) })
				}
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				start := time.Now()
				w, err := s.WaitPod(ctx, pod)
				if took := time.Since(start); took != tt.want || (err == nil) != tt.ok {
					t.Errorf("WaitPod = %v, %v after %v; want ok = %v after %v", w, err, took, tt.ok, tt.want)
				}
				if !tt.ok && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("error = %v, want the cause of the context", err)
				}
			})
		})
	}
}

func TestListenersHearEveryVersionInOrder(t *testing.T) {
	s := newStore()
	var heard []uint64
	s.OnChange(func(snap *workload.Snapshot) {
		if s.Snapshot() != snap {
			t.Error("a listener was called before publication")
		}
		heard = append(heard, snap.Version())
	})
	before := s.Changed(0)
	apply(t, s, ep("a", ""), ep("b", ""))
	s.ApplyAddresses(nil, []string{"unknown"}) // nothing is different
	s.ApplyAddresses(nil, []string{"a"})
	if !slices.Equal(heard, []uint64{1, 2, 3}) {
		t.Errorf("heard %v, want 1, 2, 3", heard)
	}
	for name, ch := range map[string]<-chan struct{}{"taken before": before, "for an old version": s.Changed(2)} {
		select {
		case <-ch:
		default:
			t.Errorf("the channel %s is not closed", name)
		}
	}
	select {
	case <-s.Changed(3):
		t.Error("the channel for the newest version is closed")
	default:
	}
}

func TestOlderSnapshotsNeverChange(t *testing.T) {
	s := newStore()
	snap := apply(t, s, &pbService{Namespace: "s", Hostname: "svc", Addresses: vips("10.9.0.1"), Ports: ports(80, 8080)}, ep("a", ""), ep("b", ""))
	want := endpointsOf(snap)
	s.ApplyAddresses(resources{resource(t, ep("c", ""))}, []string{"a", "s/svc"})
	if got := endpointsOf(snap); got != want || found(snap.LookupAddr("", ip("10.9.0.1"), "")) != "s/svc" {
		t.Errorf("the older snapshot has endpoints %q, want %q", got, want)
	}
}

// BenchmarkChangeOne measures one change of one workload among many, each an
// endpoint of one of a hundred services, and the first pick after it.
func BenchmarkChangeOne(b *testing.B) {
	for _, n := range []int{100, 1_000, 10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := newStore()
			var all resources
			for i := range 100 {
				all = append(all, resource(b, &pbService{Namespace: "s", Hostname: fmt.Sprint("svc", i), Ports: ports(80, 8080)}))
			}
			workloadAt := func(i int) *discoveryv3.Resource {
				return resource(b, &pbWorkload{
					Uid: fmt.Sprint("c//Pod/s/", i), Name: fmt.Sprint(i), Namespace: "s", Addresses: [][]byte{{10, byte(i >> 16), byte(i >> 8), byte(i)}},
					Services: in(fmt.Sprint("s/svc", i%100)), TunnelProtocol: hbone,
				})
			}
			for i := range n {
				all = append(all, workloadAt(i))
			}
			if rejected := s.ApplyAddresses(all, nil); len(rejected) > 0 {
				b.Fatal(rejected)
			}
			one := resources{workloadAt(n / 2)}
			b.ReportAllocs()
			for b.Loop() {
				s.ApplyAddresses(one, nil)
			}
		})
	}
}
