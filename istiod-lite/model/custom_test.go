package model_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/internal/meshapi/securityapi"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// A policy whose provider only waypoints ask keeps out who comes around them, where it
// may be meant: what it asks of HTTP is unknown to a node proxy. Without a waypoint
// nobody asks, and the status says so.
func TestCustomPoliciesAroundAWaypoint(t *testing.T) {
	policy := func(action, rules string) string {
		return "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: ask, namespace: shop}\nspec: {selector: {matchLabels: {app: orders}}, action: " + action + ", rules: [" + rules + "]}"
	}
	const custom = "CUSTOM, provider: {name: p}"
	const around = `not_principals:{exact:"cluster.local/ns/shop/sa/waypoint"}`
	for _, tt := range []struct {
		name, action, rules string
		want                string // the rules that node proxies get; empty: no policy
		says                string
	}{
		{"everything", custom, "{}", "[clauses:{matches:{" + around + "}}]", "ZtunnelAccepted=True Accepted: only waypoints ask its provider"},
		{"paths: unknown here", custom, "{to: [{operation: {paths: [/x]}}]}", "[clauses:{matches:{" + around + "}}]", "ZtunnelAccepted=True"},
		{"ports stay", custom, "{to: [{operation: {ports: ['80'], paths: [/x]}}]}", "[clauses:{matches:{destination_ports:80}} clauses:{matches:{" + around + "}}]", "ZtunnelAccepted=True"},
		{"one of several is unknown", custom, "{to: [{operation: {ports: ['80']}}, {operation: {methods: [GET]}}]}", "[clauses:{matches:{" + around + "}}]", "ZtunnelAccepted=True"},
		{"watching only", "AUDIT", "{}", "", "only waypoints note what it matches"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := applied(t, shopWithWaypoint, policy(tt.action, tt.rules))
			a := resource[*securityapi.Authorization](t, m, model.TypeAuthorization, "shop/ask")
			got := ""
			if a != nil {
				got = strings.ReplaceAll(fmt.Sprint(a.GetRules()), "  ", " ")
				if a.GetAction() != securityapi.Action_DENY {
					t.Errorf("action %v", a.GetAction())
				}
			}
			if got != tt.want {
				t.Errorf("rules %s, want %s", got, tt.want)
			}
			named := strings.Contains(fmt.Sprint(mustWorkload(t, m, "shop/orders-1").GetAuthorizationPolicies()), "shop/ask")
			if named != (tt.want != "") {
				t.Errorf("the pod names it: %v", named)
			}
			if text := fmt.Sprint(m.Conditions()[model.Key{Kind: model.KindAuthorizationPolicy, Namespace: "shop", Name: "ask"}]); !strings.Contains(text, tt.says) {
				t.Errorf("it is said %s, want %q", text, tt.says)
			}
		})
	}
	m := applied(t, strings.ReplaceAll(shopWithWaypoint, "istio.io/use-waypoint: waypoint", "a: b"), policy(custom, "{}"))
	if lookup(m, "shop/ask") != nil && resource[*securityapi.Authorization](t, m, model.TypeAuthorization, "shop/ask") != nil {
		t.Error("without a waypoint node proxies get it")
	}
	if text := fmt.Sprint(m.Conditions()[model.Key{Kind: model.KindAuthorizationPolicy, Namespace: "shop", Name: "ask"}]); !strings.Contains(text, "ztunnel knows only ALLOW and DENY") {
		t.Errorf("without a waypoint it is said %s", text)
	}
}
