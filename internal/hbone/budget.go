package hbone

import (
	"sync"
	"sync/atomic"
	"time"
)

// defaultBudget is what the pools and servers of a process may hold together
// when nobody said otherwise, in bytes: 16 connections with full windows.
const defaultBudget = 256 << 20

// budgetWait is how long a connection stands still for lack of budget before
// the stream that needs it is reset. Shorter than a PING may take, so that the
// peer does not take the connection for dead.
const budgetWait = 5 * time.Second

// A Budget bounds the bytes that the pools and servers of a process hold for
// applications and peers that do not take them. Where it is used up, buffers
// stay small and connections with a backlog are read no further.
// Many goroutines may use it.
type Budget struct {
	limit   int64
	used    atomic.Int64
	waiting atomic.Int32 // goroutines in wait

	mu    sync.Mutex
	freed chan struct{} // closed at the next release; nil when nobody waits
}

// NewBudget returns a budget of so many bytes. Zero means 256 MiB.
func NewBudget(bytes int64) *Budget {
	if bytes <= 0 {
		bytes = defaultBudget
	}
	return &Budget{limit: bytes}
}

// Used is how many bytes are taken now.
func (b *Budget) Used() int64 { return b.used.Load() }

// try takes n bytes if they are there.
func (b *Budget) try(n int) bool {
	for {
		used := b.used.Load()
		if used+int64(n) > b.limit {
			return false
		}
		if b.used.CompareAndSwap(used, used+int64(n)) {
			return true
		}
	}
}

// force takes n bytes whether they are there or not: for the small buffers
// without which nothing moves.
func (b *Budget) force(n int) { b.used.Add(int64(n)) }

// wait takes n bytes, if need be after waiting for others to release theirs,
// but not beyond stop or budgetWait.
func (b *Budget) wait(n int, stop <-chan struct{}) bool {
	if b.try(n) {
		return true
	}
	b.waiting.Add(1)
	defer b.waiting.Add(-1)
	timer := time.NewTimer(budgetWait)
	defer timer.Stop()
	for {
		b.mu.Lock()
		if b.freed == nil {
			b.freed = make(chan struct{})
		}
		freed := b.freed
		b.mu.Unlock()
		if b.try(n) {
			return true
		}
		select {
		case <-freed:
		case <-stop:
			return false
		case <-timer.C:
			return false
		}
	}
}

// release gives n bytes back and wakes who waits for them.
func (b *Budget) release(n int) {
	b.used.Add(-int64(n))
	if b.waiting.Load() == 0 {
		return
	}
	b.mu.Lock()
	if b.freed != nil {
		close(b.freed)
		b.freed = nil
	}
	b.mu.Unlock()
}
