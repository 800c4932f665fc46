package hbone

import (
	"sync"
	"testing"
	"testing/synctest"
)

// Workers are kept while they are needed, and no longer.
func TestWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g group
		idle := func() int {
			synctest.Wait()
			g.mu.Lock()
			defer g.mu.Unlock()
			return len(g.idle)
		}
		release := make(chan struct{})
		var ran sync.WaitGroup
		for range 2 * maxIdle {
			ran.Add(1)
			if !g.runDeep(func() { defer ran.Done(); <-release }) {
				t.Fatal("refused")
			}
		}
		close(release)
		ran.Wait()
		if n := idle(); n != maxIdle {
			t.Errorf("%d workers wait, want %d", n, maxIdle)
		}
		for range 5 { // one is needed, the others are not
			ran.Add(1)
			g.runDeep(ran.Done)
			ran.Wait()
			pass(trimTime / 2)
		}
		if n := idle(); n != 1 {
			t.Errorf("%d workers wait, want the one that works", n)
		}
		pass(3 * trimTime)
		if n := idle(); n != 0 {
			t.Errorf("%d workers wait although nobody needs them", n)
		}
		ran.Add(1)
		g.runDeep(ran.Done)
		ran.Wait()
		g.wait()
		if g.runDeep(func() {}) {
			t.Error("a group that is over runs on")
		}
	})
}
