package model

import (
	"fmt"

	"istio.io/api/label"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
)

// Types of conditions. The names with capitals of their own are those that tools
// of the ambient ecosystem read.
const (
	ConditionZtunnel      = "ZtunnelAccepted"
	ConditionWaypoint     = "WaypointAccepted"
	ConditionBound        = "istio.io/WaypointBound"
	ConditionDistribution = "TrafficDistributionAccepted"
	ConditionAccepted     = "Accepted"
)

// Reasons of conditions.
const (
	ReasonAccepted     = "Accepted"
	ReasonUnsupported  = "UnsupportedValue"
	ReasonInvalid      = "Invalid"
	ReasonNotBound     = "AncestorNotBound"
	ReasonNoWaypoint   = "WaypointIsNotReady"
	ReasonHostnameUsed = "HostnameConflict"
)

// invalid says that an object was left out because of one field.
func invalid(path string, err error) Condition {
	return Condition{Type: ConditionAccepted, Reason: ReasonInvalid, Message: fmt.Sprintf("%s: %v", path, err)}
}

// waypointCondition answers an object's wish for a waypoint.
func (m *Model) waypointCondition(o *metav1.ObjectMeta) []Condition {
	name := o.Labels[label.IoIstioUseWaypoint.Name]
	if name == "" || name == "none" {
		return nil
	}
	namespace := o.Namespace
	if other := o.Labels[label.IoIstioUseWaypointNamespace.Name]; other != "" {
		namespace = other
	}
	return []Condition{{
		Type: ConditionBound, Reason: ReasonNoWaypoint,
		Message: fmt.Sprintf("waypoint %s/%s is not ready: this control plane runs no waypoints; only rules on addresses, identities and ports are enforced", namespace, name),
	}}
}

// fromGateway says what becomes of a Gateway.
func (m *Model) fromGateway(g *gateway.Gateway) ([]*Resource, []Condition) {
	return nil, []Condition{{
		Type: ConditionAccepted, Reason: ReasonUnsupported,
		Message: fmt.Sprintf("class %s: this control plane runs no gateways", g.Spec.GatewayClassName),
	}}
}
