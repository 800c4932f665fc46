package lifecycle

import (
	"context"
	"sync"
	"time"
)

const (
	// maxIdleWorkers is how many workers wait at most for the next function.
	maxIdleWorkers = 16
	// workerTrim is how long workers that nobody needs are kept.
	workerTrim = time.Second
)

// Workers runs functions that need much stack and return soon, on goroutines that
// have grown their stacks before: growing one for each function would cost more
// than the goroutine. What waits for long belongs elsewhere, see
// [Workers.Continue]. NewWorkers makes one; whoever does calls Wait before
// returning. Go and Run may be called from many goroutines, but not after Wait.
type Workers struct {
	name string // set by NewWorkers, then only read
	all  Group

	mu    sync.Mutex
	ended bool          // nobody waits for a further function
	idle  []chan func() // the one that worked last is the last
	spare int           // how many of them nobody has needed since the last trim
	trim  *time.Timer   // nil before the first worker has waited
}

// NewWorkers makes workers that profiles show as task=name. It starts nothing.
func NewWorkers(name string) *Workers {
	return &Workers{name: name}
}

// Go runs fn on a goroutine that Wait waits for. ctx gives a new worker its labels
// and bounds nothing.
func (w *Workers) Go(ctx context.Context, fn func()) {
	if !w.handOver(fn) {
		w.all.Go(ctx, w.name, func(context.Context) { w.work(fn) })
	}
}

// Run is Go for who has no context: a new worker has the labels of its caller.
func (w *Workers) Run(fn func()) {
	if !w.handOver(fn) {
		w.all.Continue(func() { w.work(fn) })
	}
}

// handOver gives fn to a worker that waits; false when none does.
func (w *Workers) handOver(fn func()) bool {
	w.mu.Lock()
	n := len(w.idle)
	if n == 0 {
		w.mu.Unlock()
		return false
	}
	next := w.idle[n-1]
	w.idle = w.idle[:n-1]
	w.spare = min(w.spare, n-1)
	w.mu.Unlock()
	next <- fn
	return true
}

// Continue runs fn on a goroutine of its own that Wait waits for, for a function
// of Go that is about to return: fn waits long, and its stack is a fresh one. It
// has the labels of its caller.
func (w *Workers) Continue(fn func()) { w.all.Continue(fn) }

// work runs fn, and then what Go hands over.
func (w *Workers) work(fn func()) {
	next := make(chan func(), 1)
	for ok := true; ok; fn, ok = <-next {
		fn()
		fn = nil // it must not live on while the worker waits
		if !w.rest(next) {
			return
		}
	}
}

// rest makes a worker one of those that wait, if there is to be one more.
func (w *Workers) rest(next chan func()) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended || len(w.idle) >= maxIdleWorkers {
		return false
	}
	w.idle = append(w.idle, next)
	switch {
	case w.trim == nil:
		w.trim = time.AfterFunc(workerTrim, w.trimIdle)
	case len(w.idle) == 1:
		w.trim.Reset(workerTrim)
	}
	return true
}

// trimIdle lets those workers go that nobody has needed for workerTrim.
func (w *Workers) trimIdle() {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := min(w.spare, len(w.idle))
	w.dismissLocked(n)
	w.spare = len(w.idle)
	if len(w.idle) > 0 {
		w.trim.Reset(workerTrim)
	}
}

// dismissLocked lets the n workers go that have waited for longest. The caller
// holds w.mu.
func (w *Workers) dismissLocked(n int) {
	for _, next := range w.idle[:n] {
		close(next)
	}
	w.idle = append(w.idle[:0], w.idle[n:]...)
}

// Wait blocks until every function has returned and no worker is left.
func (w *Workers) Wait() {
	w.mu.Lock()
	w.ended = true
	w.dismissLocked(len(w.idle))
	if w.trim != nil {
		w.trim.Stop()
	}
	w.mu.Unlock()
	w.all.Wait()
}
