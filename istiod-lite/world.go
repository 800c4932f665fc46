package istiodlite

import (
	"context"
	"errors"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/ambit-mesh/ambit/istiod-lite/ca"
	"github.com/ambit-mesh/ambit/istiod-lite/discovery"
	"github.com/ambit-mesh/ambit/istiod-lite/gateways"
	"github.com/ambit-mesh/ambit/istiod-lite/keeper"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
	"github.com/ambit-mesh/ambit/istiod-lite/status"
)

// world holds the model between the source of events and those who want to know.
// It is the one place where the model meets several goroutines.
type world struct {
	// Set by New, then only read.
	xds    *discovery.Server
	board  *status.Board
	live   func(ctx context.Context, node string) ([]*corev1.Pod, error) // the pods of a node by the source itself
	notice []func([]model.Event, []model.Change)                         // others that want to know

	known chan struct{} // closed when the first picture stands

	// mu guards the model, and keeps changes in the order in which they are passed
	// on. Nothing waits for a client while it is held.
	mu    sync.RWMutex
	model *model.Model
	begun bool // known is closed
}

var (
	_ ca.PodsOnNode  = (*world)(nil)
	_ keeper.World   = (*world)(nil)
	_ gateways.World = (*world)(nil)

	_ discovery.Proxies = (*world)(nil)
)

// newWorld is empty.
func newWorld(cfg model.Config) *world {
	return &world{model: model.New(cfg), known: make(chan struct{})}
}

// apply takes events in and passes on what they changed.
func (w *world) apply(events []model.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	changes := w.model.Apply(events...)
	w.xds.Push(changes)
	w.board.Apply(changes)
	for _, notice := range w.notice {
		notice(events, changes)
	}
	if !w.begun {
		w.begun = true
		close(w.known)
	}
}

// Known is closed when the first picture stands.
func (w *world) Known() <-chan struct{} { return w.known }

// Look is an object, nil when there is none, and what its author should know.
func (w *world) Look(key model.Key) (model.Object, []model.Condition) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.model.Look(key)
}

// Keys are the names of all objects of a kind.
func (w *world) Keys(kind model.Kind) []model.Key {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.model.Keys(kind)
}

// AttachedRoutes counts the routes of a listener of a Gateway.
func (w *world) AttachedRoutes(key model.Key, listener gateway.Listener) int32 {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.model.AttachedRoutes(key, listener)
}

// Pod is one pod; nil when there is none.
func (w *world) Pod(namespace, name string) *corev1.Pod {
	o, _ := w.Look(model.Key{Kind: model.KindPod, Namespace: namespace, Name: name})
	pod, _ := o.(*corev1.Pod)
	return pod
}

// PodsOn are the pods of a node.
func (w *world) PodsOn(node string) []*corev1.Pod {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.model.PodsOn(node)
}

// PodsOnNode are the pods of a node. With fresh the source itself is asked.
func (w *world) PodsOnNode(ctx context.Context, node string, fresh bool) ([]ca.Pod, error) {
	on := w.PodsOn(node)
	if fresh {
		var err error
		if on, err = w.live(ctx, node); err != nil {
			return nil, err
		}
	}
	var pods []ca.Pod
	for _, p := range on {
		pods = append(pods, podOf(p))
	}
	return pods, nil
}

// WaypointOf is the resource name of the service of the waypoint whose proxy a pod
// is. Source: [model.Model.ProxyOf].
func (w *world) WaypointOf(namespace, pod, node string) (string, error) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	p, err := w.model.ProxyOf(namespace, pod, node)
	if errors.Is(err, model.ErrUnknownPod) {
		err = fmt.Errorf("%w: %w", discovery.ErrUndecided, err)
	}
	return p.Service, err
}

// podOf is a pod as far as its certificates go.
func podOf(p *corev1.Pod) ca.Pod {
	return ca.Pod{
		Name:           p.Name,
		Namespace:      p.Namespace,
		ServiceAccount: model.AccountOf(p),
		Node:           p.Spec.NodeName,
		Phase:          string(p.Status.Phase),
		UID:            string(p.UID),
	}
}
