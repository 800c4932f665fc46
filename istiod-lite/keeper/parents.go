package keeper

import (
	"context"
	"reflect"
	"slices"
	"time"

	gateway "sigs.k8s.io/gateway-api/apis/v1"
	experimental "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"github.com/ambit-mesh/ambit/istiod-lite/kube"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// routeStatus is what a route is attached to and what is said about that; ok is
// false for what is no route.
func routeStatus(o model.Object) (parents []gateway.ParentReference, status []gateway.RouteParentStatus, ok bool) {
	switch o := o.(type) {
	case *gateway.HTTPRoute:
		return o.Spec.ParentRefs, o.Status.Parents, true
	case *gateway.GRPCRoute:
		return o.Spec.ParentRefs, o.Status.Parents, true
	case *gateway.TLSRoute:
		return o.Spec.ParentRefs, o.Status.Parents, true
	case *gateway.TCPRoute:
		return o.Spec.ParentRefs, o.Status.Parents, true
	case *experimental.XBackendTrafficPolicy:
		parents, status := ancestorsOf(o)
		return parents, status, true
	}
	return nil, nil, false
}

// ancestorsOf are the targets of a policy and what is said about them, as if it were a
// route and they its parents.
func ancestorsOf(p *experimental.XBackendTrafficPolicy) (parents []gateway.ParentReference, status []gateway.RouteParentStatus) {
	for _, t := range p.Spec.TargetRefs {
		namespace := gateway.Namespace(p.Namespace)
		parents = append(parents, gateway.ParentReference{Group: &t.Group, Kind: &t.Kind, Namespace: &namespace, Name: t.Name})
	}
	for _, a := range p.Status.Ancestors {
		status = append(status, gateway.RouteParentStatus{ParentRef: a.AncestorRef, ControllerName: a.ControllerName, Conditions: a.Conditions})
	}
	return parents, status
}

// keepParents makes the status of a route say what becomes of it at each parent
// that is ours to answer for. What other controllers say stays.
func (k *Keeper) keepParents(ctx context.Context, key model.Key) error {
	version := k.deps.Version(key.Kind)
	o, want := k.deps.World.Look(key)
	target, ok := kube.StatusOf(key, version)
	if o == nil || !ok || version == "" || o.GetDeletionTimestamp() != nil {
		return nil
	}
	parents, status, ok := routeStatus(o)
	if !ok {
		return nil
	}
	next, differs := mergeParents(parents, status, want, o.GetGeneration(), time.Now())
	if !differs {
		return nil
	}
	field, content := "parents", []any{}
	says := map[string]any{}
	for _, p := range next {
		if p.ControllerName != model.MeshController {
			says["metadata"] = unlessChanged(o)
		}
		if key.Kind == model.KindBackendPolicy {
			field = "ancestors"
			content = append(content, gateway.PolicyAncestorStatus{AncestorRef: p.ParentRef, ControllerName: p.ControllerName, Conditions: p.Conditions})
		} else {
			content = append(content, p)
		}
	}
	says["status"] = map[string]any{field: content}
	if err := k.deps.Client.Apply(ctx, manager, target, says); err != nil {
		return errorOf("status", key, err)
	}
	k.wrote(key)
	return nil
}

// mergeParents is what should stand: what others say, and what is wanted. differs
// is false when it stands already.
func mergeParents(parents []gateway.ParentReference, status []gateway.RouteParentStatus, want []model.Condition, generation int64, now time.Time) (next []gateway.RouteParentStatus, differs bool) {
	var ours []gateway.RouteParentStatus
	for _, s := range status {
		if s.ControllerName == model.MeshController {
			ours = append(ours, s)
		} else {
			next = append(next, s)
		}
	}
	found := 0
	for i, ref := range parents {
		var conditions []model.Condition
		for _, c := range want {
			if c.Parent == i+1 {
				c.Parent = 0
				conditions = append(conditions, c)
			}
		}
		if len(conditions) == 0 {
			continue
		}
		var standing []standing
		at := slices.IndexFunc(ours, func(s gateway.RouteParentStatus) bool { return reflect.DeepEqual(s.ParentRef, ref) })
		if at >= 0 {
			standing = readMeta(ours[at].Conditions)
			found++
		}
		if at < 0 || !sameConditions(standing, conditions, generation) {
			differs = true
		}
		p := gateway.RouteParentStatus{ParentRef: ref, ControllerName: model.MeshController}
		for _, c := range merge(standing, conditions, generation, now) {
			p.Conditions = append(p.Conditions, c.meta())
		}
		next = append(next, p)
	}
	return next, differs || found != len(ours)
}
