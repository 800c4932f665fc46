package model_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// backendPolicy is an XBackendTrafficPolicy of namespace shop.
func backendPolicy(name, day, targets, spec string) string {
	return "apiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy\nmetadata: {name: " + name + ", namespace: shop, creationTimestamp: '2026-01-" + day + "T00:00:00Z'}\n" +
		"spec: {targetRefs: [" + targets + "], " + spec + "}\n"
}

func TestBackendPolicies(t *testing.T) {
	const orders = "{group: '', kind: Service, name: orders}"
	const defaults = "percent:20 interval:{seconds:10} min_count:10 min_interval:{seconds:1}"
	for _, tt := range []struct {
		name     string
		policies []string
		budget   string            // of orders, as text; empty: none
		session  string            // its name
		says     map[string]string // by policy: parts of conditions
	}{
		{"nothing said", []string{backendPolicy("p", "01", orders, "retryConstraint: {}")}, defaults, "", map[string]string{"p": "parentRefs[0]: Accepted=True Accepted"}},
		{"everything said", []string{backendPolicy("p", "01", orders, "retryConstraint: {budget: {percent: 0, interval: 1m}, minRetryRate: {count: 3, interval: 5s}}")},
			"interval:{seconds:60} min_count:3 min_interval:{seconds:5}", "", map[string]string{"p": "Accepted=True"}},
		{"a percentage that is none", []string{backendPolicy("p", "01", orders, "retryConstraint: {budget: {percent: 101}}")}, "", "",
			map[string]string{"p": "Accepted=False Invalid: spec.retryConstraint.budget.percent: want a number from 0 to 100, not 101"}},
		{"an interval that is too short", []string{backendPolicy("p", "01", orders, "retryConstraint: {budget: {interval: 10ms}}")}, "", "",
			map[string]string{"p": `Accepted=False Invalid: spec.retryConstraint.budget.interval: want at least 1s and at most 1h0m0s, not "10ms"`}},
		{"of two the older", []string{backendPolicy("a-young", "02", orders, "retryConstraint: {budget: {percent: 1}}"), backendPolicy("old", "01", orders, "retryConstraint: {budget: {percent: 2}}")},
			"percent:2 interval:{seconds:10} min_count:10 min_interval:{seconds:1}", "", map[string]string{"a-young": "Accepted=False Conflicted: XBackendTrafficPolicy old is older", "old": "Accepted=True"}},
		{"targets of other kinds, and none", []string{backendPolicy("p", "01", "{group: '', kind: ConfigMap, name: x}, {group: '', kind: Service, name: gone}", "retryConstraint: {}")}, "", "",
			map[string]string{"p": "parentRefs[0]: Accepted=False TargetNotFound: targetRefs[0]: kind ConfigMap is no backend here: want a Service|parentRefs[1]: Accepted=False TargetNotFound: targetRefs[1]: there is no Service shop/gone"}},
		{"a backend to which no waypoint leads", []string{backendPolicy("p", "01", "{group: '', kind: Service, name: other}", "retryConstraint: {}")}, "", "", map[string]string{"p": "Accepted=True Accepted: no waypoint sends requests to it yet"}},
		{"a session", []string{backendPolicy("p", "01", orders, "sessionPersistence: {sessionName: mine, type: Header}")}, "", "mine", map[string]string{"p": "Accepted=True"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := applied(t, append([]string{shopWithWaypoint}, tt.policies...)...)
			s := resource[*waypointapi.Service](t, m, model.TypeWaypointService, "shop/orders.shop.svc.cluster.local")
			if got := strings.ReplaceAll(fmt.Sprint(s.GetRetryBudget()), "  ", " "); got != tt.budget && (tt.budget != "" || s.GetRetryBudget() != nil) {
				t.Errorf("budget %q, want %q", got, tt.budget)
			}
			if got := s.GetSession().GetName(); got != tt.session {
				t.Errorf("session %q, want %q", got, tt.session)
			}
			for name, parts := range tt.says {
				text := fmt.Sprint(m.Conditions()[model.Key{Kind: model.KindBackendPolicy, Namespace: "shop", Name: name}])
				for part := range strings.SplitSeq(parts, "|") {
					if !strings.Contains(text, part) {
						t.Errorf("of %s is said %s, want %q", name, text, part)
					}
				}
			}
		})
	}
}
