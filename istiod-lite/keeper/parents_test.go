package keeper

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// The status of a route says what we say beside what others do, once.
func TestMergeParents(t *testing.T) {
	core, service := gateway.Group(""), gateway.Kind("Service")
	parents := []gateway.ParentReference{{Name: "edge"}, {Group: &core, Kind: &service, Name: "orders"}}
	now := time.Unix(1_800_000_000, 0)
	theirs := gateway.RouteParentStatus{ParentRef: parents[0], ControllerName: "example.com/other", Conditions: []metav1.Condition{{Type: "Accepted", Status: "True"}}}
	want := []model.Condition{
		{Parent: 2, Type: "Accepted", True: true, Reason: "Accepted"},
		{Parent: 2, Type: "ResolvedRefs", Reason: "BackendNotFound", Message: "there is no service shop/x"},
	}
	first, differs := mergeParents(parents, []gateway.RouteParentStatus{theirs}, want, 3, now)
	if !differs || len(first) != 2 || first[0].ControllerName != theirs.ControllerName || first[1].ControllerName != model.MeshController {
		t.Fatalf("first: %v, %v", first, differs)
	}
	if c := first[1].Conditions; len(c) != 2 || c[0].ObservedGeneration != 3 || c[1].Status != "False" || c[1].Reason != "BackendNotFound" {
		t.Errorf("conditions: %v", c)
	}
	if _, differs := mergeParents(parents, first, want, 3, now.Add(time.Hour)); differs {
		t.Error("a second look wants to write again")
	}
	want[1] = model.Condition{Parent: 2, Type: "ResolvedRefs", True: true, Reason: "ResolvedRefs"}
	second, differs := mergeParents(parents, first, want, 4, now.Add(time.Hour))
	if c := second[1].Conditions; !differs || !c[0].LastTransitionTime.Time.Equal(now) || c[1].LastTransitionTime.Time.Equal(now) || c[0].ObservedGeneration != 4 {
		t.Errorf("after a change: %v, %v", second, differs)
	}
	last, differs := mergeParents(parents[:1], second, nil, 5, now)
	if !differs || len(last) != 1 || last[0].ControllerName != theirs.ControllerName {
		t.Errorf("after the parent went: %v, %v", last, differs)
	}
}
