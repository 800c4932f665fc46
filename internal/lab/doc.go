// Package lab is a mesh on one machine: nodes and pods as network namespaces,
// enrolled by the real CNI chain. For demo, tests, perf.
//
// # What it builds
//
//	ambit-fabric    a bridge: the wire between the nodes, where a [Capture] listens
//	ambit-control   istiod-lite
//	ambit-node-1    ztunnel, the CNI agent, the bridge cni0 with the node's pods
//	ambit-node-2    the same
//	ambit-<ns>-<pod>  one namespace per pod, with ordinary programs in it (labapp)
//
// Every process is the real binary that a cluster runs. The lab plays only what
// is not ours: the container runtime (it calls the CNI chain through libcni) and
// the kubelet (it writes a Pod's manifest before ADD, its address, its readiness
// and the redirection annotation after it).
//
// # Ownership
//
// All that a lab makes is written to its state file before it is made or, for
// processes, at once after; [Clean] removes what the file names, also after the
// process that wrote it has died. A process is ended only if its start time is
// the recorded one.
//
// # Not done here
//
// Judging what the mesh does: see the package demo below, and e2e.
package lab
