// Package route decides the next hop from one picture.
//
// Everything here is pure: it reads a [workload.Snapshot] and returns a value,
// so a table test can say what a connection would do.
//
//   - [Resolve]: a connection that leaves a pod; a [Plan], or an [*Error].
//   - [ResolveInbound]: a tunnel stream that comes to a pod; a [Target], or an
//     [*InboundError] with the status to answer.
//
// A destination that cannot be reached as the mesh wants it is an error, never a
// way around: a missing waypoint or endpoint does not fall back to plain TCP.
// Only what the mesh does not know passes through.
//
// Not done here: policy (see internal/policy), dialling, waiting. Destinations
// on another network and those known by DNS name only are refused with
// [ReasonUnsupported].
package route
