package filter

import (
	"fmt"
	"sync"
	"time"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
)

// maxCallers is how many callers a limit tells apart: our choice. The one that
// asked longest ago is forgotten first; its bucket is full by then or it asked
// for more than all others.
const maxCallers = 10000

// limit lets so many requests pass in a time.
type limit struct {
	burst     float64
	perSecond float64
	each      bool // each caller has its own

	mu      sync.Mutex
	buckets map[string]*bucket
	sweep   time.Time // of the last look for full buckets
}

// bucket is what one caller has left.
type bucket struct {
	tokens float64
	last   time.Time
}

// compileLimit prepares it.
func compileLimit(r *waypointapi.RateLimit) (step, error) {
	per := r.GetPer().AsDuration()
	if per <= 0 {
		return nil, fmt.Errorf("rate limit without a time")
	}
	return &limit{
		burst: float64(r.GetRequests()), perSecond: float64(r.GetRequests()) / per.Seconds(), each: r.GetPerIdentity(),
		buckets: map[string]*bucket{},
	}, nil
}

func (l *limit) apply(p *Pass) *Answer {
	key := ""
	if l.each {
		key = p.Caller
	}
	if l.take(key, p.Now) {
		return nil
	}
	return &Answer{Status: 429, Body: "local_rate_limited", Flag: "RL", Details: "local_rate_limited"}
}

// take spends one request of a caller.
func (l *limit) take(key string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.buckets[key]
	if b == nil {
		l.makeRoom(now)
		b = &bucket{tokens: l.burst, last: now}
		l.buckets[key] = b
	}
	if d := now.Sub(b.last); d > 0 {
		b.tokens = min(l.burst, b.tokens+d.Seconds()*l.perSecond)
		b.last = now
	}
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// makeRoom forgets callers whose buckets are full again, at most once a second,
// and any when that does not help. The caller holds mu.
func (l *limit) makeRoom(now time.Time) {
	if len(l.buckets) < maxCallers {
		return
	}
	if now.Sub(l.sweep) >= time.Second {
		l.sweep = now
		for key, b := range l.buckets {
			if b.tokens+now.Sub(b.last).Seconds()*l.perSecond >= l.burst {
				delete(l.buckets, key)
			}
		}
	}
	for key := range l.buckets {
		if len(l.buckets) < maxCallers {
			return
		}
		delete(l.buckets, key)
	}
}
