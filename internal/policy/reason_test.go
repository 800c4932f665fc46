package policy_test

import (
	"testing"

	"github.com/ambit-mesh/ambit/internal/policy"
)

// A refusal because no ALLOW rule matched names the rules that there are: that
// is where a person has to look.
func TestRefusalNamesTheAllowPolicies(t *testing.T) {
	other := allOf(oneOf(&match{DestinationPorts: []uint32{9}}))
	tests := []struct {
		name     string
		policies []string
		want     string
	}{
		{"one", []string{"a"}, "allow policies exist, but none allowed: shop/a"},
		{"three", []string{"a", "b", "c"}, "allow policies exist, but none allowed: shop/a, shop/b, shop/c"},
		{"more than a line holds", []string{"a", "b", "c", "d", "e"}, "allow policies exist, but none allowed: shop/a, shop/b, shop/c and 2 more"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			all := mustCompile(t, dry(allow("observed", other)))
			for _, name := range tt.policies {
				all.Policies = append(all.Policies, mustCompile(t, allow(name, other)).Policies...)
			}
			if v := policy.Evaluate(all, request(web)); v.Allowed || v.Reason != tt.want {
				t.Errorf("verdict = %+v, want reason %q", v, tt.want)
			}
		})
	}
}
