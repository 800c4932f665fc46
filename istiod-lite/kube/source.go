package kube

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// Source tells of the objects of a cluster.
type Source struct {
	// Set by NewSource, then only read.
	client *Client
	log    *zap.Logger
	queue  *queue
	feeds  map[model.Kind]*feed
	synced chan struct{} // closed when every kind has been read once

	// mu guards the field below.
	mu   sync.Mutex
	done bool // synced is closed
}

// NewSource makes a source of a cluster with that root namespace. It reads nothing
// yet.
func NewSource(client *Client, root string, log *zap.Logger) *Source {
	s := &Source{client: client, log: log.Named("kube"), queue: newQueue(), feeds: map[model.Kind]*feed{}, synced: make(chan struct{})}
	for _, k := range kinds() {
		if k.inRoot {
			k.namespace = root
		}
		s.feeds[k.kind] = newFeed(k, s.queue, s.log, s.checkSynced)
	}
	return s
}

// Run tells fn of all objects, and of every difference after that, until ctx
// ends. The first call of fn comes when every kind has been read once, with
// everything, also when there is nothing. Calls never overlap. A cluster that
// cannot be reached is no error: what was told last stays in force.
func (s *Source) Run(ctx context.Context, fn func([]model.Event)) error {
	var reading lifecycle.Group
	defer reading.Wait()
	for _, f := range s.feeds {
		if f.kind.isCustom() {
			continue
		}
		client := f.kind.builtIn(s.client.typed)
		reading.Go(ctx, "kube-"+string(f.kind.kind), func(ctx context.Context) { f.run(ctx, client, f.kind.versions[0], func(error) {}) })
	}
	reading.Go(ctx, "kube-definitions", s.followDefinitions)
	select {
	case <-ctx.Done():
		return nil
	case <-s.synced:
	}
	fn(s.queue.all())
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.queue.wake:
		}
		for events := s.queue.next(); len(events) > 0 && ctx.Err() == nil; events = s.queue.next() {
			fn(events)
		}
	}
}

// checkSynced closes synced once every kind has been read.
func (s *Source) checkSynced() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done {
		return
	}
	for _, f := range s.feeds {
		if synced, _ := f.state(); !synced {
			return
		}
	}
	s.done = true
	close(s.synced)
}

// state is whether the kind was read, and why it could not be.
func (f *feed) state() (synced bool, failed error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.synced, f.failed
}

// Check says which kinds have not been read yet, and why; nil when all have.
func (s *Source) Check() error {
	var missing []string
	for _, f := range s.feeds {
		if synced, failed := f.state(); !synced {
			text := string(f.kind.kind)
			if failed != nil {
				text += " (" + failed.Error() + ")"
			}
			missing = append(missing, text)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	return fmt.Errorf("not read from the API server yet: %s", strings.Join(missing, ", "))
}

// Unreadable is how many kinds could not be read when it was tried last.
func (s *Source) Unreadable() int {
	n := 0
	for _, f := range s.feeds {
		if _, failed := f.state(); failed != nil {
			n++
		}
	}
	return n
}

// KindReport is how it stands with one kind, for people.
type KindReport struct {
	Kind    string    `json:"kind"`
	Objects int       `json:"objects"`
	Version string    `json:"version,omitempty"` // that is read
	Absent  bool      `json:"absent,omitempty"`  // the cluster has no such kind; it is read as soon as it has
	Waiting bool      `json:"waiting,omitempty"` // not read yet
	Error   string    `json:"error,omitempty"`   // of the last try
	Since   time.Time `json:"since,omitzero"`    // when tries began to go wrong
}

// Report is how it stands with all kinds, by name.
func (s *Source) Report() []KindReport {
	var all []KindReport
	for _, f := range s.feeds {
		f.mu.Lock()
		r := KindReport{Kind: string(f.kind.kind), Objects: len(f.told), Version: f.reads, Absent: f.absent, Waiting: !f.synced}
		if f.failed != nil {
			r.Error, r.Since = f.failed.Error(), f.since
		}
		f.mu.Unlock()
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b KindReport) int { return cmp.Compare(a.Kind, b.Kind) })
	return all
}
