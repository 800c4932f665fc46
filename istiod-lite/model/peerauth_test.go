package model_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/internal/meshapi/securityapi"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// peer writes a PeerAuthentication. selector and ports may be empty.
func peer(namespace, name, created, mode, selector string, ports ...string) string {
	text := fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: %s, namespace: %s, creationTimestamp: %q}\nspec:\n  mtls: {mode: %s}\n",
		name, namespace, created, mode)
	if selector != "" {
		text += "  selector: {matchLabels: {app: " + selector + "}}\n"
	}
	if len(ports) > 0 {
		text += "  portLevelMtls:\n"
		for _, p := range ports {
			port, mode, _ := strings.Cut(p, "=")
			text += fmt.Sprintf("    %s: {mode: %s}\n", port, mode)
		}
	}
	return text
}

// webPod is a pod with label app=web in namespace shop.
const webPod = `apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {containers: [{name: c, image: c}]}
status: {podIP: 10.0.0.1, conditions: [{type: Ready, status: "True"}]}
`

// Protocol notes 4.9: the mode of a workload.
func TestPeerAuthenticationOfAWorkload(t *testing.T) {
	const (
		old, young = "2026-01-01T00:00:00Z", "2026-02-02T00:00:00Z"
		static     = "istio-system/istio_converted_static_strict"
		converted  = "shop/converted_peer_authentication_web"
	)
	tests := []struct {
		name  string
		peers []string
		want  string // the policy that the workload names
		rules string // of the converted policy
	}{
		{name: "none: plaintext is welcome", want: ""},
		{name: "mesh STRICT", peers: []string{peer("istio-system", "default", old, "STRICT", "")}, want: static},
		{name: "namespace STRICT", peers: []string{peer("shop", "default", old, "STRICT", "")}, want: static},
		{name: "another namespace STRICT: no matter", peers: []string{peer("other", "default", old, "STRICT", "")}, want: ""},
		{name: "namespace over mesh", peers: []string{peer("istio-system", "default", old, "STRICT", ""), peer("shop", "default", old, "PERMISSIVE", "")}, want: ""},
		{name: "namespace UNSET inherits from mesh", peers: []string{peer("istio-system", "default", old, "STRICT", ""), peer("shop", "default", old, "UNSET", "")}, want: static},
		{name: "DISABLE is PERMISSIVE", peers: []string{peer("istio-system", "default", old, "STRICT", ""), peer("shop", "default", old, "DISABLE", "")}, want: ""},
		{name: "workload over namespace", peers: []string{peer("shop", "default", old, "STRICT", ""), peer("shop", "web", old, "PERMISSIVE", "web")}, want: ""},
		{name: "workload STRICT over namespace PERMISSIVE", peers: []string{peer("shop", "default", old, "PERMISSIVE", ""), peer("shop", "web", old, "STRICT", "web")}, want: static},
		{name: "workload UNSET inherits", peers: []string{peer("shop", "default", old, "STRICT", ""), peer("shop", "web", old, "UNSET", "web")}, want: static},
		{name: "selector of another workload: no matter", peers: []string{peer("shop", "db", old, "STRICT", "db")}, want: ""},
		{name: "of one level the oldest", peers: []string{peer("shop", "a", young, "STRICT", ""), peer("shop", "b", old, "PERMISSIVE", "")}, want: ""},
		{name: "of one age the first by name", peers: []string{peer("shop", "b", old, "PERMISSIVE", ""), peer("shop", "a", old, "STRICT", "")}, want: static},
		{name: "selector in the root namespace: ignored", peers: []string{peer("istio-system", "web", old, "STRICT", "web")}, want: ""},

		{name: "base not strict, a port STRICT", peers: []string{peer("shop", "web", old, "PERMISSIVE", "web", "80=STRICT", "81=DISABLE")},
			want: converted, rules: "[not_principal port=80]"},
		{name: "base not strict, ports STRICT: a rule each", peers: []string{peer("shop", "web", old, "UNSET", "web", "81=STRICT", "80=STRICT")},
			want: converted, rules: "[not_principal port=80] or [not_principal port=81]"},
		{name: "own base STRICT, ports PERMISSIVE and DISABLE", peers: []string{peer("shop", "web", old, "STRICT", "web", "81=PERMISSIVE", "80=DISABLE")},
			want: converted, rules: "[not_principal] and [not_port=80] and [not_port=81]"},
		{name: "inherited STRICT, a port PERMISSIVE: static left out", peers: []string{peer("shop", "default", old, "STRICT", ""), peer("shop", "web", old, "UNSET", "web", "80=PERMISSIVE")},
			want: converted, rules: "[not_principal] and [not_port=80]"},
		{name: "inherited STRICT through an UNSET namespace", peers: []string{peer("istio-system", "default", old, "STRICT", ""), peer("shop", "default", old, "UNSET", ""), peer("shop", "web", old, "UNSET", "web", "80=PERMISSIVE")},
			want: converted, rules: "[not_principal] and [not_port=80]"},
		{name: "inherited STRICT, a port DISABLE: stays strict", peers: []string{peer("shop", "default", old, "STRICT", ""), peer("shop", "web", old, "UNSET", "web", "80=DISABLE")},
			want: static},
		{name: "base STRICT and all ports STRICT: static", peers: []string{peer("shop", "web", old, "STRICT", "web", "80=STRICT")}, want: static},
		{name: "base PERMISSIVE and all ports too: nothing", peers: []string{peer("shop", "web", old, "PERMISSIVE", "web", "80=PERMISSIVE")}, want: ""},
		{name: "a port UNSET is as the base", peers: []string{peer("shop", "web", old, "STRICT", "web", "80=UNSET")}, want: static},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := mustModel(t, model.Config{}, append(tt.peers, webPod)...)
			got := strings.Join(mustWorkload(t, m, "shop/web").AuthorizationPolicies, " ")
			if got != tt.want {
				t.Errorf("the workload names %q, want %q", got, tt.want)
			}
			if published := lookup(m, static) != nil; published != (len(tt.peers) > 0) {
				t.Errorf("static policy published: %v, want it if and only if there is a PeerAuthentication", published)
			}
			if got != "" && lookup(m, got) == nil {
				t.Errorf("the workload names %s, which is not published", got)
			}
			if tt.rules == "" {
				return
			}
			p := mustPolicy(t, m, converted)
			if p.Action != securityapi.Action_DENY || p.Scope != securityapi.Scope_WORKLOAD_SELECTOR {
				t.Errorf("converted policy has action %v and scope %v", p.Action, p.Scope)
			}
			if rules := describeRules(p); rules != tt.rules {
				t.Errorf("rules are %s, want %s", rules, tt.rules)
			}
		})
	}
}

// describeRules writes the rules of a converted policy: clauses in brackets.
func describeRules(p *securityapi.Authorization) string {
	var rules []string
	for _, r := range p.Rules {
		var clauses []string
		for _, c := range r.Clauses {
			var matches []string
			for _, m := range c.Matches {
				var parts []string
				if len(m.NotPrincipals) == 1 && m.NotPrincipals[0].GetPresence() != nil {
					parts = append(parts, "not_principal")
				}
				for _, port := range m.DestinationPorts {
					parts = append(parts, fmt.Sprintf("port=%d", port))
				}
				for _, port := range m.NotDestinationPorts {
					parts = append(parts, fmt.Sprintf("not_port=%d", port))
				}
				matches = append(matches, strings.Join(parts, " "))
			}
			clauses = append(clauses, "["+strings.Join(matches, " | ")+"]")
		}
		rules = append(rules, strings.Join(clauses, " and "))
	}
	return strings.Join(rules, " or ")
}

func TestPeerAuthenticationWithoutEffectSaysSo(t *testing.T) {
	m := mustModel(t, model.Config{}, peer("istio-system", "web", "2026-01-01T00:00:00Z", "STRICT", "web"))
	key := model.Key{Kind: model.KindPeerAuthentication, Namespace: "istio-system", Name: "web"}
	got := m.Conditions()[key]
	if !slices.ContainsFunc(got, func(c model.Condition) bool { return !c.True && strings.Contains(c.Message, "no effect") }) {
		t.Errorf("conditions are %v", got)
	}
}
