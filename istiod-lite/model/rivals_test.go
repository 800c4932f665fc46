package model_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// Of two objects of one kind the older counts, and what is said of each names the other;
// when one goes nothing is said any more.
func TestTwoObjectsOfOneKind(t *testing.T) {
	text := func(api, kind, name, age, spec string) string {
		return fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {name: %s, namespace: shop, creationTimestamp: 2026-01-%sT00:00:00Z}\nspec: %s", api, kind, name, age, spec)
	}
	for _, tt := range []struct {
		kind      model.Kind
		api, spec string
	}{
		{model.KindVirtualService, "networking.istio.io/v1", "{hosts: [orders], http: [{route: [{destination: {host: orders}}]}]}"},
		{model.KindDestinationRule, "networking.istio.io/v1", "{host: orders}"},
		{model.KindBackendPolicy, "gateway.networking.x-k8s.io/v1alpha1", "{targetRefs: [{group: '', kind: Service, name: orders}], retryConstraint: {}}"},
	} {
		t.Run(string(tt.kind), func(t *testing.T) {
			m := applied(t, shopWithWaypoint, text(tt.api, string(tt.kind), "young", "02", tt.spec), text(tt.api, string(tt.kind), "old", "01", tt.spec))
			old, young := func() string { return said(m, tt.kind, "shop", "old") }, func() string { return said(m, tt.kind, "shop", "young") }
			before := fmt.Sprintf("it comes before %s shop/young", tt.kind)
			if got := old(); !strings.Contains(got, "=True") || !strings.Contains(got, before) {
				t.Errorf("of the older is said %s, want %q", got, before)
			}
			if got := young(); !strings.Contains(got, "=False") || !strings.Contains(got, "old is older") {
				t.Errorf("of the younger is said %s", got)
			}
			m.Apply(model.Event{Key: model.Key{Kind: tt.kind, Namespace: "shop", Name: "old"}})
			if got := young(); !strings.Contains(got, "=True") || strings.Contains(got, "older") {
				t.Errorf("of the younger is said, when the older has gone, %s", got)
			}
			m.Apply(mustEvents(t, text(tt.api, string(tt.kind), "old", "01", tt.spec))...)
			m.Apply(model.Event{Key: model.Key{Kind: tt.kind, Namespace: "shop", Name: "young"}})
			if got := old(); !strings.Contains(got, "=True") || strings.Contains(got, "young") {
				t.Errorf("of the older is said, when the younger has gone, %s", got)
			}
		})
	}
}
