package model_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

const profileOfOrders = `
apiVersion: linkerd.io/v1alpha2
kind: ServiceProfile
metadata: {name: orders.shop.svc.cluster.local, namespace: shop}
spec:
  routes: [{name: r, condition: {method: GET, pathRegex: /x}, timeout: 2s}]
`

// What comes first and what yields is said on both sides, and taken back.
func TestServiceProfileYieldsToAVirtualService(t *testing.T) {
	const virtual = `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: orders, namespace: shop}
spec: {hosts: [orders], http: [{route: [{destination: {host: orders}}]}]}
`
	m := applied(t, shopWithWaypoint, profileOfOrders)
	profile := func() string { return said(m, model.KindServiceProfile, "shop", "orders.shop.svc.cluster.local") }
	if got := profile(); !strings.Contains(got, "WaypointAccepted=True") {
		t.Errorf("alone: %s", got)
	}
	m.Apply(mustEvents(t, virtual)...)
	if got := profile(); !strings.Contains(got, "WaypointAccepted=False") || !strings.Contains(got, "a VirtualService, which comes first") {
		t.Errorf("beside a VirtualService: %s", got)
	}
	const note = "it comes before ServiceProfile shop/orders.shop.svc.cluster.local"
	if got := said(m, model.KindVirtualService, "shop", "orders"); !strings.Contains(got, "WaypointAccepted=True") || !strings.Contains(got, note) {
		t.Errorf("the VirtualService: %s", got)
	}
	m.Apply(model.Event{Key: model.Key{Kind: model.KindServiceProfile, Namespace: "shop", Name: "orders.shop.svc.cluster.local"}})
	if got := said(m, model.KindVirtualService, "shop", "orders"); strings.Contains(got, note) {
		t.Errorf("the VirtualService, when the ServiceProfile has gone: %s", got)
	}
}

func TestServiceProfileSaysWhatItCannotDo(t *testing.T) {
	const asks = `
apiVersion: linkerd.io/v1alpha2
kind: ServiceProfile
metadata: {name: orders.shop.svc.cluster.local, namespace: shop}
spec:
  routes: [{name: r, condition: {method: GET}, responseClasses: [{isFailure: true}]}]
  dstOverrides: [{authority: x, weight: 1}]
  opaquePorts: ["25"]
  retryBudget: {retryRatio: 0, minRetriesPerSecond: 0, ttl: 1m}
`
	m := applied(t, shopWithWaypoint, asks)
	got := said(m, model.KindServiceProfile, "shop", "orders.shop.svc.cluster.local")
	for _, want := range []string{"WaypointAccepted=False PartiallyInvalid", "spec.routes[0].responseClasses", "spec.dstOverrides", "spec.opaquePorts",
		`spec.retryBudget.ttl: "1m" is not supported: a request counts for 10s`, "spec.retryBudget.retryRatio: less than 0.01", "spec.retryBudget.minRetriesPerSecond: less than 1"} {
		if !strings.Contains(got, want) {
			t.Errorf("status %q, want %q", got, want)
		}
	}
}

// A copy is equal and shares nothing.
func TestServiceProfileIsCopiedWhole(t *testing.T) {
	condition := func() *model.RequestCondition {
		return &model.RequestCondition{
			PathRegex: "/x", Method: "GET", All: []model.RequestCondition{{Method: "A"}}, Any: []model.RequestCondition{{Method: "B"}},
			Not: &model.RequestCondition{Method: "C"},
		}
	}
	made := func() *model.ServiceProfile {
		return &model.ServiceProfile{
			TypeMeta:   metav1.TypeMeta{Kind: "ServiceProfile", APIVersion: "linkerd.io/v1alpha2"},
			ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{"a": "b"}},
			Spec: model.ServiceProfileSpec{
				Routes:      []model.ServiceProfileRoute{{Name: "r", Condition: condition(), IsRetryable: true, Timeout: "1s", ResponseClasses: []map[string]any{{"isFailure": true}}}},
				RetryBudget: &model.RetryBudget{RetryRatio: 0.2, MinRetriesPerSecond: 1, TTL: "10s"}, DstOverrides: []map[string]any{{"weight": "1"}}, OpaquePorts: []string{"25"},
			},
			Status: model.ServiceProfileStatus{Conditions: []metav1.Condition{{Type: "T"}}},
		}
	}
	original := &model.ServiceProfileList{ListMeta: metav1.ListMeta{ResourceVersion: "7"}, Items: []model.ServiceProfile{*made()}}
	copied, ok := original.DeepCopyObject().(*model.ServiceProfileList)
	if !ok || cmp.Diff(original, copied) != "" {
		t.Fatalf("the copy differs: %s", cmp.Diff(original, copied))
	}
	p := &copied.Items[0]
	p.Labels["a"] = "c"
	r := &p.Spec.Routes[0]
	r.Condition.Method, r.Condition.All[0].Method, r.Condition.Any[0].Method, r.Condition.Not.Method = "P", "P", "P", "P"
	r.ResponseClasses[0]["isFailure"] = false
	p.Spec.RetryBudget.RetryRatio, p.Spec.DstOverrides[0]["weight"], p.Spec.OpaquePorts[0], p.Status.Conditions[0].Type = 1, "2", "26", "U"
	if diff := cmp.Diff(made(), &original.Items[0]); diff != "" {
		t.Errorf("a change of the copy changed the original: %s", diff)
	}
}
