package routes

import (
	"strings"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/durationpb"
	api "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// known finds every service but one.
func known(_, _, namespace, name string, _ uint32) Backend {
	if name == "gone" {
		return Backend{Problem: Problem{Reason: ReasonNotFound, Text: "there is no service gone"}}
	}
	return Backend{Service: namespace + "/" + name}
}

// Connections go by the server that TLS asks for, else where those of TCP go.
func TestVirtualStreams(t *testing.T) {
	to := func(host string) []*api.RouteDestination {
		return []*api.RouteDestination{{Destination: &api.Destination{Host: host}}}
	}
	v := &networking.VirtualService{Spec: api.VirtualService{
		Tls: []*api.TLSRoute{{Match: []*api.TLSMatchAttributes{{SniHosts: []string{"a.example"}, Port: 443}, {SniHosts: []string{"b.example"}, SourceLabels: map[string]string{"x": "y"}}}, Route: to("a")}},
		Tcp: []*api.TCPRoute{{Match: []*api.L4MatchAttributes{{Port: 90}}, Route: to("db")}, {Route: to("rest")}},
	}}
	got := Virtual(v, Expand(v, known, nil), 443, known)
	if len(got.Streams) != 2 || got.Streams[0].Hostnames[0] != "a.example" || got.Streams[1].Backends[0].Service != "/rest" || len(got.Problems) != 1 {
		t.Errorf("port 443: %v, problems %v", got.Streams, got.Problems)
	}
	if got := Virtual(v, Expand(v, known, nil), 90, known); len(got.Streams) != 2 || got.Streams[0].Backends[0].Service != "/db" || got.Streams[0].Backends[0].Weight != 1 {
		t.Errorf("port 90: %v", got.Streams)
	}
}

// Routes are in order; matches of other ports and gateways are none; what a
// waypoint cannot see never matches.
func TestVirtual(t *testing.T) {
	v := &networking.VirtualService{Spec: api.VirtualService{Http: []*api.HTTPRoute{
		{Name: "canary", Match: []*api.HTTPMatchRequest{{Headers: map[string]*api.StringMatch{"x": {MatchType: &api.StringMatch_Exact{Exact: "1"}}}, WithoutHeaders: map[string]*api.StringMatch{"y": {}}}},
			Route: []*api.HTTPRouteDestination{{Destination: &api.Destination{Host: "a", Subset: "v2"}}}},
		{Match: []*api.HTTPMatchRequest{{Port: 81}}},
		{Match: []*api.HTTPMatchRequest{{Gateways: []string{"other"}}}},
		{Match: []*api.HTTPMatchRequest{{SourceLabels: map[string]string{"app": "x"}}}},
		{Route: []*api.HTTPRouteDestination{{Destination: &api.Destination{Host: "a"}, Weight: 90}, {Destination: &api.Destination{Host: "gone"}, Weight: 10}},
			Retries: &api.HTTPRetry{Attempts: 2, RetryOn: "5xx,unavailable,429", PerTryTimeout: durationpb.New(1e9)}},
	}}}
	got := Virtual(v, Expand(v, known, nil), 80, known)
	if len(got.Routes) != 3 || len(got.Problems) != 1 || len(got.Unresolved) != 1 {
		t.Fatalf("%d routes, problems %v, unresolved %v", len(got.Routes), got.Problems, got.Unresolved)
	}
	first, never, last := got.Routes[0], got.Routes[1], got.Routes[2]
	if h := first.Matches[0].Headers; len(h) != 2 || !h[1].Value.Invert || first.Backends[0].Subset != "v2" || first.Backends[0].Weight != 1 {
		t.Errorf("first: %v", first)
	}
	if !never.Matches[0].Method.GetInvert() {
		t.Errorf("source labels match: %v", never)
	}
	if r := last.Retry; r.Attempts != 2 || !r.ServerError || len(r.Statuses) != 1 || r.GrpcStatuses[0] != 14 || last.TryTimeout.AsDuration() != 1e9 || last.Backends[1].Broken == "" {
		t.Errorf("last: %v", last)
	}
}

// An old name is understood and said so, and what limits mean; what cannot be done is
// said.
func TestRule(t *testing.T) {
	d := Rule(&networking.DestinationRule{Spec: api.DestinationRule{
		TrafficPolicy: &api.TrafficPolicy{
			//lint:ignore SA1019 users still write it
			OutlierDetection: &api.OutlierDetection{ConsecutiveErrors: 7},
			Tunnel:           &api.TrafficPolicy_TunnelSettings{},
			ConnectionPool:   &api.ConnectionPoolSettings{Tcp: &api.ConnectionPoolSettings_TCPSettings{MaxConnections: 5}},
		},
		Subsets: []*api.Subset{{Name: "v1", Labels: map[string]string{"version": "v1"}}},
	}})
	if d.Traffic.Outlier.Consecutive_5Xx != 7 || len(d.Notes) != 2 || !strings.Contains(d.Notes[0].Text, "consecutive5xxErrors") || !strings.Contains(d.Notes[1].Text, "each instance") {
		t.Errorf("outlier %v, notes %v", d.Traffic.GetOutlier(), d.Notes)
	}
	if len(d.Problems) != 1 || !strings.Contains(d.Problems[0].Path, "tunnel") {
		t.Errorf("problems %v", d.Problems)
	}
	if d.Subsets[0].Traffic != d.Traffic {
		t.Error("a subset without a policy has none of the service's")
	}
}

// Routes of a profile are in order, and all other requests still pass. Where any of
// several conditions will do they are matches of their own, else one with a condition.
func TestProfile(t *testing.T) {
	deep := &ProfileCondition{Method: "GET"}
	for range deepest {
		deep = &ProfileCondition{Not: deep}
	}
	got := FromProfile(&Profile{Namespace: "a", Name: "b", Routes: []ProfileRoute{
		{Name: "r", Condition: &ProfileCondition{Any: []ProfileCondition{{PathRegex: "^/x$"}, {Method: "GET"}}}, Retryable: true},
		{Name: "tree", Condition: &ProfileCondition{PathRegex: "/y", Not: &ProfileCondition{Method: "GET"}, All: []ProfileCondition{{Any: []ProfileCondition{{Method: "PUT"}, {Method: "POST"}}}}}},
		{Name: "deep", Condition: deep},
		{Name: "none"},
	}}, "a/b")
	if len(got.Routes) != 3 || len(got.Routes[0].Matches) != 2 || got.Routes[0].Retry == nil || got.Routes[0].Matches[0].Path.GetRegex() != "/x" {
		t.Errorf("%v", got.Routes)
	}
	if len(got.Problems) != 2 || !strings.Contains(got.Problems[0].Text, "deep") || !strings.Contains(got.Problems[1].Text, "missing") {
		t.Errorf("problems %v", got.Problems)
	}
	if m := got.Routes[1].Matches; len(m) != 1 || m[0].Path != nil || m[0].Condition.Path.GetRegex() != "/y" || m[0].Condition.Not.Method.GetExact() != "GET" || len(m[0].Condition.All[0].Any) != 2 {
		t.Errorf("tree: %v", m)
	}
	if last := got.Routes[2]; len(last.Matches) != 0 || last.Backends[0].Service != "a/b" {
		t.Errorf("last: %v", last)
	}
}
