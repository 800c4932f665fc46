package model_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// limitText is a RateLimit shop/slow.
func limitText(spec string) string {
	return "apiVersion: ambit.dev/v1alpha1\nkind: RateLimit\nmetadata: {name: slow, namespace: shop}\nspec: " + spec
}

// limitedRoute is a route of a kind whose rule names an object in a filter.
func limitedRoute(kind, ref string) string {
	return fmt.Sprintf("apiVersion: gateway.networking.k8s.io/v1\nkind: %s\nmetadata: {name: r, namespace: shop}\n"+
		"spec: {parentRefs: [%s], rules: [{filters: [{type: ExtensionRef, extensionRef: {%s}}], backendRefs: [%s]}]}", kind, toOrders, ref, orders80)
}

const slowRef = "group: ambit.dev, kind: RateLimit, name: slow"

// What a rule that names a RateLimit does, and what the authors of both are told.
func TestRateLimits(t *testing.T) {
	const good = "{requests: 5, per: 1m, perIdentity: true}"
	for _, tt := range []struct {
		name, limit, route string
		filter             string // of the rule
		route2, limit2     string // said of them
	}{
		{"by an HTTPRoute", limitText(good), limitedRoute("HTTPRoute", slowRef), "rate_limit:{requests:5 per:{seconds:60} per_identity:true}", "Accepted=True", "Accepted=True Accepted: at each instance of a waypoint, for each rule that names it: HTTPRoute shop/r"},
		{"by a GRPCRoute", limitText(good), limitedRoute("GRPCRoute", slowRef), "rate_limit:{requests:5 per:{seconds:60} per_identity:true}", "Accepted=True", "Accepted: at each instance of a waypoint, for each rule that names it: GRPCRoute shop/r"},
		{"for all callers together", limitText("{requests: 1, per: 500ms}"), limitedRoute("HTTPRoute", slowRef), "rate_limit:{requests:1 per:{nanos:500000000}}", "Accepted=True", "Accepted=True"},
		{"one that is not there", "", limitedRoute("HTTPRoute", slowRef), "answer:{status:500", "Accepted=False UnsupportedValue: spec.rules[0].filters[0].extensionRef: there is no RateLimit shop/slow", ""},
		{"another kind", limitText(good), limitedRoute("HTTPRoute", "group: x, kind: Thing, name: slow"), "answer:{status:500", `filters of kind Thing of group "x" are not supported: want a RateLimit of group ambit.dev`, "Accepted=False TargetNotFound: no HTTPRoute and no GRPCRoute of namespace shop names it"},
		{"named by nobody", limitText(good), "", "", "", "Accepted=False TargetNotFound: no HTTPRoute and no GRPCRoute of namespace shop names it"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := applied(t, shopWithWaypoint, tt.limit, tt.route)
			s := resource[*waypointapi.Service](t, m, model.TypeWaypointService, "shop/orders.shop.svc.cluster.local")
			filters := ""
			if tables := s.GetTables(); len(tables) > 0 {
				filters = strings.ReplaceAll(fmt.Sprint(tables[0].GetRoutes()[0].GetFilters()), "  ", " ")
			}
			if !strings.Contains(filters, tt.filter) || tt.filter == "" && filters != "" {
				t.Errorf("filters %s, want %q", filters, tt.filter)
			}
			kind := model.KindHTTPRoute
			if strings.Contains(tt.route, "GRPCRoute") {
				kind = model.KindGRPCRoute
			}
			if got := said(m, kind, "shop", "r"); !strings.Contains(got, tt.route2) {
				t.Errorf("of the route is said %s, want %q", got, tt.route2)
			}
			if got := said(m, model.KindRateLimit, "shop", "slow"); !strings.Contains(got, tt.limit2) || tt.limit2 == "" && got != "" {
				t.Errorf("of the limit is said %s, want %q", got, tt.limit2)
			}
		})
	}
}

// A limit that comes, changes or goes changes what the rule does.
func TestRateLimitChanges(t *testing.T) {
	m := applied(t, shopWithWaypoint, limitedRoute("HTTPRoute", slowRef))
	filter := func() *waypointapi.Filter {
		s := resource[*waypointapi.Service](t, m, model.TypeWaypointService, "shop/orders.shop.svc.cluster.local")
		return s.GetTables()[0].GetRoutes()[0].GetFilters()[0]
	}
	for _, requests := range []uint32{5, 7} {
		m.Apply(mustEvents(t, limitText(fmt.Sprintf("{requests: %d, per: 1s}", requests)))...)
		if got := filter().GetRateLimit().GetRequests(); got != requests {
			t.Errorf("%d requests, want %d", got, requests)
		}
	}
	m.Apply(model.Event{Key: model.Key{Kind: model.KindRateLimit, Namespace: "shop", Name: "slow"}})
	if got := filter().GetAnswer().GetStatus(); got != 500 {
		t.Errorf("without the limit requests are answered %d, want 500", got)
	}
	if got := said(m, model.KindHTTPRoute, "shop", "r"); !strings.Contains(got, "there is no RateLimit shop/slow") {
		t.Errorf("of the route is said %s", got)
	}
}

// An API server that was given another definition may hold limits that mean nothing:
// the rule is closed then, not open.
func TestRateLimitsThatMeanNothing(t *testing.T) {
	for _, tt := range []struct {
		name string
		spec model.RateLimitSpec
		want string
	}{
		{"no requests", model.RateLimitSpec{Per: "1s"}, "spec.requests: want a number from 1 to 1000000, not 0"},
		{"too many", model.RateLimitSpec{Requests: 1_000_001, Per: "1s"}, "not 1000001"},
		{"no time", model.RateLimitSpec{Requests: 1}, `spec.per: want more than 0s and at most 24h0m0s, not ""`},
		{"a time that is none", model.RateLimitSpec{Requests: 1, Per: "soon"}, `not "soon"`},
		{"a negative time", model.RateLimitSpec{Requests: 1, Per: "-1s"}, `not "-1s"`},
		{"too long", model.RateLimitSpec{Requests: 1, Per: "25h"}, `not "25h"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := applied(t, shopWithWaypoint, limitedRoute("HTTPRoute", slowRef))
			o := &model.RateLimit{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "slow"}, Spec: tt.spec}
			m.Apply(model.Event{Key: model.Key{Kind: model.KindRateLimit, Namespace: "shop", Name: "slow"}, Object: o})
			for kind, name := range map[model.Kind]string{model.KindRateLimit: "slow", model.KindHTTPRoute: "r"} {
				if got := said(m, kind, "shop", name); !strings.Contains(got, "Accepted=False") || !strings.Contains(got, tt.want) {
					t.Errorf("of the %s is said %s, want %q", kind, got, tt.want)
				}
			}
			s := resource[*waypointapi.Service](t, m, model.TypeWaypointService, "shop/orders.shop.svc.cluster.local")
			if got := s.GetTables()[0].GetRoutes()[0].GetFilters()[0].GetAnswer().GetStatus(); got != 500 {
				t.Errorf("requests are answered %d, want 500", got)
			}
		})
	}
}

// A copy is equal and shares nothing.
func TestRateLimitIsCopiedWhole(t *testing.T) {
	made := func() *model.RateLimit {
		return &model.RateLimit{
			ObjectMeta: metav1.ObjectMeta{Name: "slow", Labels: map[string]string{"a": "b"}}, Spec: model.RateLimitSpec{Requests: 1, Per: "1s", PerIdentity: true},
			Status: model.RateLimitStatus{Conditions: []metav1.Condition{{Type: "Accepted"}}},
		}
	}
	list := &model.RateLimitList{Items: []model.RateLimit{*made()}}
	copied := list.DeepCopyObject().(*model.RateLimitList)
	if diff := cmp.Diff(list, copied); diff != "" {
		t.Fatal(diff)
	}
	copied.Items[0].Labels["a"], copied.Items[0].Status.Conditions[0].Type = "c", "Other"
	if diff := cmp.Diff(made(), &list.Items[0]); diff != "" {
		t.Errorf("a change of the copy changed what it was made of:\n%s", diff)
	}
}
