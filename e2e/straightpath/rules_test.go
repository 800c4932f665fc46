package straightpath

import (
	"testing"

	"github.com/ambit-mesh/ambit/cni/redirect"
	"github.com/ambit-mesh/ambit/internal/netns"
)

// applyRules does to a pod's namespace what the agent does.
func applyRules(t *testing.T, ns *netns.NS) {
	t.Helper()
	v6, err := redirect.HasIPv6(ns)
	if err != nil {
		t.Fatal(err)
	}
	if err := redirect.Apply(ns, redirect.Config{IPv6: v6, DNS: true}); err != nil {
		t.Fatal(err)
	}
}
