package securityapi

import "strings"

// ThroughWaypointPrefix begins the names of policies that let nobody but the waypoint of
// a service in at its pods; the name of the service follows. The underscore cannot stand
// in names of objects, so no user's policy is called so.
const ThroughWaypointPrefix = "ambit_through_waypoint_"

// ThroughWaypoint reads the name of such a policy, "namespace/name": the namespace and
// the service that it is about. ok is false for other policies.
func ThroughWaypoint(policy string) (namespace, service string, ok bool) {
	namespace, name, _ := strings.Cut(policy, "/")
	service, ok = strings.CutPrefix(name, ThroughWaypointPrefix)
	return namespace, service, ok && service != ""
}
