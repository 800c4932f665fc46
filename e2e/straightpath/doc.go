// Package straightpath tests the way of a connection from pod to pod, with the
// real parts in one process: istiod-lite from a directory of manifests, the
// agent's side of ZDS, the agent's rules in real network namespaces, and one
// ztunnel per node.
//
// The tests bear the names of the scenarios that every ambient node proxy has to
// pass.
package straightpath
