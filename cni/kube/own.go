package kube

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
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

// lookEvery is how often it is looked whether the agents have ended.
const lookEvery = 500 * time.Millisecond

// EndAgents deletes a DaemonSet of agents, which so leave their nodes, and waits
// until the last of them has ended. One that is not there is no error. The error
// is the cause of ctx, with what is left, when that has ended first.
func EndAgents(ctx context.Context, client kubernetes.Interface, namespace, name string) error {
	sets := client.AppsV1().DaemonSets(namespace)
	// Only what stays until its pods are gone says when they are.
	last := metav1.DeletePropagationForeground
	err := sets.Delete(ctx, name, metav1.DeleteOptions{PropagationPolicy: &last})
	var left int32
	for !apierrors.IsNotFound(err) {
		if lifecycle.Sleep(ctx, lookEvery) != nil {
			return fmt.Errorf("%d agents of DaemonSet %s/%s have not ended: %w", left, namespace, name, errors.Join(context.Cause(ctx), err))
		}
		var d *appsv1.DaemonSet
		if d, err = sets.Get(ctx, name, metav1.GetOptions{}); err == nil {
			left = d.Status.CurrentNumberScheduled
			if d.DeletionTimestamp == nil { // the deletion did not get through
				err = sets.Delete(ctx, name, metav1.DeleteOptions{PropagationPolicy: &last})
			}
		}
	}
	return nil
}
