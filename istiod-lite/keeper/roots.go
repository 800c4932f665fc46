package keeper

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/istiod-lite/kube"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// The ConfigMap by which proxies learn whom to trust. Source: the ambient
// ecosystem.
const (
	rootsName = "istio-ca-root-cert"
	rootsKey  = "root-cert.pem"
)

// repairEvery is how often at most the ConfigMap of one namespace is written.
const repairEvery = time.Second

// roots is what the ConfigMaps of all namespaces say.
type roots struct {
	// mu guards the fields below.
	mu    sync.Mutex
	says  map[string]string    // by namespace; absent: there is none
	wrote map[string]time.Time // by namespace
	read  bool                 // all have been read
}

// newRoots knows of none.
func newRoots() *roots { return &roots{says: map[string]string{}, wrote: map[string]time.Time{}} }

// note takes in what a ConfigMap says; nil: it is gone.
func (r *roots) note(namespace string, data map[string]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if data == nil {
		delete(r.says, namespace)
		return
	}
	r.says[namespace] = data[rootsKey]
}

// drop forgets when it was written to a namespace that is gone. What its ConfigMap says
// goes with that.
func (r *roots) drop(namespace string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.wrote, namespace)
}

// forget knows of none again.
func (r *roots) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.says, r.read = map[string]string{}, false
}

// wait is how long a namespace's ConfigMap must not be written again: whoever
// else writes it must not make us write without end.
func (r *roots) wait(namespace string, now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	last, ok := r.wrote[namespace]
	if !ok || now.Sub(last) >= repairEvery {
		return 0
	}
	return repairEvery - now.Sub(last)
}

// written notes that a namespace's ConfigMap was written.
func (r *roots) written(namespace, text string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wrote[namespace] = now
	r.says[namespace] = text
}

// differs reports whether a namespace's ConfigMap has to be written. Before all
// have been read nobody knows.
func (r *roots) differs(namespace, want string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.read && want != "" && r.says[namespace] != want
}

// followRoots watches the ConfigMaps, and looks at those of all namespaces when
// the roots change, until ctx ends.
func (k *Keeper) followRoots(ctx context.Context) {
	var parts lifecycle.Group
	defer parts.Wait()
	k.roots.forget() // what was known when this replica led before
	all := func() { k.enqueue(k.deps.World.Keys(model.KindNamespace)...) }
	parts.Go(ctx, "keeper-read-roots", func(ctx context.Context) {
		k.deps.Client.FollowConfigMaps(ctx, rootsName, func(namespace string, data map[string]string) {
			k.roots.note(namespace, data)
			k.enqueue(model.Key{Kind: model.KindNamespace, Name: namespace})
		}, func() {
			k.roots.mu.Lock()
			k.roots.read = true
			k.roots.mu.Unlock()
			all()
		})
	})
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.deps.Authority.Changed():
			all()
		}
	}
}

// keepRoot makes the ConfigMap of a namespace say whom to trust. A namespace that
// is being deleted takes none.
func (k *Keeper) keepRoot(ctx context.Context, namespace string) error {
	key := model.Key{Kind: model.KindNamespace, Name: namespace}
	o, _ := k.deps.World.Look(key)
	n, ok := o.(*corev1.Namespace)
	if !ok {
		k.roots.drop(namespace)
		return nil
	}
	want := k.deps.Authority.Roots()
	if n.DeletionTimestamp != nil || n.Status.Phase == corev1.NamespaceTerminating || !k.roots.differs(namespace, want) {
		return nil
	}
	if wait := k.roots.wait(namespace, time.Now()); wait > 0 {
		k.later(key, wait)
		return nil
	}
	err := k.deps.Client.Apply(ctx, manager, kube.Target{Version: "v1", Resource: "configmaps", Kind: "ConfigMap", Namespace: namespace, Name: rootsName}, map[string]any{
		"metadata": map[string]any{"labels": map[string]any{"istio.io/config": "true", "app.kubernetes.io/part-of": "ambit"}},
		"data":     map[string]any{rootsKey: want},
	})
	if err != nil {
		return errorOf("roots", key, err)
	}
	k.roots.written(namespace, want, time.Now())
	k.wrote(key)
	return nil
}
