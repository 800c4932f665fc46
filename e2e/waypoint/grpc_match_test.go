package waypoint

import (
	"testing"

	"google.golang.org/protobuf/proto"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/istiod-lite/model/routes"
	"github.com/ambit-mesh/ambit/waypoint/match"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

// Each kind of match takes the requests that it is for, and the one that names more
// of the service, then of the method, comes first.
func TestMatchesOfGRPCRoute(t *testing.T) {
	method := func(kind gateway.GRPCMethodMatchType, service, name string) gateway.GRPCRouteMatch {
		m := &gateway.GRPCMethodMatch{Type: &kind}
		if service != "" {
			m.Service = &service
		}
		if name != "" {
			m.Method = &name
		}
		return gateway.GRPCRouteMatch{Method: m}
	}
	const exact, regex = gateway.GRPCMethodMatchExact, gateway.GRPCMethodMatchRegularExpression
	r := &gateway.GRPCRoute{}
	add := func(name string, m ...gateway.GRPCRouteMatch) {
		r.Spec.Rules = append(r.Spec.Rules, gateway.GRPCRouteRule{Name: (*gateway.SectionName)(proto.String(name)), Matches: m})
	}
	canary := method(exact, "shop.Orders", "Get")
	canary.Headers = []gateway.GRPCHeaderMatch{{Name: "x-canary", Value: "1"}}
	add("all")
	add("method", method(exact, "", "Get"))
	add("service", method(exact, "shop.Orders", ""))
	add("both", method(exact, "shop.Orders", "Get"))
	add("canary", canary)
	add("regex", method(regex, "shop\\.[A-Z].*", "L.*"))
	add("regex method", method(regex, "", "Wat.h"))

	result := routes.GRPC(r, func(_, _, namespace, name string, _ uint32) routes.Backend {
		return routes.Backend{Service: namespace + "/" + name}
	}, nil)
	if len(result.Problems) > 0 {
		t.Fatal(result.Problems)
	}
	table, err := match.Compile(&waypointapi.RouteTable{Routes: result.Routes})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ path, header, want string }{
		{"/shop.Orders/Get", "", "both"},
		{"/shop.Orders/Get", "1", "canary"},
		{"/shop.Orders/Put", "", "service"},
		{"/shop.OrdersOther/Put", "", "all"},
		{"/other.Thing/Get", "", "method"},
		{"/other.Thing/Getx", "", "all"},
		{"/shop.Baskets/List", "", "regex"},
		{"/shop.Orders/List", "", "regex"}, // its service is the longer text
		{"/shop.Baskets/Watch", "", "regex method"},
		{"/other/x/Watch", "", "all"},
	} {
		target, err := message.ParseTarget(tt.path)
		if err != nil {
			t.Fatal(err)
		}
		req := &message.Request{Method: "POST", Target: target}
		if tt.header != "" {
			req.Fields.Add("x-canary", tt.header)
		}
		found, ok := table.Lookup(req, "")
		if got := string(*r.Spec.Rules[found.Route].Name); !ok || got != tt.want {
			t.Errorf("%s %s takes %q, want %q", tt.path, tt.header, got, tt.want)
		}
	}
}
