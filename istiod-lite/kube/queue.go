package kube

import (
	"sync"

	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// maxBatch is how many events that are not urgent are told together: while they
// are taken in, one that is urgent has to wait. Our choice: some milliseconds.
const maxBatch = 256

// queue holds what was read and not told yet: the newest state of each object, so
// that it is bounded by their number. What is urgent goes first, and each lane is
// in the order in which objects entered it.
type queue struct {
	wake chan struct{} // there is something

	// mu guards the fields below.
	mu     sync.Mutex
	latest map[model.Key]entry
	urgent []model.Key
	others []model.Key
}

// entry is what is to be told of one object.
type entry struct {
	object model.Object // nil: gone
	urgent bool         // it stands in the urgent lane
}

// newQueue is empty.
func newQueue() *queue {
	return &queue{wake: make(chan struct{}, 1), latest: map[model.Key]entry{}}
}

// put notes the state of an object.
func (q *queue) put(key model.Key, object model.Object, urgent bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	old, waits := q.latest[key]
	q.latest[key] = entry{object, urgent || waits && old.urgent}
	switch {
	case urgent && !(waits && old.urgent):
		q.urgent = append(q.urgent, key) // where it stood among the others is passed over
	case !waits:
		q.others = append(q.others, key)
	}
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// all takes everything.
func (q *queue) all() []model.Event {
	q.mu.Lock()
	defer q.mu.Unlock()
	events := make([]model.Event, 0, len(q.latest))
	for key, e := range q.latest {
		events = append(events, model.Event{Key: key, Object: e.object})
	}
	q.latest, q.urgent, q.others = map[model.Key]entry{}, nil, nil
	return events
}

// next takes what is urgent, else some of the others; nothing when nothing waits.
func (q *queue) next() []model.Event {
	q.mu.Lock()
	defer q.mu.Unlock()
	var events []model.Event
	if len(q.urgent) > 0 {
		for _, key := range q.urgent {
			events = q.takeLocked(events, key, true)
		}
		q.urgent = nil
		return events
	}
	n := 0
	for ; n < len(q.others) && len(events) < maxBatch; n++ {
		events = q.takeLocked(events, q.others[n], false)
	}
	if q.others = q.others[n:]; len(q.others) == 0 {
		q.others = nil
	}
	return events
}

// takeLocked appends what waits under a key, if it stands in that lane. The
// caller holds q.mu.
func (q *queue) takeLocked(events []model.Event, key model.Key, urgent bool) []model.Event {
	e, waits := q.latest[key]
	if !waits || e.urgent != urgent {
		return events
	}
	delete(q.latest, key)
	return append(events, model.Event{Key: key, Object: e.object})
}
