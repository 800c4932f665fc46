// Package policy says who may talk: compiled rules, and the permit a connection
// holds while it lives.
//
// # The path of a decision
//
// The control plane sends policies as [securityapi.Authorization]; [Compile]
// turns each into a [Policy]. A [Source] (the workload store) says which
// policies apply to a pod now: an [Applicable]. [Evaluate] decides one
// [Request] against it and names the rule that decided. It is pure.
//
// A connection does not call Evaluate itself. It asks a [Gate] for a [Permit]:
// the gate registers the connection first and evaluates then, so a change that
// comes between the two still finds it. [Gate.Changed] decides again about every
// live connection, from the current workload and the current policies, and cuts
// those that may no longer be.
//
// # A policy that is named but not here
//
// A workload can name a policy that has not arrived. Nothing is let through
// because of that: a new connection waits for it up to [GateConfig.MissingWait]
// and is then refused; a live one is cut if the policy is still absent after
// the same time.
//
// # Not done here
//
// Logging and metrics: see [GateTrace]. Policy for layer 7: the waypoint.
package policy
