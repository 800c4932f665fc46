package check

import (
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"
)

func TestNetworkPolicies(t *testing.T) {
	tests := []struct {
		name  string
		spec  string // of a policy p in shop
		level Level  // empty: no finding
		patch string // in the patch
	}{
		{"all may come in", `{podSelector: {}, ingress: [{}]}`, "", ""},
		{"nobody may come in", `{podSelector: {}, policyTypes: [Ingress]}`, "", ""},
		{"the port of the application only", `{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 8080}]}]}`, Error, "- port: 8080\n    - port: 15008\n      protocol: TCP"},
		{"its port by name", `{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: http, protocol: TCP}]}]}`, Error, "port: 15008"},
		{"a name that the pod does not have", `{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: grpc}]}]}`, "", ""},
		{"the tunnel's port too", `{podSelector: {}, ingress: [{ports: [{port: 8080}, {port: 15008}]}]}`, "", ""},
		{"the tunnel's port in another rule", `{podSelector: {}, ingress: [{ports: [{port: 8080}]}, {from: [{podSelector: {}}, {namespaceSelector: {}}], ports: [{port: 15008}]}]}`, "", ""},
		{"the tunnel's port in a range", `{podSelector: {}, ingress: [{ports: [{port: 8080, endPort: 16000}]}]}`, "", ""},
		{"a range without it", `{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 8000, endPort: 9000}]}]}`, Error, "port: 15008"},
		{"UDP is another matter", `{podSelector: {}, ingress: [{ports: [{port: 53, protocol: UDP}]}]}`, "", ""},
		{"all ports of TCP", `{podSelector: {}, ingress: [{ports: [{protocol: TCP}]}]}`, "", ""},
		{"a peer of the mesh only", `{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 8080}]}]}`, Error, "port: 15008"},
		{"a peer outside the mesh only", `{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: b}}}], ports: [{port: 8080}]}]}`, Info, "port: 15008"},
		{"a peer by address", `{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.1/32}}], ports: [{port: 8080}]}]}`, Error, "port: 15008"},
		{"an address that is left out", `{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/16, except: [10.0.0.0/24]}}], ports: [{port: 8080}]}]}`, "", ""},
		{"the way out", `{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{ports: [{port: 8080}]}, {ports: [{port: 53, protocol: UDP}]}]}`, Error, "egress:\n  - ports:\n    - port: 8080\n    - port: 15008"},
		{"the way out to one", `{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: db}}}]}]}`, "", ""},
		{"both ways", `{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{ports: [{port: 8080}]}], egress: [{ports: [{port: 8080}]}]}`, Error, "ingress and egress"},
		{"a policy for nobody who is there", `{podSelector: {matchLabels: {app: x}}, ingress: [{ports: [{port: 8080}]}]}`, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := healthy(t)
			w.NetPolicies = []networkingv1.NetworkPolicy{policy(t, "shop", "p", tt.spec)}
			r := Run(w, now)
			if tt.level == "" {
				if len(r.Findings) > 0 {
					t.Errorf("findings = %+v, want none", r.Findings)
				}
				return
			}
			if len(r.Findings) != 1 {
				t.Fatalf("findings = %+v, want one", r.Findings)
			}
			f := r.Findings[0]
			if f.Level != tt.level || f.Where != "networkpolicy shop/p" || !strings.Contains(f.What+f.Patch, tt.patch) {
				t.Errorf("finding = %+v\n%s\nwant %s %q", f, f.Patch, tt.level, tt.patch)
			}
			// What is proposed must cure it, and must not be more than the policy.
			var cured networkingv1.NetworkPolicy
			if err := yaml.UnmarshalStrict([]byte(f.Patch), &cured); err != nil {
				t.Fatal(err)
			}
			w.NetPolicies = []networkingv1.NetworkPolicy{cured}
			if r := Run(w, now); len(r.Findings) > 0 {
				t.Errorf("with its patch applied there still is %+v", r.Findings)
			}
		})
	}
}

// Two policies together may allow what neither does alone.
func TestNetworkPoliciesAddUp(t *testing.T) {
	w := healthy(t)
	w.NetPolicies = []networkingv1.NetworkPolicy{
		policy(t, "shop", "apps", `{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 8080}]}]}`),
		policy(t, "shop", "tunnels", `{podSelector: {}, ingress: [{ports: [{port: 15008}]}]}`),
	}
	if r := Run(w, now); len(r.Findings) > 0 {
		t.Errorf("findings = %+v, want none", r.Findings)
	}
}

func TestControlPlaneIsReached(t *testing.T) {
	w := healthy(t)
	w.NetPolicies = []networkingv1.NetworkPolicy{policy(t, "istio-system", "deny", `{podSelector: {}, policyTypes: [Ingress, Egress]}`)}
	r := Run(w, now)
	if len(r.Findings) != 1 || r.Findings[0].Level != Error || !strings.Contains(r.Findings[0].What, "istio-system/deny") {
		t.Fatalf("findings = %+v", r.Findings)
	}
	var cure networkingv1.NetworkPolicy
	if err := yaml.UnmarshalStrict([]byte(r.Findings[0].Patch), &cure); err != nil {
		t.Fatal(err)
	}
	w.NetPolicies = append(w.NetPolicies, cure)
	if r := Run(w, now); len(r.Findings) > 0 {
		t.Errorf("with its patch applied there still is %+v", r.Findings)
	}
}
