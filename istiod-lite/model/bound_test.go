package model_test

import (
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

func TestBindings(t *testing.T) {
	tests := []struct {
		name  string
		world []string
		want  string // objects, and * for those that are refused
	}{
		{"nothing", []string{labelled("shop", "", "")}, ""},
		{"taken", []string{waypointGateway("istio.io/waypoint-for: all", ""), labelled("shop", ask, ask)}, "Pod shop/web-1, Service shop/web"},
		{"no Gateway", []string{labelled("shop", ask, "")}, "Service shop/web*"},
		{"of a kind that it does not serve", []string{waypointGateway("", ""), labelled("shop", "", ask)}, "Pod shop/web-1*"},
		{"by the namespace, counted once", []string{waypointGateway("", ""), namespaced("shop", ask), labelled("shop", "", "")}, "Namespace shop"},
		{"own label and that of the namespace", []string{waypointGateway("", ""), namespaced("shop", ask), labelled("shop", ask, optOut)}, "Namespace shop, Service shop/web"},
		{"from a namespace that is not admitted", []string{waypointGateway("", ""), labelled("bank", across, "")}, "Service bank/web*"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := mustModel(t, model.Config{}, tt.world...)
			var got []string
			for _, b := range m.Bindings() {
				if b.Waypoint != (model.Key{Kind: model.KindGateway, Namespace: "shop", Name: "wp"}) {
					t.Errorf("%v is bound to %v", b.Object, b.Waypoint)
				}
				text := b.Object.String()
				if b.Refused != "" {
					text += "*"
				}
				got = append(got, text)
			}
			if strings.Join(got, ", ") != tt.want {
				t.Errorf("bindings = %q, want %q", got, tt.want)
			}
		})
	}
	m := mustModel(t, model.Config{}, waypointGateway("istio.io/waypoint-for: all", ""))
	for name, want := range map[string]string{"wp": "all", "other": ""} {
		if got := m.ServedBy(model.Key{Kind: model.KindGateway, Namespace: "shop", Name: name}); got != want {
			t.Errorf("%s serves %q, want %q", name, got, want)
		}
	}
}
