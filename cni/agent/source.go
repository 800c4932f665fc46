package agent

import (
	"cmp"
	"context"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

// Pod is what a source says of a pod.
type Pod struct {
	UID            string
	StaticUID      string // by which node and runtime know a static pod; UID is that of its copy in the cluster
	Namespace      string
	Name           string
	ServiceAccount string
	Node           string // empty when it is not known yet
	HostNetwork    bool
	Terminal       bool         // it has succeeded or failed, and does not run again
	IPs            []netip.Addr // empty when they are not known yet, or the source knows none

	Labels          map[string]string
	Annotations     map[string]string
	NamespaceLabels map[string]string
}

// mirrorAnnotation is on the copy in the cluster of a static pod, which the kubelet
// has from elsewhere: its value is the uid that the kubelet gave it, the copy has
// another. Source: k8s.io/kubernetes, pkg/kubelet/pod/mirror_client.go.
const mirrorAnnotation = corev1.MirrorPodAnnotationKey

// runtimeUID is the uid by which the node's container runtime knows the pod.
func (p Pod) runtimeUID() string { return cmp.Or(p.StaticUID, p.UID) }

// PodSource knows the pods. [Directory] is one; another is a cluster.
type PodSource interface {
	// Lookup finds a pod by name as the source knows it now. An error means that
	// the source cannot say.
	Lookup(ctx context.Context, namespace, name string) (p Pod, found bool, err error)

	// Fetch finds a pod by name as it is now, however late the source hears of
	// changes. It may wait. An error means that it cannot be said.
	Fetch(ctx context.Context, namespace, name string) (p Pod, found bool, err error)

	// List returns all pods that may be of this node. An error means that the source
	// cannot say.
	List(ctx context.Context) ([]Pod, error)

	// Watch calls fn when the source has become readable, and after each change,
	// until ctx ends. Calls do not overlap.
	Watch(ctx context.Context, fn func()) error
}
