package istiodlite

import (
	"context"
	"sync"

	"github.com/ambit-mesh/ambit/istiod-lite/ca"
	"github.com/ambit-mesh/ambit/istiod-lite/discovery"
	"github.com/ambit-mesh/ambit/istiod-lite/files"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
	"github.com/ambit-mesh/ambit/istiod-lite/status"
)

// world holds the model between the source of events and those who want to know.
// It is the one place where the model meets several goroutines.
type world struct {
	// Set by New, then only read.
	source *files.Source
	xds    *discovery.Server
	board  *status.Board

	// mu guards the model, and keeps changes in the order in which they are passed
	// on. Nothing waits for a client while it is held.
	mu    sync.RWMutex
	model *model.Model
}

var _ ca.PodsOnNode = (*world)(nil)

// apply takes events in and passes on what they changed.
func (w *world) apply(events []model.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	changes := w.model.Apply(events...)
	w.board.Apply(changes)
	w.xds.Push(changes)
}

// PodsOnNode are the pods of a node. With fresh the directory is read first.
func (w *world) PodsOnNode(ctx context.Context, node string, fresh bool) ([]ca.Pod, error) {
	if fresh {
		if err := w.source.Refresh(ctx, w.apply); err != nil {
			return nil, err
		}
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	var pods []ca.Pod
	for _, p := range w.model.PodsOn(node) {
		pods = append(pods, ca.Pod{
			Name:           p.Name,
			Namespace:      p.Namespace,
			ServiceAccount: model.AccountOf(p),
			Node:           p.Spec.NodeName,
			Phase:          string(p.Status.Phase),
		})
	}
	return pods, nil
}
