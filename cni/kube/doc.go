// Package kube connects the agent to a cluster: the pods of its node as they come
// and change, what became of each said back, and whether the agent is to leave for
// good.
//
// # What it reads
//
// [Source] holds the pods of one node and all namespaces, by informers that keep
// only what decides about enrolment.
//
// # What it writes
//
// [Reporter] writes one annotation of a pod, through its status, and events. Both
// are written behind the agent's back and tried again: the agent never waits for
// the API server.
//
// # Where a pod lives
//
// A pod that starts is brought by the runtime's call of the plugin. One that was
// running before has had no such call, or one before us; [Runtime] asks the
// container runtime for the network namespace that it made for the pod (CRI,
// PodSandboxStatus). Processes are never searched. What it says is checked by the
// agent like every other: the namespace must hold the pod's address, must not be
// the node's, and must be no other pod's.
//
// # Leaving
//
// [Own] watches the DaemonSet that the agent belongs to. An agent that ends while
// its DaemonSet is there is replaced by another, and leaves everything as it is;
// one whose DaemonSet is gone, or going, cleans up. [EndAgents] has them do so.
package kube
