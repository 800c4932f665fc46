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
//	inspect  it does listen, and takes a connection that the rules lead to it
//
// and only then the plugin is answered, and the pod starts. Whatever fails on
// this way fails the start of the pod: a pod that should be in the mesh does not
// run outside of it.
//
// Pods that do not belong to the mesh are remembered too, with their namespace,
// so that a change of labels takes a running pod in or lets it go. A pod that ran
// before the agent came is found by the word of the container runtime ([Runtime]),
// and checked in the same way.
//
// # A pod that runs
//
// It is handed to ztunnel before its traffic is captured, so that no connection
// finds nobody. Connections that stood before stay as they are, outside of the
// mesh, until they end: taking them in would break them. A pod that is let go is
// captured no more at once, and keeps its proxy for [Config.ReleaseLinger], while
// its peers hear of it, and then until the connections that it carries have ended,
// or [Config.ReleaseTimeout] is over.
//
// # What is kept
//
// Each pod's namespace stays open, so that its device and inode go on meaning
// it. A file beside the socket remembers the pods; an agent that starts again
// finds them by it and checks each against device and inode. The end of the agent
// changes nothing in any pod, unless the mesh leaves the node for good
// ([Deps.Leaving]).
//
// # What is looked at, and repaired
//
// At the start, at each change of the source and every 30 s each pod is compared
// with what it should be: rules that are missing or changed are written again, a
// pod that ztunnel does not serve is offered again, and a pod whose namespace is
// gone is forgotten. A pod counts as enrolled only as long as all of it has been
// seen: rules, listeners, and a connection through them. A pod that has ended, or
// is not known any more, leaves ztunnel and keeps its rules until its sandbox
// goes: what still runs there must not be reached past every policy.
//
// A pod that should be in the mesh and is not captured for [Config.FenceAfter] is
// fenced: nothing passes the interface by which the node reaches it, or where there
// is none, its own. One that is captured and not served needs no fence: its
// traffic goes to the proxy or nowhere. Only TCP is captured, so of such a pod
// other traffic goes on.
//
// # Metrics
//
//	ambit_pods_expected                  pods of the node that belong to the mesh
//	ambit_pods_enrolled                  those of them that were seen to be in it
//	ambit_pods_fenced                    those that cannot be taken in, and are cut off
//	ambit_cni_pods{state}                pods known: enrolled, pending, releasing, outside, failed, fenced
//	ambit_cni_ztunnel_connected          1 while a ztunnel is connected and has its snapshot
//	ambit_cni_requests_total{request,result}  requests of the plugin: ok, refused
//	ambit_cni_request_seconds{request}   how long they took
//	ambit_cni_rules_repaired_total       times that rules of a pod were not as written
//
// # Not done here
//
// Making interfaces; installing the plugin: see cni/install; the cluster: see
// cni/kube.
package agent
