package model

import "fmt"

// Types of conditions. The names with capitals of their own are those that tools
// of the ambient ecosystem read.
const (
	ConditionZtunnel      = "ZtunnelAccepted"
	ConditionWaypoint     = "WaypointAccepted"
	ConditionBound        = "istio.io/WaypointBound"
	ConditionDistribution = "TrafficDistributionAccepted"
	ConditionAccepted     = "Accepted"
	ConditionProgrammed   = "Programmed"
	ConditionResolvedRefs = "ResolvedRefs"

	ConditionPartlyInvalid = "PartiallyInvalid"
)

// Reasons of conditions.
const (
	ReasonAccepted       = "Accepted"
	ReasonUnsupported    = "UnsupportedValue"
	ReasonInvalid        = "Invalid"
	ReasonNotBound       = "AncestorNotBound"
	ReasonTargetNotFound = "TargetNotFound"
	ReasonPartlyInvalid  = "PartiallyInvalid"
	ReasonHostnameUsed   = "HostnameConflict"

	ReasonWaypointAccepted = "WaypointAccepted"
	ReasonNoWaypoint       = "WaypointIsNotReady"
	ReasonAttachmentDenied = "AttachmentDenied"
	ReasonTrafficType      = "UnsupportedTrafficType"
	ReasonCanaryWeight     = "CanaryInvalidWeight"
	ReasonCanarySame       = "CanarySameAsPrimary"

	// Those of ours: a canary that cannot be used for another reason, and traffic that
	// goes around a waypoint because somebody wants that.
	ReasonCanaryNotReady = "CanaryIsNotReady"
	ReasonAround         = "WaypointIsBypassed"
)

// IsOurCondition reports whether a condition of an object is one that this
// control plane writes.
func IsOurCondition(name string) bool {
	switch name {
	case ConditionZtunnel, ConditionWaypoint, ConditionBound, ConditionDistribution, ConditionAccepted, ConditionResolvedRefs, ConditionPartlyInvalid:
		return true
	}
	return false
}

// invalid says that an object was left out because of one field.
func invalid(path string, err error) Condition {
	return Condition{Type: ConditionAccepted, Reason: ReasonInvalid, Message: fmt.Sprintf("%s: %v", path, err)}
}
