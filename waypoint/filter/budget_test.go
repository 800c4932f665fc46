package filter

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestRetryBudget(t *testing.T) {
	start := time.Unix(1000, 0)
	for _, tt := range []struct {
		name     string
		cfg      BudgetConfig
		requests int
		want     int // retries at once
		after    time.Duration
		then     int // retries after that
	}{
		{"a share of the requests", BudgetConfig{20, 10 * time.Second, 1, time.Second}, 100, 20, 5 * time.Second, 1},
		{"the least in any case", BudgetConfig{20, 10 * time.Second, 10, time.Second}, 10, 10, time.Second, 10},
		{"nothing", BudgetConfig{0, 10 * time.Second, 0, time.Second}, 100, 0, time.Minute, 0},
		{"everything", BudgetConfig{100, 10 * time.Second, 0, time.Second}, 100, 100, time.Second, 0},
		{"over an hour", BudgetConfig{10, time.Hour, 0, time.Second}, 1000, 100, 50 * time.Minute, 0},
		{"requests that are long ago", BudgetConfig{50, time.Second, 2, time.Minute}, 100, 50, 2 * time.Minute, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := NewBudget(tt.cfg)
			for range tt.requests {
				b.Request(start)
			}
			spend := func(now time.Time) (n int) {
				for n < 10000 && b.Retry(now) {
					n++
				}
				return n
			}
			if n := spend(start); n != tt.want {
				t.Errorf("%d retries at once, want %d", n, tt.want)
			}
			if n := spend(start.Add(tt.after)); n != tt.then {
				t.Errorf("%d retries after %v, want %d", n, tt.after, tt.then)
			}
		})
	}
}

// The oracle keeps every request and every retry with its time, to the slot.
func TestRetryBudgetCountsAsTheOracle(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 5))
	for range 50 {
		cfg := BudgetConfig{rng.IntN(101), time.Duration(1+rng.IntN(20)) * time.Second, rng.IntN(4), time.Duration(1+rng.IntN(3)) * time.Second}
		b := NewBudget(cfg)
		var requests, retries []time.Time
		within := func(all []time.Time, now time.Time, interval time.Duration) (n int) {
			slot := interval / windowSlots
			for _, at := range all {
				if now.UnixNano()/int64(slot)-at.UnixNano()/int64(slot) < windowSlots {
					n++
				}
			}
			return n
		}
		now := time.Unix(5000, 0)
		for range 2000 {
			now = now.Add(time.Duration(rng.IntN(40)) * time.Millisecond)
			if rng.IntN(3) > 0 {
				b.Request(now)
				requests = append(requests, now)
				continue
			}
			want := within(retries, now, cfg.Interval)*100 < within(requests, now, cfg.Interval)*cfg.Percent || within(retries, now, cfg.MinInterval) < cfg.MinCount
			if got := b.Retry(now); got != want {
				t.Fatalf("%+v: a retry at %v is allowed: %v, want %v", cfg, now, got, want)
			}
			if want {
				retries = append(retries, now)
			}
		}
	}
}
