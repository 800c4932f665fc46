package ztunnel

import (
	"sync"
	"time"
)

// every lets one of many events through per interval. Any goroutine may use it.
type every struct {
	interval time.Duration

	mu   sync.Mutex
	next time.Time
}

func newEvery(interval time.Duration) *every { return &every{interval: interval} }

// due reports whether interval has passed since it last said yes.
func (e *every) due() bool {
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	if now.Before(e.next) {
		return false
	}
	e.next = now.Add(e.interval)
	return true
}
