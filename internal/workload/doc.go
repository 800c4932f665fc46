// Package workload says who is where: one immutable picture of workloads,
// services and policies.
//
// # The path of a change
//
// The control plane sends resources; [Store.ApplyAddresses] and
// [Store.ApplyAuthorizations] check each, keep what it replaces when it is bad,
// and publish a new [Snapshot] of all that was good. A connection takes the
// snapshot once and decides everything from it.
//
// A snapshot shares with its predecessor whatever did not differ, so a change
// of one workload among ten thousand costs a few small copies (see the table
// type). What a snapshot says depends only on the resources that are in it, not
// on the order in which they came.
//
// # What the agent knows
//
// [Store.Seed] adds what the CNI agent said of a pod. It serves connections
// that leave the pod, through [Snapshot.LookupSource], until the control plane
// knows the pod. Connections that come in wait for the control plane:
// [Store.WaitPod].
//
// # Not done here
//
// Where a connection goes next: ztunnel/route. Getting the resources:
// internal/xds.
package workload
