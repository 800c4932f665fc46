package load

import (
	"fmt"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Bounds of the histograms: from 1 us to 100 s, with three digits.
const (
	leastLatency = int64(time.Microsecond)
	mostLatency  = int64(100 * time.Second)
	digits       = 3
)

// newHistogram makes a histogram of nanoseconds.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(leastLatency, mostLatency, digits)
}

// record counts d, and what is beyond the bounds as the bound.
func record(h *hdrhistogram.Histogram, d time.Duration) {
	_ = h.RecordValue(min(max(int64(d), leastLatency), mostLatency)) // the only error is a value beyond the bounds
}

// encode writes h in the form that tools for HdrHistogram read.
func encode(h *hdrhistogram.Histogram) string {
	raw, err := h.EncodeV2()
	if err != nil {
		return "" // it writes to memory
	}
	return string(raw)
}

// Decode reads a histogram of a [Result].
func Decode(encoded string) (*hdrhistogram.Histogram, error) {
	h, err := hdrhistogram.Decode([]byte(encoded))
	if err != nil {
		return nil, fmt.Errorf("histogram: %w", err)
	}
	return h, nil
}

// latencies are one histogram per goroutine that counts, without a lock. What
// began while the load was warming up is left out.
type latencies struct {
	from time.Time
	each []*hdrhistogram.Histogram
}

// countFrom begins to count when the warming up is over.
func (g *generator) countFrom(start time.Time) *latencies {
	return g.countOf(g.order.Connections, start)
}

// countOf is countFrom for n goroutines.
func (g *generator) countOf(n int, start time.Time) *latencies {
	l := &latencies{from: start.Add(g.order.Warm), each: make([]*hdrhistogram.Histogram, n)}
	for i := range l.each {
		l.each[i] = newHistogram()
	}
	return l
}

// add counts an exchange of goroutine i.
func (l *latencies) add(i int, begun, ended time.Time) {
	if !begun.Before(l.from) {
		record(l.each[i], ended.Sub(begun))
	}
}

// encode writes all of them as one. The goroutines have ended.
func (l *latencies) encode() string {
	all := newHistogram()
	for _, h := range l.each {
		all.Merge(h)
	}
	return encode(all)
}
