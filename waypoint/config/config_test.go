package config

import (
	"fmt"
	"strings"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ambit-mesh/ambit/internal/meshapi/securityapi"
	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/internal/workload"
	"github.com/ambit-mesh/ambit/waypoint/filter"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ours is the Gateway of these tests.
var ours = Name{"shop", "wp"}

// resource is a resource of a type.
func resource(t testing.TB, url, name string, content proto.Message) *discoveryv3.Resource {
	t.Helper()
	raw, err := proto.Marshal(content)
	if err != nil {
		t.Fatal(err)
	}
	return &discoveryv3.Resource{Name: name, Resource: &anypb.Any{TypeUrl: url, Value: raw}}
}

// orders is a service that is bound to ours.
func orders(change func(*waypointapi.Service)) *waypointapi.Service {
	s := &waypointapi.Service{
		Namespace: "shop", Hostname: "orders", Waypoint: &waypointapi.ObjectName{Namespace: "shop", Name: "wp"},
		Ports: []*waypointapi.Port{{Number: 80}},
	}
	if change != nil {
		change(s)
	}
	return s
}

// served is what a store makes of a service.
func served(t *testing.T, s *waypointapi.Service) *Service {
	t.Helper()
	store := NewStore(ours)
	if rejected := store.ApplyServices([]*discoveryv3.Resource{resource(t, ServiceType, "shop/orders", s)}, nil); rejected != nil {
		t.Fatal(rejected)
	}
	return store.Picture().Service(workload.Key{Namespace: "shop", Hostname: "orders"})
}

// What is bad is rejected, by its name, and what stood before stays; the others of one
// response count.
func TestBadResourcesAreRejectedAndTheFormerStay(t *testing.T) {
	key := workload.Key{Namespace: "shop", Hostname: "orders"}
	for name, bad := range map[string]*discoveryv3.Resource{
		"another type":     {Name: "shop/orders", Resource: &anypb.Any{TypeUrl: EndpointType}},
		"no message":       {Name: "shop/orders", Resource: &anypb.Any{TypeUrl: ServiceType, Value: []byte{0xff}}},
		"another's name":   resource(t, ServiceType, "shop/orders", &waypointapi.Service{Namespace: "shop", Hostname: "other"}),
		"no port":          resource(t, ServiceType, "shop/orders", orders(func(s *waypointapi.Service) { s.Ports[0].Number = 70000 })),
		"a bad expression": resource(t, ServiceType, "shop/orders", orders(func(s *waypointapi.Service) { s.Tables = tables("(") })),
		"a bad backend": resource(t, ServiceType, "shop/orders", orders(func(s *waypointapi.Service) {
			s.Tables = []*waypointapi.RouteTable{{Routes: []*waypointapi.Route{{Backends: []*waypointapi.Backend{{Service: "nothing"}}}}}}
		})),
		"a bad budget":  resource(t, ServiceType, "shop/orders", orders(func(s *waypointapi.Service) { s.RetryBudget = &waypointapi.RetryBudget{Percent: 20} })),
		"a bad session": resource(t, ServiceType, "shop/orders", orders(func(s *waypointapi.Service) { s.Session = &waypointapi.Session{Name: "host\r\n"} })),
	} {
		t.Run(name, func(t *testing.T) {
			store := NewStore(ours)
			if rejected := store.ApplyServices([]*discoveryv3.Resource{resource(t, ServiceType, "shop/orders", orders(nil))}, nil); rejected != nil {
				t.Fatal(rejected)
			}
			before := store.Picture().Service(key)
			good := resource(t, ServiceType, "shop/good", &waypointapi.Service{Namespace: "shop", Hostname: "good"})
			rejected := store.ApplyServices([]*discoveryv3.Resource{bad, good}, nil)
			if len(rejected) != 1 || rejected["shop/orders"] == nil {
				t.Errorf("rejected: %v", rejected)
			}
			if p := store.Picture(); p.Service(key) != before || p.Service(workload.Key{Namespace: "shop", Hostname: "good"}) == nil {
				t.Error("the former is gone, or what is good does not count")
			}
			store.ApplyServices(nil, []string{"shop/orders", "no name"})
			if store.Picture().Service(key) != nil {
				t.Error("what was removed is there")
			}
		})
	}
}

// tables is a table with a route of an expression.
func tables(expression string) []*waypointapi.RouteTable {
	return []*waypointapi.RouteTable{{Routes: []*waypointapi.Route{{Matches: []*waypointapi.RouteMatch{{Path: &waypointapi.Path{Kind: &waypointapi.Path_Regex{Regex: expression}}}}}}}}
}

// A picture never changes: a request that has one goes by it to its end.
func TestPicturesAreKept(t *testing.T) {
	store := NewStore(ours)
	var told []*Picture
	store.OnChange(func(p *Picture) { told = append(told, p) })
	store.ApplyServices([]*discoveryv3.Resource{resource(t, ServiceType, "shop/orders", orders(nil))}, nil)
	first := store.Picture()
	store.ApplyServices(nil, []string{"shop/orders"})
	key := workload.Key{Namespace: "shop", Hostname: "orders"}
	if first.Service(key) == nil || store.Picture().Service(key) != nil {
		t.Error("the first picture has changed")
	}
	if len(told) != 2 || told[0] != first {
		t.Errorf("told of %d pictures", len(told))
	}
}

// Of two waypoints of a service each goes by what is attached to it.
func TestCanaryGoesByItsOwn(t *testing.T) {
	shared := func(s *waypointapi.Service) {
		s.Policies, s.TellClient = []string{"shop/first"}, true
		s.Canary = &waypointapi.Canary{Waypoint: &waypointapi.ObjectName{Namespace: "shop", Name: "wp2"}, Policies: []string{"shop/second"}, Authentications: []string{"shop/tokens"}}
	}
	for _, tt := range []struct {
		as   Name
		want string
	}{
		{ours, "{shop wp} [shop/first] [] true"},
		{Name{"shop", "wp2"}, "{shop wp2} [shop/second] [shop/tokens] false"},
		{Name{"other", "wp2"}, "{shop wp} [shop/first] [] true"}, // it serves nothing of this, and is told that it is not its own
	} {
		s, err := compileService(orders(shared), tt.as)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(s.Waypoint, " ", s.Policies, " ", s.Authentications, " ", s.TellClient); got != tt.want {
			t.Errorf("as %v: %s, want %s", tt.as, got, tt.want)
		}
	}
}

// A table of the client's namespace comes before that of all, one of the port before
// that of all ports; without any table requests go to the service itself.
func TestWhoseRoutesCount(t *testing.T) {
	table := func(name, client string, ports ...uint32) *waypointapi.RouteTable {
		return &waypointapi.RouteTable{ClientNamespace: client, Ports: ports, Routes: []*waypointapi.Route{{Name: name, Matches: []*waypointapi.RouteMatch{{Path: &waypointapi.Path{Kind: &waypointapi.Path_Prefix{Prefix: "/a"}}}}}}}
	}
	for _, tt := range []struct {
		name   string
		tables []*waypointapi.RouteTable
		client string
		port   uint16
		path   string
		want   string // none: there is no table; "": no route matches
	}{
		{"none", nil, "web", 80, "/a", "none"},
		{"all", []*waypointapi.RouteTable{table("all", "")}, "web", 80, "/a", "all"},
		{"no route matches", []*waypointapi.RouteTable{table("all", "")}, "web", 80, "/b", ""},
		{"the port's first", []*waypointapi.RouteTable{table("all", ""), table("port", "", 80)}, "web", 80, "/a", "port"},
		{"another port's", []*waypointapi.RouteTable{table("port", "", 81)}, "web", 80, "/a", "none"},
		{"the client's first", []*waypointapi.RouteTable{table("port", "", 80), table("theirs", "web")}, "web", 80, "/a", "theirs"},
		{"another client's", []*waypointapi.RouteTable{table("port", "", 80), table("theirs", "web")}, "bank", 80, "/a", "port"},
		{"the client's for the port", []*waypointapi.RouteTable{table("theirs", "web"), table("both", "web", 80)}, "web", 80, "/a", "both"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := served(t, orders(func(s *waypointapi.Service) { s.Tables = tt.tables }))
			route, _, none := s.Lookup(&message.Request{Method: "GET", Target: message.Target{Path: tt.path}}, tt.port, tt.client)
			got := ""
			switch {
			case none:
				got = "none"
			case route != nil:
				got = route.Name
			}
			if got != tt.want {
				t.Errorf("route %q, want %q", got, tt.want)
			}
		})
	}
}

// Weights are shares of a number that is drawn.
func TestBackendsByWeight(t *testing.T) {
	backends := []*waypointapi.Backend{{Service: "shop/a", Weight: 3}, {Service: "shop/b"}, {Service: "shop/c", Weight: 1}, {Broken: "gone", Weight: 2}}
	s := served(t, orders(func(s *waypointapi.Service) {
		s.Tables = []*waypointapi.RouteTable{{Routes: []*waypointapi.Route{{Backends: backends}}}}
	}))
	route, _, _ := s.Lookup(&message.Request{Target: message.Target{Path: "/"}}, 80, "")
	got := ""
	for n := range uint64(6) {
		b, ok := route.Pick(func(sum uint64) uint64 {
			if sum != 6 {
				t.Fatalf("drawn from %d", sum)
			}
			return n
		})
		if !ok {
			t.Fatal("none")
		}
		got += b.Service.Hostname + b.Broken
	}
	if got != "aaacgonegone" {
		t.Errorf("backends %s", got)
	}
	if _, ok := (&Route{}).Pick(nil); ok {
		t.Error("of no backends one was chosen")
	}
}

// The policies of a request: those that are named, those of its namespace and of the
// mesh; while one is missing nobody passes.
func TestRulesThatApply(t *testing.T) {
	authorization := func(namespace, name string, scope securityapi.Scope, attached bool) *discoveryv3.Resource {
		return resource(t, AuthorizationType, namespace+"/"+name, &waypointapi.Authorization{
			Name: name, Namespace: namespace, Scope: scope, Attached: attached, Action: waypointapi.Action_DENY, Rules: []*waypointapi.Rule{{}},
		})
	}
	w := &workload.Workload{}
	w.UID, w.Namespace = "pod", "shop"
	decides := func(r *Rules) string {
		if len(r.Missing) > 0 {
			return "missing " + strings.Join(r.Missing, ", ")
		}
		return filter.Authorize(&filter.Subject{}, r.Policies).Policy
	}
	store := NewStore(ours)
	svc := served(t, orders(func(s *waypointapi.Service) { s.Policies = []string{"shop/attached"} }))
	step := func(name, ofService, ofWorkload string, apply func()) {
		t.Helper()
		if apply != nil {
			apply()
		}
		p := store.Picture()
		if got := decides(p.ServiceRules(svc)); got != ofService {
			t.Errorf("%s: of the service %q, want %q", name, got, ofService)
		}
		if got := decides(p.WorkloadRules(svc, w)); got != ofWorkload {
			t.Errorf("%s: of the workload %q, want %q", name, got, ofWorkload)
		}
	}
	endpoint := func(policies ...string) func() {
		return func() {
			store.ApplyEndpoints([]*discoveryv3.Resource{resource(t, EndpointType, "pod", &waypointapi.Endpoint{Uid: "pod", Policies: policies})}, nil)
		}
	}
	put := func(r *discoveryv3.Resource) func() {
		return func() { store.ApplyAuthorizations([]*discoveryv3.Resource{r}, nil) }
	}
	step("nothing is known", "missing shop/attached", "missing those of workload pod", nil)
	step("the workload is", "missing shop/attached", "missing shop/selecting", endpoint("shop/selecting"))
	step("one that is attached", "shop/attached", "missing shop/selecting", put(authorization("shop", "attached", securityapi.Scope_NAMESPACE, true)))
	step("one that selects", "shop/attached", "shop/selecting", put(authorization("shop", "selecting", securityapi.Scope_WORKLOAD_SELECTOR, false)))
	step("one of another namespace", "shop/attached", "shop/selecting", put(authorization("bank", "all", securityapi.Scope_NAMESPACE, false)))
	step("one of the namespace comes before", "shop/attached", "shop/all", put(authorization("shop", "all", securityapi.Scope_NAMESPACE, false)))
	step("one of the mesh before that", "shop/attached", "root/all", put(authorization("root", "all", securityapi.Scope_GLOBAL, false)))
	step("gone again", "missing shop/attached", "root/all", func() { store.ApplyAuthorizations(nil, []string{"shop/attached"}) })
}

// A subset is found by its name and holds endpoints with its labels; how it is treated
// comes before what its port says, and that before what the service says.
func TestSubsetsAndTraffic(t *testing.T) {
	traffic := func(seconds int64) *waypointapi.Traffic {
		return &waypointapi.Traffic{Limits: &waypointapi.Limits{ConnectTimeout: &durationpb.Duration{Seconds: seconds}}}
	}
	s := served(t, orders(func(s *waypointapi.Service) {
		s.Traffic, s.Ports[0].Traffic = traffic(1), traffic(2)
		s.Subsets = []*waypointapi.Subset{{Name: "v1", Labels: map[string]string{"version": "v1"}, Traffic: traffic(3), Ports: map[uint32]*waypointapi.Traffic{82: traffic(4)}}, {Name: "v2", Labels: map[string]string{"version": "v2"}}}
	}))
	for _, tt := range []struct {
		port   uint16
		subset string
		want   int64
	}{{80, "v1", 3}, {82, "v1", 4}, {82, "v2", 1}, {80, "v2", 2}, {80, "", 2}, {81, "", 1}, {81, "v1", 3}} {
		if got := s.Traffic(tt.port, tt.subset).GetLimits().GetConnectTimeout().GetSeconds(); got != tt.want {
			t.Errorf("port %d, subset %q: %d, want %d", tt.port, tt.subset, got, tt.want)
		}
	}
	if !s.Subset("v1").Has(&Endpoint{Labels: map[string]string{"version": "v1", "a": "b"}}) || s.Subset("v1").Has(&Endpoint{}) || s.Subset("v1").Has(nil) || s.Subset("v3") != nil {
		t.Error("subsets hold what they should not")
	}
	var none *Service
	if none.Traffic(80, "v1") == nil || none.Subset("v1") != nil {
		t.Error("of no service")
	}
}

// What cannot be done is refused and never left out: without TLS nobody is reached
// where TLS was asked for.
func TestSecurity(t *testing.T) {
	const simple, mutual = waypointapi.ClientTls_SIMPLE, waypointapi.ClientTls_MUTUAL
	for _, tt := range []struct {
		name   string
		in     *waypointapi.ClientTls
		want   Security // without Broken
		broken string   // a part of it; "": none
	}{
		{"nobody said", nil, Security{}, ""},
		{"in plain", &waypointapi.ClientTls{}, Security{}, ""},
		{"a mode that cannot be done", &waypointapi.ClientTls{Broken: "why"}, Security{}, "why"},
		{"a mode to come", &waypointapi.ClientTls{Mode: 99}, Security{}, "99"},
		{"that of the mesh", &waypointapi.ClientTls{Mode: waypointapi.ClientTls_MESH}, Security{}, "not in the mesh"},
		{"the host's name", &waypointapi.ClientTls{Mode: simple}, Security{TLS: true, ServerName: "h.example", Names: "h.example\n"}, ""},
		{"another name", &waypointapi.ClientTls{Mode: simple, Sni: "s", Roots: "/r"}, Security{TLS: true, ServerName: "s", Names: "s\n", Roots: "/r"}, ""},
		{"other names", &waypointapi.ClientTls{Mode: simple, SubjectAltNames: []string{"a", "b"}, Unverified: true}, Security{TLS: true, ServerName: "h.example", Names: "a\nb\n", Unverified: true}, ""},
		{"certificates that nobody asked for", &waypointapi.ClientTls{Mode: simple, Certificate: "c", Key: "k"}, Security{TLS: true, ServerName: "h.example", Names: "h.example\n"}, ""},
		{"mutual", &waypointapi.ClientTls{Mode: mutual, Certificate: "/c", Key: "/k", Namespace: "shop"}, Security{TLS: true, ServerName: "h.example", Names: "h.example\n", Certificate: "/c", Key: "/k"}, ""},
		{"mutual, for another namespace", &waypointapi.ClientTls{Mode: mutual, Certificate: "/c", Key: "/k", Namespace: "bank"}, Security{}, "not for rules of namespace"},
		{"mutual, without a key", &waypointapi.ClientTls{Mode: mutual, Certificate: "/c", Namespace: "shop"}, Security{}, "needs a certificate and a key"},
		{"a path from nowhere", &waypointapi.ClientTls{Mode: simple, Roots: "r"}, Security{}, "want a path"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := compileSecurity(tt.in, "h.example", ours)
			if (got.Broken != "") != (tt.broken != "") || !strings.Contains(got.Broken, tt.broken) {
				t.Errorf("broken %q, want %q", got.Broken, tt.broken)
			}
			if got.Broken = ""; got != tt.want {
				t.Errorf("%+v, want %+v", got, tt.want)
			}
		})
	}
	if got := compileSecurity(&waypointapi.ClientTls{Mode: simple}, "*.example", ours); got.Broken == "" {
		t.Error("a wildcard is the name of a server")
	}
}
