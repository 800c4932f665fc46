package kube

import (
	"context"
	"fmt"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// named is the store of a reflector that reads objects of one name: at most one
// per namespace.
type named[P metav1.Object] struct {
	there map[string]bool // namespaces that have one
	tell  func(namespace string, o P)
	first func() // after the first read
}

// FollowSecret tells fn of the values of one Secret, now and whenever they change,
// until ctx ends. nil: there is no such Secret.
func (c *Client) FollowSecret(ctx context.Context, namespace, name string, fn func(values map[string][]byte)) {
	found := false
	follow(ctx, c, "secrets", namespace, name, &corev1.Secret{}, &named[*corev1.Secret]{
		tell: func(_ string, s *corev1.Secret) {
			if s == nil {
				fn(nil)
				return
			}
			found = true
			values := s.Data
			if values == nil {
				values = map[string][]byte{}
			}
			fn(values)
		},
		first: func() {
			if !found {
				fn(nil)
			}
		},
	})
}

// FollowConfigMaps tells fn of the ConfigMaps of one name in all namespaces, now
// and whenever they change, until ctx ends. nil: the namespace has none any more.
// synced is called when all have been told once.
func (c *Client) FollowConfigMaps(ctx context.Context, name string, fn func(namespace string, data map[string]string), synced func()) {
	follow(ctx, c, "configmaps", metav1.NamespaceAll, name, &corev1.ConfigMap{}, &named[*corev1.ConfigMap]{
		tell: func(namespace string, m *corev1.ConfigMap) {
			switch {
			case m == nil:
				fn(namespace, nil)
			case m.Data == nil:
				fn(namespace, map[string]string{})
			default:
				fn(namespace, m.Data)
			}
		},
		first: synced,
	})
}

// follow reads objects of one name until ctx ends.
func follow[P interface {
	runtime.Object
	metav1.Object
}](ctx context.Context, c *Client, resource, namespace, name string, empty P, store *named[P]) {
	store.there = map[string]bool{}
	lw := cache.NewListWatchFromClient(c.typed.CoreV1().RESTClient(), resource, namespace, fields.OneTermEqualSelector("metadata.name", name))
	reflector := cache.NewReflectorWithOptions(lw, empty, store, reflecting(resource+"/"+name))
	reflector.RunWithContext(klog.NewContext(ctx, logr.Discard()))
}

// Add implements [cache.ReflectorStore].
func (n *named[P]) Add(obj any) error {
	o, ok := obj.(P)
	if !ok {
		return fmt.Errorf("%T is not what was asked for", obj)
	}
	n.there[o.GetNamespace()] = true
	n.tell(o.GetNamespace(), o)
	return nil
}

// Update implements [cache.ReflectorStore].
func (n *named[P]) Update(obj any) error { return n.Add(obj) }

// Delete implements [cache.ReflectorStore].
func (n *named[P]) Delete(obj any) error {
	o, ok := obj.(P)
	if !ok {
		return fmt.Errorf("%T is not what was asked for", obj)
	}
	n.gone(o.GetNamespace())
	return nil
}

// gone says that a namespace has none any more.
func (n *named[P]) gone(namespace string) {
	delete(n.there, namespace)
	var none P
	n.tell(namespace, none)
}

// Replace implements [cache.ReflectorStore].
func (n *named[P]) Replace(objects []any, _ string) error {
	now := map[string]bool{}
	for _, obj := range objects {
		if o, ok := obj.(P); ok {
			now[o.GetNamespace()] = true
		}
	}
	for namespace := range n.there {
		if !now[namespace] {
			n.gone(namespace)
		}
	}
	for _, obj := range objects {
		if err := n.Add(obj); err != nil {
			return err
		}
	}
	if n.first != nil {
		n.first()
		n.first = nil
	}
	return nil
}

// Resync implements [cache.ReflectorStore].
func (n *named[P]) Resync() error { return nil }
