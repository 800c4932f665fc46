package gateways

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/ambit-mesh/ambit/istiod-lite/kube"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// accepted reports whether a Gateway can become a waypoint.
func accepted(conditions []model.Condition) bool {
	return slices.ContainsFunc(conditions, func(c model.Condition) bool { return c.Type == model.ConditionAccepted && c.True })
}

// withFailure says in the conditions that something could not be made.
func withFailure(conditions []model.Condition, failed error) []model.Condition {
	if failed == nil {
		return conditions
	}
	out := slices.Clone(conditions)
	_, parameters := errors.AsType[*ParametersError](failed)
	for i, c := range out {
		switch {
		case c.Type == model.ConditionAccepted && parameters:
			out[i] = model.Condition{Type: c.Type, Reason: string(gateway.GatewayReasonInvalidParameters), Message: failed.Error()}
		case c.Type == model.ConditionProgrammed:
			out[i] = model.Condition{Type: c.Type, Reason: string(gateway.GatewayReasonInvalid), Message: failed.Error()}
		}
	}
	return out
}

// statusOf is the status of a Gateway. service is the Service of its waypoint; nil
// while there is none.
func statusOf(g *gateway.Gateway, service *corev1.Service, domain string, conditions []model.Condition, routes func(gateway.Listener) int32, now time.Time) gateway.GatewayStatus {
	status := gateway.GatewayStatus{Conditions: standing(g.Status.Conditions, conditions, g.Generation, now)}
	if service != nil {
		hostname, ip := gateway.HostnameAddressType, gateway.IPAddressType
		status.Addresses = append(status.Addresses, gateway.GatewayStatusAddress{Type: &hostname, Value: fmt.Sprintf("%s.%s.svc.%s", service.Name, service.Namespace, domain)})
		for _, a := range service.Spec.ClusterIPs {
			if a != corev1.ClusterIPNone {
				status.Addresses = append(status.Addresses, gateway.GatewayStatusAddress{Type: &ip, Value: a})
			}
		}
	}
	for _, l := range g.Spec.Listeners {
		var before []metav1.Condition
		for _, old := range g.Status.Listeners {
			if old.Name == l.Name {
				before = old.Conditions
			}
		}
		status.Listeners = append(status.Listeners, gateway.ListenerStatus{
			Name: l.Name, SupportedKinds: []gateway.RouteGroupKind{}, AttachedRoutes: routes(l),
			Conditions: standing(before, listenerConditions(l, conditions), g.Generation, now),
		})
	}
	return status
}

// listenerConditions are those of one listener.
func listenerConditions(l gateway.Listener, of []model.Condition) []model.Condition {
	if l.Protocol != "HBONE" || l.Port != model.WaypointPort {
		return []model.Condition{
			{Type: string(gateway.ListenerConditionAccepted), Reason: string(gateway.ListenerReasonUnsupportedProtocol), Message: fmt.Sprintf("a waypoint listens on port %d, protocol HBONE", model.WaypointPort)},
			{Type: string(gateway.ListenerConditionProgrammed), Reason: string(gateway.ListenerReasonInvalid)},
			{Type: string(gateway.ListenerConditionResolvedRefs), True: true, Reason: string(gateway.ListenerReasonResolvedRefs)},
			{Type: string(gateway.ListenerConditionConflicted), Reason: string(gateway.ListenerReasonNoConflicts)},
		}
	}
	programmed := model.Condition{Type: string(gateway.ListenerConditionProgrammed), Reason: string(gateway.ListenerReasonPending)}
	for _, c := range of {
		if c.Type == model.ConditionProgrammed && c.True {
			programmed.True, programmed.Reason = true, string(gateway.ListenerReasonProgrammed)
		}
	}
	return []model.Condition{
		{Type: string(gateway.ListenerConditionAccepted), True: true, Reason: string(gateway.ListenerReasonAccepted)},
		programmed,
		{Type: string(gateway.ListenerConditionResolvedRefs), True: true, Reason: string(gateway.ListenerReasonResolvedRefs)},
		{Type: string(gateway.ListenerConditionConflicted), Reason: string(gateway.ListenerReasonNoConflicts)},
	}
}

// standing are conditions as the API has them. One that says what it said keeps the
// time since when it does.
func standing(old []metav1.Condition, conditions []model.Condition, generation int64, now time.Time) []metav1.Condition {
	var all []metav1.Condition
	for _, c := range conditions {
		s := metav1.Condition{
			Type: c.Type, Status: metav1.ConditionFalse, Reason: c.Reason, Message: c.Message, ObservedGeneration: generation,
			LastTransitionTime: metav1.NewTime(now.UTC().Truncate(time.Second)),
		}
		if c.True {
			s.Status = metav1.ConditionTrue
		}
		for _, o := range old {
			if o.Type == s.Type && o.Status == s.Status && !o.LastTransitionTime.IsZero() && o.LastTransitionTime.Unix() != 0 {
				s.LastTransitionTime = o.LastTransitionTime
			}
		}
		all = append(all, s)
	}
	return all
}

// keepStatus writes the status of a Gateway where it differs.
func (c *Controller) keepStatus(ctx context.Context, key model.Key, g *gateway.Gateway, conditions []model.Condition) error {
	c.noteProblem(key, conditions)
	var service *corev1.Service
	if o, _ := c.deps.World.Look(model.Key{Kind: model.KindService, Namespace: g.Namespace, Name: model.WaypointName(g)}); o != nil {
		service, _ = o.(*corev1.Service)
	}
	want := statusOf(g, service, c.cfg.Mesh.ClusterDomain, conditions, func(l gateway.Listener) int32 { return c.deps.World.AttachedRoutes(key, l) }, time.Now())
	if same(g.Status, want) {
		return nil
	}
	return c.writeStatus(ctx, key, want)
}

// same reports whether two statuses say the same: not what the defaults of the API
// say in place of nothing.
func same(have, want gateway.GatewayStatus) bool {
	less := func(s gateway.GatewayStatus) any {
		return struct {
			Conditions []metav1.Condition
			Addresses  []gateway.GatewayStatusAddress
			Listeners  []gateway.ListenerStatus
		}{s.Conditions, s.Addresses, s.Listeners}
	}
	a, errA := json.Marshal(less(have))
	b, errB := json.Marshal(less(want))
	return errA == nil && errB == nil && reflect.DeepEqual(a, b)
}

// noteProblem remembers what could not be made, for people.
func (c *Controller) noteProblem(key model.Key, conditions []model.Condition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.failed, key)
	for _, condition := range conditions {
		if !condition.True && condition.Reason != string(gateway.GatewayReasonPending) {
			c.failed[key] = condition.String()
		}
	}
}

// writeStatus applies a status.
func (c *Controller) writeStatus(ctx context.Context, key model.Key, status any) error {
	t, ok := kube.StatusOf(key, c.deps.Version(key.Kind))
	if !ok || t.Version == "" {
		return nil
	}
	text, err := json.Marshal(status)
	if err != nil {
		return err
	}
	var content map[string]any
	if err := json.Unmarshal(text, &content); err != nil {
		return err
	}
	return c.deps.Client.Apply(ctx, manager, t, map[string]any{"status": content})
}
