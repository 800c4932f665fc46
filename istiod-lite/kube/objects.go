package kube

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// Made is an object that this control plane makes: a pointer to a Go type of
// Kubernetes.
type Made interface {
	runtime.Object
	metav1.Object
}

// ErrConflict is in the error of an apply without force: another has said otherwise
// of the same fields.
var ErrConflict = errors.New("another owns these fields")

// madeKinds are the kinds of objects that a waypoint consists of.
func madeKinds() []schema.GroupVersionResource {
	return []schema.GroupVersionResource{
		{Version: "v1", Resource: "serviceaccounts"},
		{Version: "v1", Resource: "services"},
		{Group: "apps", Version: "v1", Resource: "deployments"},
		{Group: "autoscaling", Version: "v2", Resource: "horizontalpodautoscalers"},
		{Group: "policy", Version: "v1", Resource: "poddisruptionbudgets"},
	}
}

// TargetOf is where an object of one of the kinds that we make is.
func TargetOf(o Made) (Target, error) {
	t := Target{Namespace: o.GetNamespace(), Name: o.GetName()}
	switch o.(type) {
	case *corev1.ServiceAccount:
		t.Version, t.Resource, t.Kind = "v1", "serviceaccounts", "ServiceAccount"
	case *corev1.Service:
		t.Version, t.Resource, t.Kind = "v1", "services", "Service"
	case *appsv1.Deployment:
		t.Group, t.Version, t.Resource, t.Kind = "apps", "v1", "deployments", "Deployment"
	case *autoscalingv2.HorizontalPodAutoscaler:
		t.Group, t.Version, t.Resource, t.Kind = "autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler"
	case *policyv1.PodDisruptionBudget:
		t.Group, t.Version, t.Resource, t.Kind = "policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget"
	case *gateway.GatewayClass:
		t.Group, t.Version, t.Resource, t.Kind = gateway.GroupName, "v1", "gatewayclasses", "GatewayClass"
	default:
		return Target{}, fmt.Errorf("%T is not among the kinds that are made here", o)
	}
	return t, nil
}

// ApplyObject says what an object has to be, by a server-side apply of manager. With
// force fields of others become ours; without, a difference is [ErrConflict].
func (c *Client) ApplyObject(ctx context.Context, manager string, o Made, force bool) error {
	t, err := TargetOf(o)
	if err != nil {
		return err
	}
	content, err := contentOf(o)
	if err != nil {
		return fmt.Errorf("apply %s %s/%s: %w", t.Kind, t.Namespace, t.Name, err)
	}
	return c.apply(ctx, manager, t, content, force)
}

// contentOf is what we say of an object: all but its status.
func contentOf(o Made) (map[string]any, error) {
	text, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	var content map[string]any
	if err := json.Unmarshal(text, &content); err != nil {
		return nil, err
	}
	delete(content, "status")
	if meta, ok := content["metadata"].(map[string]any); ok {
		delete(meta, "creationTimestamp")
	}
	return content, nil
}

// ControllerOf is the UID of the object that controls another: "" when nothing does.
// there is false when there is no such object.
func (c *Client) ControllerOf(ctx context.Context, t Target) (uid types.UID, there bool, err error) {
	resource := c.meta.Resource(schema.GroupVersionResource{Group: t.Group, Version: t.Version, Resource: t.Resource})
	o, err := resource.Namespace(t.Namespace).Get(ctx, t.Name, metav1.GetOptions{})
	if isNotFound(err) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("read %s %s/%s: %w", t.Kind, t.Namespace, t.Name, err)
	}
	if owner := metav1.GetControllerOfNoCopy(o); owner != nil {
		uid = owner.UID
	}
	return uid, true, nil
}

// Delete removes an object. That there is none is no error.
func (c *Client) Delete(ctx context.Context, t Target) error {
	resource := c.meta.Resource(schema.GroupVersionResource{Group: t.Group, Version: t.Version, Resource: t.Resource})
	if err := resource.Namespace(t.Namespace).Delete(ctx, t.Name, metav1.DeleteOptions{}); err != nil && !isNotFound(err) {
		return fmt.Errorf("delete %s %s/%s: %w", t.Kind, t.Namespace, t.Name, err)
	}
	return nil
}

// Replicas is how many pods a Deployment is to have; ok is false when there is none.
func (c *Client) Replicas(ctx context.Context, namespace, name string) (n int32, ok bool, err error) {
	d, err := c.typed.AppsV1().Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
	if isNotFound(err) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("read Deployment %s/%s: %w", namespace, name, err)
	}
	if d.Spec.Replicas == nil {
		return 1, true, nil
	}
	return *d.Spec.Replicas, true, nil
}

// ConfigMap reads a ConfigMap; ok is false when there is none.
func (c *Client) ConfigMap(ctx context.Context, namespace, name string) (data map[string]string, ok bool, err error) {
	m, err := c.typed.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
	if isNotFound(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read ConfigMap %s/%s: %w", namespace, name, err)
	}
	return m.Data, true, nil
}

// FollowMade tells fn of the objects of a selector, among the kinds that waypoints
// consist of, that came, went, or were changed by somebody, until ctx ends.
func (c *Client) FollowMade(ctx context.Context, selector string, fn func(o metav1.Object)) {
	var reading lifecycle.Group
	defer reading.Wait()
	for _, gvr := range madeKinds() {
		reading.Go(ctx, "kube-made-"+gvr.Resource, func(ctx context.Context) {
			resource := c.meta.Resource(gvr)
			lw := &cache.ListWatch{
				ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
					o.LabelSelector = selector
					list, err := resource.List(ctx, o)
					if err != nil {
						return nil, err // not a nil list in an interface
					}
					return list, nil
				},
				WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
					o.LabelSelector = selector
					return resource.Watch(ctx, o)
				},
			}
			reflector := cache.NewReflectorWithOptions(lw, &metav1.PartialObjectMetadata{}, newWatched(fn), reflecting("made "+gvr.Resource))
			reflector.RunWithContext(klog.NewContext(ctx, logr.Discard()))
		})
	}
}

// watched is the store of a reflector that only wants to know what somebody has
// changed.
type watched struct {
	fn func(metav1.Object)

	// mu guards what was told.
	mu    sync.Mutex
	there map[types.NamespacedName]told
}

// told is an object and what tells a change of its specification.
type told struct {
	o       metav1.Object
	version string
}

// versionOf changes with what users write: the generation, where the kind has one, else
// what the API server notes of who wrote which fields but those of the status, which an
// autoscaler's controller writes all the time.
func versionOf(o metav1.Object) string {
	written := fmt.Sprint(o.GetGeneration())
	if o.GetGeneration() == 0 {
		if len(o.GetManagedFields()) == 0 {
			return o.GetResourceVersion()
		}
		hash := sha256.New()
		for _, f := range o.GetManagedFields() {
			if f.Subresource == "" {
				fmt.Fprintln(hash, f.Manager, f.Operation, f.Time, f.FieldsV1)
			}
		}
		written = fmt.Sprintf("%x", hash.Sum(nil))
	}
	return fmt.Sprint(o.GetUID(), " ", written, " ", o.GetDeletionTimestamp() != nil)
}

// newWatched knows of nothing.
func newWatched(fn func(metav1.Object)) *watched {
	return &watched{fn: fn, there: map[types.NamespacedName]told{}}
}

var _ cache.ReflectorStore = (*watched)(nil)

// Add implements [cache.ReflectorStore].
func (w *watched) Add(obj any) error {
	o, ok := obj.(metav1.Object)
	if !ok {
		return fmt.Errorf("%T is no object", obj)
	}
	key, now := types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}, told{o, versionOf(o)}
	w.mu.Lock()
	before := w.there[key]
	w.there[key] = now
	w.mu.Unlock()
	if before.version != now.version {
		w.fn(o)
	}
	return nil
}

// Update implements [cache.ReflectorStore].
func (w *watched) Update(obj any) error { return w.Add(obj) }

// Delete implements [cache.ReflectorStore].
func (w *watched) Delete(obj any) error {
	o, ok := obj.(metav1.Object)
	if !ok {
		return fmt.Errorf("%T is no object", obj)
	}
	w.mu.Lock()
	delete(w.there, types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()})
	w.mu.Unlock()
	w.fn(o)
	return nil
}

// Replace implements [cache.ReflectorStore].
func (w *watched) Replace(objects []any, _ string) error {
	now := map[types.NamespacedName]bool{}
	for _, obj := range objects {
		if o, ok := obj.(metav1.Object); ok {
			now[types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}] = true
		}
	}
	w.mu.Lock()
	var gone []metav1.Object
	for key, before := range w.there {
		if !now[key] {
			gone = append(gone, before.o)
			delete(w.there, key)
		}
	}
	w.mu.Unlock()
	for _, o := range gone {
		w.fn(o)
	}
	for _, obj := range objects {
		if err := w.Add(obj); err != nil {
			return err
		}
	}
	return nil
}

// Resync implements [cache.ReflectorStore].
func (w *watched) Resync() error { return nil }

// isConflict reports whether the API server says that others own a field.
func isConflict(err error) bool { return apierrors.IsConflict(err) }
