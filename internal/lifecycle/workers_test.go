package lifecycle

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// Every function runs once, also one that another has left to Continue, and Wait
// waits for all.
func TestWorkersRunAll(t *testing.T) {
	w := NewWorkers("test")
	var ran, rest atomic.Int64
	const callers, each = 8, 200
	var all sync.WaitGroup
	for i := range callers {
		start := func(fn func()) { w.Go(t.Context(), fn) }
		if i%2 == 0 {
			start = w.Run
		}
		all.Go(func() {
			for range each {
				start(func() {
					ran.Add(1)
					w.Continue(func() {
						rest.Add(1)
					})
				})
			}
		})
	}
	all.Wait()
	w.Wait()
	if ran.Load() != callers*each || rest.Load() != callers*each {
		t.Errorf("%d functions and %d continuations have run, want %d each", ran.Load(), rest.Load(), callers*each)
	}
}

// A worker is used again, and who waits without being needed goes.
func TestWorkersRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := NewWorkers("test")
		defer w.Wait()
		want := func(n int) {
			t.Helper()
			synctest.Wait()
			w.mu.Lock()
			defer w.mu.Unlock()
			if len(w.idle) != n {
				t.Errorf("%d workers wait, want %d", len(w.idle), n)
			}
		}
		hold := make(chan struct{})
		for range maxIdleWorkers + 3 {
			w.Go(t.Context(), func() { <-hold })
		}
		want(0)
		close(hold)
		want(maxIdleWorkers)
		w.Go(t.Context(), func() {})
		want(maxIdleWorkers) // the same worker is back
		if err := Sleep(t.Context(), 3*workerTrim); err != nil {
			t.Fatal(err)
		}
		want(0)
		w.Go(t.Context(), func() {})
		want(1)
	})
}
