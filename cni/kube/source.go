package kube

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"sync"
	"time"

	"github.com/ambit-mesh/ambit/cni/agent"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// Source knows the pods of one node.
type Source struct {
	// Set by NewSource, then only read.
	client     kubernetes.Interface
	pods       cache.SharedIndexInformer
	namespaces cache.SharedIndexInformer
	podList    listers.PodLister
	nsList     listers.NamespaceLister

	// watching is held while the calls of fn are made.
	watching sync.Mutex

	// mu guards the field below.
	mu    sync.Mutex
	ahead map[string]readNamespace // namespaces of which the watch has told less than Fetch
}

// readNamespace is a namespace as it was read at a time.
type readNamespace struct {
	namespace *corev1.Namespace
	at        time.Time
}

// aheadTime is how long what was read of a namespace counts before what the watch
// tells. The library begins a watch anew after a minute at the latest; what is not
// told by then is a namespace that is gone.
const aheadTime = 5 * time.Minute

var _ agent.PodSource = (*Source)(nil)

// NewSource makes a source of the pods of node. It asks nothing yet.
func NewSource(client kubernetes.Interface, node string) *Source {
	ofNode := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(trim),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", node).String()
		}))
	all := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(trim))
	return &Source{
		client: client, ahead: map[string]readNamespace{},
		pods: ofNode.Core().V1().Pods().Informer(), podList: ofNode.Core().V1().Pods().Lister(),
		namespaces: all.Core().V1().Namespaces().Informer(), nsList: all.Core().V1().Namespaces().Lister(),
	}
}

// trim leaves of an object what decides about enrolment.
func trim(obj any) (any, error) {
	switch o := obj.(type) {
	case *corev1.Pod:
		return &corev1.Pod{
			ObjectMeta: trimMeta(o.ObjectMeta),
			Spec:       corev1.PodSpec{NodeName: o.Spec.NodeName, HostNetwork: o.Spec.HostNetwork, ServiceAccountName: o.Spec.ServiceAccountName},
			Status:     corev1.PodStatus{Phase: o.Status.Phase, PodIP: o.Status.PodIP, PodIPs: o.Status.PodIPs},
		}, nil
	case *corev1.Namespace:
		return &corev1.Namespace{ObjectMeta: trimMeta(o.ObjectMeta)}, nil
	}
	return obj, nil
}

// trimMeta is trim of what all objects have.
func trimMeta(m metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name: m.Name, Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion,
		Labels: m.Labels, Annotations: m.Annotations,
	}
}

// errNotRead is the answer until the cluster has been read once.
var errNotRead = errors.New("the cluster has not been read yet")

// Lookup finds a pod of the node by name.
func (s *Source) Lookup(_ context.Context, namespace, name string) (agent.Pod, bool, error) {
	if !s.synced() {
		return agent.Pod{}, false, errNotRead
	}
	p, err := s.podList.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return agent.Pod{}, false, nil
	}
	if err != nil {
		return agent.Pod{}, false, err
	}
	pod, err := s.describe(p)
	return pod, err == nil, err
}

// Fetch reads a pod and its namespace from the API server, whatever the watches have
// told: the library begins them anew up to a minute after the API server was away.
func (s *Source) Fetch(ctx context.Context, namespace, name string) (agent.Pod, bool, error) {
	p, err := s.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return agent.Pod{}, false, nil
	}
	if err != nil {
		return agent.Pod{}, false, err
	}
	ns, err := s.client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
	if err != nil {
		return agent.Pod{}, false, fmt.Errorf("namespace of pod %s/%s: %w", namespace, name, err)
	}
	s.note(ns, time.Now())
	return join(p, ns), true, nil
}

// note keeps what was read of a namespace until the watch has told of it: who was
// taken into the mesh by that must not be let go because the watch is late.
func (s *Source) note(ns *corev1.Namespace, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, read := range s.ahead {
		if now.Sub(read.at) > aheadTime {
			delete(s.ahead, name)
		}
	}
	s.ahead[ns.Name] = readNamespace{&corev1.Namespace{ObjectMeta: trimMeta(ns.ObjectMeta)}, now}
}

// newest is a namespace as the watch has told of it, or as it was read since. told
// may be nil, and so may be the result.
func (s *Source) newest(name string, told *corev1.Namespace, now time.Time) *corev1.Namespace {
	s.mu.Lock()
	defer s.mu.Unlock()
	read, ok := s.ahead[name]
	if !ok {
		return told
	}
	behind := told == nil
	if !behind {
		order, err := resourceversion.CompareResourceVersion(told.ResourceVersion, read.namespace.ResourceVersion)
		behind = err == nil && order < 0
	}
	if behind && now.Sub(read.at) <= aheadTime {
		return read.namespace
	}
	delete(s.ahead, name)
	return told
}

// List returns all pods of the node.
func (s *Source) List(context.Context) ([]agent.Pod, error) {
	if !s.synced() {
		return nil, errNotRead
	}
	found, err := s.podList.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	all := make([]agent.Pod, 0, len(found))
	for _, p := range found {
		pod, err := s.describe(p)
		if err != nil {
			return nil, err
		}
		all = append(all, pod)
	}
	return all, nil
}

// synced says whether the cluster has been read.
func (s *Source) synced() bool { return s.pods.HasSynced() && s.namespaces.HasSynced() }

// describe joins a pod with its namespace. A namespace that is not known yet is
// an error: nobody may be let go because one watch is behind the other.
func (s *Source) describe(p *corev1.Pod) (agent.Pod, error) {
	told, err := s.nsList.Get(p.Namespace)
	if err != nil {
		told = nil
	}
	ns := s.newest(p.Namespace, told, time.Now())
	if ns == nil {
		return agent.Pod{}, fmt.Errorf("namespace of pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	return join(p, ns), nil
}

// join says of a pod and its namespace what the agent needs.
func join(p *corev1.Pod, ns *corev1.Namespace) agent.Pod {
	pod := agent.FromKubernetes(p, p.Namespace, ns.Labels)
	for _, ip := range p.Status.PodIPs {
		if addr, err := netip.ParseAddr(ip.IP); err == nil {
			pod.IPs = append(pod.IPs, addr.Unmap())
		}
	}
	return pod
}

// Watch reads the cluster and calls fn once it has, and after each change that
// may matter, until ctx ends.
func (s *Source) Watch(ctx context.Context, fn func()) error {
	call := func() {
		s.watching.Lock()
		defer s.watching.Unlock()
		if ctx.Err() == nil && s.synced() {
			fn()
		}
	}
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { call() },
		UpdateFunc: func(before, after any) {
			if matters(before, after) {
				call()
			}
		},
		DeleteFunc: func(any) { call() },
	}
	var parts lifecycle.Group
	defer parts.Wait()
	for _, i := range []cache.SharedIndexInformer{s.pods, s.namespaces} {
		if _, err := i.AddEventHandler(handler); err != nil {
			return err
		}
		parts.Go(ctx, "informer", func(ctx context.Context) { i.Run(ctx.Done()) })
	}
	if cache.WaitForCacheSync(ctx.Done(), s.pods.HasSynced, s.namespaces.HasSynced) {
		call()
	}
	<-ctx.Done()
	return nil
}

// matters says whether an update changes more than the number of its version,
// and the mark that we write ourselves.
func matters(before, after any) bool {
	strip := func(obj any) any {
		switch o := obj.(type) {
		case *corev1.Pod:
			c := o.DeepCopy()
			c.ResourceVersion = ""
			delete(c.Annotations, agent.MarkAnnotation)
			if len(c.Annotations) == 0 {
				c.Annotations = nil
			}
			return c
		case *corev1.Namespace:
			c := o.DeepCopy()
			c.ResourceVersion, c.Annotations = "", nil
			return c
		}
		return obj
	}
	return !reflect.DeepEqual(strip(before), strip(after))
}
