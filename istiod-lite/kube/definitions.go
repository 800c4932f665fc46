package kube

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"go.uber.org/zap"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// untilServed is how soon it is looked again whether the kind of a definition is
// served already: that takes the API server a moment. It grows to untilServedMost.
const untilServed, untilServedMost = 200 * time.Millisecond, 5 * time.Second

// definitions notes which CustomResourceDefinitions there are. It is the store of
// a reflector that reads their metadata only: the rest is large.
type definitions struct {
	// mu guards the fields below.
	mu     sync.Mutex
	there  map[string]string // name to UID: another one is to be read anew
	listed bool
	notify chan struct{}
}

var _ cache.ReflectorStore = (*definitions)(nil)

// Add implements [cache.ReflectorStore].
func (d *definitions) Add(obj any) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.addLocked(obj)
	d.tell()
	return nil
}

// Update implements [cache.ReflectorStore].
func (d *definitions) Update(obj any) error { return d.Add(obj) }

// Delete implements [cache.ReflectorStore].
func (d *definitions) Delete(obj any) error {
	if o, ok := obj.(metav1.Object); ok {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.there, o.GetName())
		d.tell()
	}
	return nil
}

// Replace implements [cache.ReflectorStore].
func (d *definitions) Replace(objects []any, _ string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.there, d.listed = map[string]string{}, true
	for _, obj := range objects {
		d.addLocked(obj)
	}
	d.tell()
	return nil
}

// Resync implements [cache.ReflectorStore].
func (d *definitions) Resync() error { return nil }

// addLocked notes one. The caller holds d.mu.
func (d *definitions) addLocked(obj any) {
	if o, ok := obj.(metav1.Object); ok && o.GetDeletionTimestamp() == nil {
		d.there[o.GetName()] = string(o.GetUID())
	}
}

// tell leaves a note that something changed.
func (d *definitions) tell() {
	select {
	case d.notify <- struct{}{}:
	default:
	}
}

// uid is that of a definition; empty when there is none. listed is false as long
// as nobody knows.
func (d *definitions) uid(name string) (uid string, listed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.there[name], d.listed
}

// followDefinitions reads the kinds whose definitions are there, and as long as
// they are.
func (s *Source) followDefinitions(ctx context.Context) {
	var parts lifecycle.Group
	defer parts.Wait()
	d := &definitions{there: map[string]string{}, notify: make(chan struct{}, 1)}
	parts.Go(ctx, "kube-read-definitions", func(ctx context.Context) { s.readDefinitions(ctx, d) })

	reading := map[*feed]*customReader{}
	for {
		for _, f := range s.feeds {
			if f.kind.isCustom() {
				s.follow(ctx, &parts, d, f, reading)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-d.notify:
		}
	}
}

// customReader is what reads one custom kind.
type customReader struct {
	uid   string // of the definition
	stop  context.CancelFunc
	ended chan struct{}
}

// follow starts and ends the reading of one custom kind.
func (s *Source) follow(ctx context.Context, parts *lifecycle.Group, d *definitions, f *feed, reading map[*feed]*customReader) {
	uid, listed := d.uid(f.kind.crd())
	now := reading[f]
	if !listed || now != nil && now.uid == uid {
		return
	}
	if now != nil {
		now.stop()
		<-now.ended
		delete(reading, f)
	}
	if uid == "" {
		if now != nil {
			s.log.Warn("definition gone: its objects do not count any more", zap.String("definition", f.kind.crd()))
		}
		f.gone()
		return
	}
	ctx, stop := context.WithCancel(ctx)
	r := &customReader{uid: uid, stop: stop, ended: make(chan struct{})}
	reading[f] = r
	parts.Go(ctx, "kube-"+string(f.kind.kind), func(ctx context.Context) {
		defer close(r.ended)
		defer stop()
		s.readCustom(ctx, f)
	})
}

// readCustom waits until the kind is served, and reads it.
func (s *Source) readCustom(ctx context.Context, f *feed) {
	backoff := lifecycle.Backoff{Initial: untilServed, Max: untilServedMost}
	for {
		version, err := s.client.served(ctx, f.kind)
		if err == nil && version == "" {
			err = fmt.Errorf("the definition %s is there, but none of its versions %v is served", f.kind.crd(), f.kind.versions)
		}
		if err == nil {
			err = s.readVersion(ctx, f, version)
		}
		if ctx.Err() != nil {
			return
		}
		f.note(err)
		if lifecycle.Sleep(ctx, backoff.Next()) != nil {
			return
		}
	}
}

// readVersion reads the kind in one version until ctx ends, or the API server serves
// that no more, as after an upgrade of the definition.
func (s *Source) readVersion(ctx context.Context, f *feed, version string) error {
	client, err := s.client.custom(f.kind.group, version)
	if err != nil {
		return err
	}
	s.log.Info("reading", zap.String("definition", f.kind.crd()), zap.String("version", version))
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	f.run(ctx, client, version, stop)
	return context.Cause(ctx)
}

// readDefinitions keeps d up to date until ctx ends.
func (s *Source) readDefinitions(ctx context.Context, d *definitions) {
	crds := s.client.meta.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	of := s.definitionsFeed()
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := crds.List(ctx, o)
			of(err)
			if err != nil {
				return nil, err // not a nil list in an interface
			}
			return list, nil
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			w, err := crds.Watch(ctx, o)
			of(err)
			return w, err
		},
	}
	reflector := cache.NewReflectorWithOptions(lw, &metav1.PartialObjectMetadata{}, d, reflecting("CustomResourceDefinition"))
	reflector.RunWithContext(klog.NewContext(ctx, logr.Discard()))
}

// definitionsFeed notes with every custom kind how the reading of definitions
// goes: none can be read without.
func (s *Source) definitionsFeed() func(error) {
	return func(err error) {
		for _, f := range s.feeds {
			if synced, _ := f.state(); f.kind.isCustom() && !synced && err != nil {
				f.note(err)
			}
		}
	}
}
