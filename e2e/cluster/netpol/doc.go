// Package netpol enforces networking.k8s.io/v1 NetworkPolicy on a node of a lab.
//
// # How
//
// [Compile] turns pods, namespaces and policies into one [Guard] for each local pod
// that a policy selects: a pure function. [Guard]s are written as one nftables table,
// which replaces the one before in a transaction. Its chain is at the forward hook of
// the node: between the node's end of each pod's veth and everything else, also for
// traffic between two pods of one node.
//
// # What follows from that
//
// Traffic of the node itself, such as a kubelet's probes, does not pass the hook and is
// never dropped, as the API wants it. Connections that stand when a policy comes go on,
// which the API leaves open.
package netpol
