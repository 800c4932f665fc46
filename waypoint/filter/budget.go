package filter

import (
	"sync"
	"time"
)

// BudgetConfig says how many requests may be retries. It is comparable.
type BudgetConfig struct {
	// Percent of the requests of an interval may be retries.
	Percent  int
	Interval time.Duration
	// MinCount retries in so long are allowed in any case.
	MinCount    int
	MinInterval time.Duration
}

// Budget bounds retries to a share of requests, so that they do not make a bad time
// worse. Any goroutine may use it. Source: Gateway API, GEP-3388.
type Budget struct {
	cfg BudgetConfig

	mu    sync.Mutex
	share window
	floor window
}

// NewBudget has seen no requests.
func NewBudget(cfg BudgetConfig) *Budget {
	return &Budget{cfg: cfg, share: windowOf(cfg.Interval), floor: windowOf(cfg.MinInterval)}
}

// Config is what the budget was made with.
func (b *Budget) Config() BudgetConfig { return b.cfg }

// Request counts one.
func (b *Budget) Request(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.share.at(now).requests++
}

// Retry counts one if it is within the budget.
func (b *Budget) Retry(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	requests, retries := b.share.sum(now)
	_, lately := b.floor.sum(now)
	if retries*100 >= requests*b.cfg.Percent && lately >= b.cfg.MinCount {
		return false
	}
	b.share.at(now).retries++
	b.floor.at(now).retries++
	return true
}

// windowSlots is into how many parts an interval is divided: what is older than it is
// forgotten with that precision. Our choice.
const windowSlots = 10

// window counts over an interval that ends now.
type window struct {
	slot  time.Duration
	slots [windowSlots]counts
}

// counts are those of one slot of time.
type counts struct {
	slot              int64 // since 1970
	requests, retries int
}

// windowOf is the window of an interval.
func windowOf(interval time.Duration) window {
	return window{slot: max(interval/windowSlots, time.Millisecond)}
}

// at is the counts of now.
func (w *window) at(now time.Time) *counts {
	n := now.UnixNano() / int64(w.slot)
	c := &w.slots[n%windowSlots]
	if c.slot != n {
		*c = counts{slot: n}
	}
	return c
}

// sum adds up the interval that ends now.
func (w *window) sum(now time.Time) (requests, retries int) {
	last := now.UnixNano() / int64(w.slot)
	for _, c := range w.slots {
		if last-c.slot < windowSlots {
			requests += c.requests
			retries += c.retries
		}
	}
	return requests, retries
}
