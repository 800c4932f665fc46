package lifecycle

import (
	"cmp"
	"context"
	"math/rand/v2"
	"time"
)

// Backoff spaces out tries of something that fails. The zero value starts at
// 10 ms and doubles to 15 s. One goroutine uses it.
type Backoff struct {
	// Initial is the wait after the first failure. Zero means 10 ms.
	Initial time.Duration
	// Max is the longest wait. Zero means 15 s.
	Max time.Duration
	// Jitter is how much of each wait is left to chance, from 0 to 1, so that
	// many clients do not come back in step. Zero means 0.2.
	Jitter float64

	next time.Duration
}

// Next returns how long to wait before the next try, and lengthens the one
// after it.
func (b *Backoff) Next() time.Duration {
	initial, limit := cmp.Or(b.Initial, 10*time.Millisecond), cmp.Or(b.Max, 15*time.Second)
	if b.next == 0 {
		b.next = initial
	}
	wait := b.next
	b.next = min(2*b.next, limit)
	spread := cmp.Or(b.Jitter, 0.2) * float64(wait)
	return min(limit, wait+time.Duration(spread*(2*rand.Float64()-1)))
}

// Reset makes the next wait the shortest again, after a success.
func (b *Backoff) Reset() { b.next = 0 }

// Sleep waits d or until ctx ends; then it returns the cause.
func Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
