// Package waypoints makes, waits for, describes and removes the waypoints of a
// cluster, as far as a person's command does: it writes Gateways and the labels that
// bind to them; the control plane makes the waypoints.
//
// # How things flow
//
//	Gateways, classes, namespaces, services, pods ──► Read ──► State ──► List, Missing
//	Wanted ──► Apply (server-side apply) ──► Wait (until Programmed) ──► Bind
//	State ──► Delete (refuses while something is bound)
//
// What is bound to which waypoint, and what is refused for want of it, is worked out
// by the control plane's own code ([model.Model]) over the same objects, so that both
// never differ. Whether a waypoint is Programmed is what the control plane wrote.
//
// # Not done here
//
// Deployments and Services of waypoints are touched by nobody but the control plane
// and, when their Gateway goes, Kubernetes.
package waypoints
