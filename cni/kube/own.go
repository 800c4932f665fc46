package kube

import (
	"context"
	"sync/atomic"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Own watches the DaemonSet that the agent belongs to.
type Own struct {
	// Set by NewOwn, then only read.
	client          kubernetes.Interface
	namespace, name string
	informer        cache.SharedIndexInformer

	// Any goroutine.
	leaving atomic.Bool // it is gone or going
}

// NewOwn makes a watch of the DaemonSet. It asks nothing yet.
func NewOwn(client kubernetes.Interface, namespace, name string) *Own {
	o := &Own{client: client, namespace: namespace, name: name}
	o.informer = informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace),
		informers.WithTweakListOptions(func(l *metav1.ListOptions) {
			l.FieldSelector = fields.OneTermEqualSelector("metadata.name", name).String()
		})).Apps().V1().DaemonSets().Informer()
	return o
}

// Run watches until ctx ends.
func (o *Own) Run(ctx context.Context) error {
	note := func(obj any) {
		if d, ok := obj.(*appsv1.DaemonSet); ok {
			o.leaving.Store(d.DeletionTimestamp != nil)
		}
	}
	_, err := o.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: note, UpdateFunc: func(_, now any) { note(now) },
		DeleteFunc: func(any) { o.leaving.Store(true) },
	})
	if err != nil {
		return err
	}
	o.informer.Run(ctx.Done())
	return nil
}

// askTimeout bounds the last question of an agent that was asked to end.
const askTimeout = 3 * time.Second

// Leaving says whether the DaemonSet is gone or being deleted, and the agent so to
// leave the node for good. When that cannot be known it is not: whoever stays in
// the mesh without need does less harm than who leaves it without being told.
func (o *Own) Leaving(ctx context.Context) bool {
	if o.leaving.Load() {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	d, err := o.client.AppsV1().DaemonSets(o.namespace).Get(ctx, o.name, metav1.GetOptions{})
	if err != nil {
		return apierrors.IsNotFound(err)
	}
	return d.DeletionTimestamp != nil
}
