// Package agent enrols pods: find the namespace, write rules, tell ztunnel, in
// that order.
//
// # How things flow
//
// The CNI plugin asks for each new pod (package event). The agent looks the pod
// up in its [PodSource] and decides whether it belongs to the mesh. If so:
//
//	check    the namespace is a network namespace, not the node's, not another
//	         pod's, and holds the pod's address
//	rules    cni/redirect writes them and reads them back
//	ztunnel  gets the pod and its namespace, and says that it listens
//
// and only then the plugin is answered, and the pod starts. Whatever fails on
// this way fails the start of the pod: a pod that should be in the mesh does not
// run outside of it.
//
// Pods that do not belong to the mesh are remembered too, with their namespace,
// so that a change of labels takes a running pod in or lets it go.
//
// # What is kept
//
// Each pod's namespace stays open, so that its device and inode go on meaning
// it. A file beside the socket remembers the pods; an agent that starts again
// finds them by it and checks each against device and inode. The end of the agent
// changes nothing in any pod.
//
// # What is repaired
//
// At the start, at each change of the source and every 30 s each pod is compared
// with what it should be: rules that are missing or changed are written again, a
// pod that ztunnel did not take is offered again, and a pod whose namespace is
// gone is forgotten. A pod that has ended, or is not known any more, leaves
// ztunnel and keeps its rules until its sandbox goes: what still runs there must
// not be reached past every policy.
//
// # Metrics
//
//	ambit_cni_pods{state}                pods known: enrolled, pending, outside, failed
//	ambit_cni_ztunnel_connected          1 while a ztunnel is connected and has its snapshot
//	ambit_cni_requests_total{request,result}  requests of the plugin: ok, refused
//	ambit_cni_rules_repaired_total       times that rules of a pod were not as written
//
// # Not done here
//
// Making interfaces, and installing the plugin: see cni/install.
package agent
