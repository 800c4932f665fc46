package model_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/ambit-mesh/ambit/internal/meshapi/securityapi"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// policy writes an AuthorizationPolicy of namespace shop.
func policy(spec string) string {
	return "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec: " + spec + "\n"
}

// Protocol notes 4.10: rules of an AuthorizationPolicy.
func TestAuthorizationPolicyRules(t *testing.T) {
	tests := []struct {
		name string
		spec string
		want string // the rules, as text of protocol buffers
		says string // part of the condition's message
	}{
		{name: "empty spec: ALLOW without rules, nobody gets in", spec: "{}", want: ""},
		{name: "an empty rule matches everything", spec: "{rules: [{}]}", want: "rules {}"},
		{name: "a rule is a group; to, from and each when are clauses",
			spec: `{rules: [{to: [{operation: {ports: ["80"]}}], from: [{source: {namespaces: [a]}}], when: [{key: source.ip, values: [10.0.0.0/8]}, {key: destination.port, notValues: ["81"]}]}]}`,
			want: `rules {
				clauses { matches { destination_ports: 80 } }
				clauses { matches { namespaces { exact: "a" } } }
				clauses { matches { source_ips { address: "\n\000\000\000" length: 8 } } }
				clauses { matches { not_destination_ports: 81 } }
			}`},
		{name: "two of from are two matches of one clause", spec: `{rules: [{from: [{source: {namespaces: [a]}}, {source: {notNamespaces: [b]}}]}]}`,
			want: `rules { clauses { matches { namespaces { exact: "a" } } matches { not_namespaces { exact: "b" } } } }`},
		{name: "stars: presence, suffix, prefix", spec: `{rules: [{from: [{source: {principals: ["*", "*/sa/x", "td/*"]}}]}]}`,
			want: `rules { clauses { matches {
				principals { presence {} } principals { suffix: "/sa/x" } principals { prefix: "td/" }
			} } }`},
		{name: "service accounts: with namespace, or of the policy's", spec: `{rules: [{from: [{source: {serviceAccounts: [a/b, c]}}]}]}`,
			want: `rules { clauses { matches { service_accounts { namespace: "a" service_account: "b" } service_accounts { namespace: "shop" service_account: "c" } } } }`},
		{name: "bare addresses are prefixes of full length", spec: `{rules: [{from: [{source: {ipBlocks: [10.0.0.1, "::1"]}}]}]}`,
			want: `rules { clauses { matches {
				source_ips { address: "\n\000\000\001" length: 32 }
				source_ips { address: "\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\001" length: 128 }
			} } }`},
		{name: "when: every attribute of a connection", spec: `{rules: [{when: [{key: source.namespace, values: [a]}, {key: source.principal, notValues: [b]}, {key: destination.ip, values: [10.0.0.1]}]}]}`,
			want: `rules {
				clauses { matches { namespaces { exact: "a" } } }
				clauses { matches { not_principals { exact: "b" } } }
				clauses { matches { destination_ips { address: "\n\000\000\001" length: 32 } } }
			}`},
		{name: "ALLOW with HTTP: that rule is left out", spec: `{rules: [{from: [{source: {principals: [a]}}]}, {from: [{source: {principals: [b]}}], to: [{operation: {methods: [GET]}}]}]}`,
			want: `rules { clauses { matches { principals { exact: "a" } } } }`, says: "only a waypoint can see methods: rules that ask for it are left out"},
		{name: "ALLOW with only HTTP: no rule is left, nobody gets in", spec: `{rules: [{to: [{operation: {paths: [/x], hosts: [h]}}]}]}`,
			want: "", says: "only a waypoint can see hosts, paths: rules that ask for it are left out. No rule is left"},
		{name: "DENY with HTTP: the rest is enforced", spec: `{action: DENY, rules: [{from: [{source: {principals: [b]}}], to: [{operation: {methods: [GET], ports: ["80"]}}]}]}`,
			want: `rules { clauses { matches { destination_ports: 80 } } clauses { matches { principals { exact: "b" } } } }`, says: "denies without looking at it"},
		{name: "DENY with only HTTP: an empty match, which never matches", spec: `{action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]}`,
			want: `rules { clauses { matches {} } }`, says: "this DENY policy has no effect"},
		{name: "DENY with a clause of only HTTP: no effect either", spec: `{action: DENY, rules: [{from: [{source: {principals: [b]}}], to: [{operation: {methods: [GET]}}]}]}`,
			want: `rules { clauses { matches {} } clauses { matches { principals { exact: "b" } } } }`, says: "this DENY policy has no effect"},
		{name: "when of HTTP in ALLOW", spec: `{rules: [{when: [{key: "request.headers[x]", values: [v]}]}]}`, want: "", says: "request.headers[x]"},
		{name: "remoteIpBlocks and requestPrincipals are HTTP", spec: `{rules: [{from: [{source: {remoteIpBlocks: [10.0.0.1]}}]}, {from: [{source: {notRequestPrincipals: ["*"]}}]}]}`,
			want: "", says: "notRequestPrincipals, remoteIpBlocks"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := mustModel(t, model.Config{}, policy(tt.spec))
			got := mustPolicy(t, m, "shop/p")
			want := &securityapi.Authorization{}
			if err := prototext.Unmarshal([]byte(tt.want), want); err != nil {
				t.Fatal(err)
			}
			want.Name, want.Namespace, want.Scope, want.Action = "p", "shop", securityapi.Scope_NAMESPACE, got.Action
			if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
				t.Errorf("want -, got +\n%s", diff)
			}
			c := conditionOf(t, m, model.ConditionZtunnel)
			if !c.True || !strings.Contains(c.Message, tt.says) || (tt.says == "") != (c.Message == "") {
				t.Errorf("condition %v, want True and %q", c, tt.says)
			}
		})
	}
}

// conditionOf is the condition of shop/p of a type.
func conditionOf(t *testing.T, m *model.Model, kind string) model.Condition {
	t.Helper()
	all := m.Conditions()[model.Key{Kind: model.KindAuthorizationPolicy, Namespace: "shop", Name: "p"}]
	i := slices.IndexFunc(all, func(c model.Condition) bool { return c.Type == kind })
	if i < 0 {
		t.Fatalf("no condition %s among %v", kind, all)
	}
	return all[i]
}

// Protocol notes 4.10 and 7.8: what is sent, and to whom it applies.
func TestAuthorizationPolicyScope(t *testing.T) {
	in := func(namespace, annotations, spec string) string {
		return "apiVersion: security.istio.io/v1beta1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: " + namespace + ", annotations: {" + annotations + "}}\nspec: " + spec + "\n"
	}
	tests := []struct {
		name   string
		cfg    model.Config
		policy string
		scope  string // empty: not sent
		listed string // the policies of shop/web
	}{
		{name: "no selector: namespace", policy: in("shop", "", "{rules: [{}]}"), scope: "NAMESPACE"},
		{name: "no selector in the root namespace: global", policy: in("istio-system", "", "{rules: [{}]}"), scope: "GLOBAL"},
		{name: "another root namespace", cfg: model.Config{RootNamespace: "mesh"}, policy: in("mesh", "", "{rules: [{}]}"), scope: "GLOBAL"},
		{name: "selector that matches", policy: in("shop", "", "{selector: {matchLabels: {app: web}}}"), scope: "WORKLOAD_SELECTOR", listed: "shop/p"},
		{name: "selector that does not match", policy: in("shop", "", "{selector: {matchLabels: {app: db}}}"), scope: "WORKLOAD_SELECTOR"},
		{name: "selector of another namespace", policy: in("other", "", "{selector: {matchLabels: {app: web}}}"), scope: "WORKLOAD_SELECTOR"},
		{name: "selector in the root namespace matches everywhere", policy: in("istio-system", "", "{selector: {matchLabels: {app: web}}}"), scope: "WORKLOAD_SELECTOR", listed: "istio-system/p"},
		{name: "targetRefs: for a waypoint, not sent", policy: in("shop", "", "{targetRefs: [{kind: Service, group: '', name: web}]}")},
		{name: "targetRef: for a waypoint, not sent", policy: in("shop", "", "{targetRef: {kind: Gateway, group: gateway.networking.k8s.io, name: g}}")},
		{name: "AUDIT: not sent, not listed", policy: in("shop", "", "{action: AUDIT, selector: {matchLabels: {app: web}}}")},
		{name: "CUSTOM: not sent", policy: in("shop", "", "{action: CUSTOM, provider: {name: x}}")},
		{name: "dry run: not sent", policy: in("shop", `istio.io/dry-run: "true"`, "{selector: {matchLabels: {app: web}}}")},
		{name: "dry run switched on: sent and marked", cfg: model.Config{DryRun: true}, policy: in("shop", `istio.io/dry-run: "true"`, "{selector: {matchLabels: {app: web}}}"), scope: "WORKLOAD_SELECTOR dry", listed: "shop/p"},
		{name: "dry run false: sent", policy: in("shop", `istio.io/dry-run: "false"`, "{}"), scope: "NAMESPACE"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := mustModel(t, tt.cfg, tt.policy, webPod)
			scope := ""
			for _, r := range m.Resources() {
				if r.Type == model.TypeAuthorization {
					p := mustPolicy(t, m, r.Name)
					scope = p.Scope.String()
					if p.DryRun {
						scope += " dry"
					}
				}
			}
			if scope != tt.scope {
				t.Errorf("sent with scope %q, want %q", scope, tt.scope)
			}
			if listed := strings.Join(mustWorkload(t, m, "shop/web").AuthorizationPolicies, " "); listed != tt.listed {
				t.Errorf("the workload names %q, want %q", listed, tt.listed)
			}
			said := false
			for _, all := range m.Conditions() {
				for _, c := range all {
					said = said || !c.True && c.Message != ""
				}
			}
			if said != (tt.scope == "") {
				t.Errorf("a condition says that it is not enforced: %v; sent: %v", said, tt.scope != "")
			}
		})
	}
}

// A cluster may hold what a directory would not accept: values that cannot be
// read never make a policy allow more.
func TestAuthorizationPolicyWithValuesThatCannotBeRead(t *testing.T) {
	object := func(action, ports string) model.Event {
		events := mustEvents(t, policy(`{action: `+action+`, rules: [{from: [{source: {principals: [a]}}], to: [{operation: {ports: ["80"]}}]}, {from: [{source: {principals: [b]}}]}]}`))
		spec := specOf(events[0].Object)
		spec.Rules[0].To[0].Operation.Ports = strings.Fields(ports)
		return events[0]
	}
	m := model.New(model.Config{})
	m.Apply(object("ALLOW", "80 http"))
	if p := mustPolicy(t, m, "shop/p"); len(p.Rules) != 1 || p.Rules[0].Clauses[0].Matches[0].Principals[0].GetExact() != "b" {
		t.Errorf("ALLOW with a bad port: %v, want the other rule alone", p.Rules)
	}
	if c := conditionOf(t, m, model.ConditionZtunnel); !strings.Contains(c.Message, `spec.rules[0].to[0].operation.ports[1]: want a port from 1 to 65535, not "http"`) {
		t.Errorf("condition %v does not name the value", c)
	}
	m.Apply(object("DENY", "80 http"))
	if p := mustPolicy(t, m, "shop/p"); len(p.Rules) != 2 {
		t.Errorf("DENY with a bad port: %v, want both rules", p.Rules)
	}
}
