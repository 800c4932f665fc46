package kube

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"go.uber.org/zap"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// feed takes what a reflector reads of one kind, and passes on what differs. It
// is the store of that reflector, but keeps no object that the model does not
// keep.
type feed struct {
	kind *kind
	out  *queue
	log  *zap.Logger

	// mu guards the fields below.
	mu     sync.Mutex
	told   map[model.Key]model.Object
	synced bool   // everything was read once, or there is no such kind
	absent bool   // there is no such kind now
	reads  string // the version that is read
	failed error  // of the last try; nil when it went well
	since  time.Time

	changed func() // called after a change of synced
}

var _ cache.TransformingStore = (*feed)(nil)

// newFeed is that of a kind of which nothing was read.
func newFeed(k *kind, out *queue, log *zap.Logger, changed func()) *feed {
	return &feed{kind: k, out: out, log: log, told: map[model.Key]model.Object{}, changed: changed}
}

// Transformer implements [cache.TransformingStore]: objects of a first read are
// trimmed one by one, so that they never stand in memory whole and together.
func (f *feed) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) {
		o, ok := obj.(runtime.Object)
		if !ok {
			return obj, nil
		}
		return f.kind.trim(o), nil
	}
}

// Add implements [cache.ReflectorStore].
func (f *feed) Add(obj any) error {
	o, ok := obj.(runtime.Object)
	if !ok {
		return fmt.Errorf("%s: %T is no object", f.kind.kind, obj)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.putLocked(f.kind.trim(o))
	return nil
}

// Update implements [cache.ReflectorStore].
func (f *feed) Update(obj any) error { return f.Add(obj) }

// Delete implements [cache.ReflectorStore].
func (f *feed) Delete(obj any) error {
	o, ok := obj.(model.Object)
	if !ok {
		return fmt.Errorf("%s: %T is no object", f.kind.kind, obj)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dropLocked(f.kind.key(o))
	return nil
}

// Replace implements [cache.ReflectorStore]: what is not in the list is gone.
func (f *feed) Replace(objects []any, _ string) error {
	f.mu.Lock()
	there := make(map[model.Key]bool, len(objects))
	for _, obj := range objects {
		if o, ok := obj.(runtime.Object); ok {
			trimmed := f.kind.trim(o)
			there[f.kind.key(trimmed)] = true
			f.putLocked(trimmed)
		}
	}
	for key := range f.told {
		if !there[key] {
			f.dropLocked(key)
		}
	}
	f.synced, f.absent = true, false
	f.mu.Unlock()
	f.changed()
	return nil
}

// Resync implements [cache.ReflectorStore]; nothing gets lost here.
func (f *feed) Resync() error { return nil }

// gone says that there is no such kind: what was told of it is taken back.
func (f *feed) gone() {
	f.mu.Lock()
	for key := range f.told {
		f.dropLocked(key)
	}
	f.synced, f.absent, f.reads, f.failed = true, true, "", nil
	f.mu.Unlock()
	f.changed()
}

// putLocked passes an object on unless it says what it said before. The caller
// holds f.mu.
func (f *feed) putLocked(now model.Object) {
	key := f.kind.key(now)
	old := f.told[key]
	if old != nil && f.kind.same(old, now) {
		return
	}
	f.told[key] = now
	f.out.put(key, now, f.kind.ends != nil && f.kind.ends(old, now))
}

// dropLocked passes on that an object is gone. The caller holds f.mu.
func (f *feed) dropLocked(key model.Key) {
	if old, known := f.told[key]; known {
		delete(f.told, key)
		f.out.put(key, nil, f.kind.ends != nil && f.kind.ends(old, nil))
	}
}

// note remembers how the last request went, and logs the first of a series of
// failures and its end.
func (f *feed) note(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case err != nil && f.failed == nil:
		f.since = time.Now()
		f.log.Warn("API server cannot be read", zap.String("kind", string(f.kind.kind)), zap.Error(err))
	case err == nil && f.failed != nil:
		f.log.Info("API server can be read again", zap.String("kind", string(f.kind.kind)), zap.Duration("after", time.Since(f.since)))
	}
	f.failed = err
}

// key names an object.
func (k *kind) key(o model.Object) model.Key {
	return model.Key{Kind: k.kind, Namespace: o.GetNamespace(), Name: o.GetName()}
}

// run reads through client until ctx ends, whatever happens to the connection. unserved
// is called when there is no such thing at the API server.
func (f *feed) run(ctx context.Context, client rest.Interface, version string, unserved func(error)) {
	f.mu.Lock()
	f.reads = version
	f.mu.Unlock()
	reflector := cache.NewReflectorWithOptions(f.listWatch(client, unserved), f.kind.empty(), f, reflecting(string(f.kind.kind)))
	// What goes wrong is noted by listWatch; the library's own lines would come
	// again and again.
	reflector.RunWithContext(klog.NewContext(ctx, logr.Discard()))
}

// listWatch reads the kind and notes how that goes.
func (f *feed) listWatch(client rest.Interface, unserved func(error)) cache.ListerWatcher {
	only := f.kind.only
	if only == nil {
		only = fields.Everything()
	}
	inner := cache.NewFilteredListWatchFromClient(client, f.kind.resource, f.kind.namespace, func(o *metav1.ListOptions) {
		o.FieldSelector = only.String()
	})
	note := func(err error) {
		f.note(err)
		if isNotFound(err) {
			unserved(err)
		}
	}
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := inner.ListWithContext(ctx, o)
			note(err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			w, err := inner.WatchWithContext(ctx, o)
			note(err)
			return w, err
		},
	}
}
