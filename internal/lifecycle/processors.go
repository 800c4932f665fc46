package lifecycle

import (
	"context"
	"math"
	"runtime"
	"runtime/metrics"
	"time"
)

const (
	// busyLook and calmLook are the times between two looks at how busy the process is:
	// soon enough that a transfer which begins hardly waits for its second processor,
	// and seldom enough that an idle process stays idle.
	busyLook = 20 * time.Millisecond
	calmLook = 100 * time.Millisecond
	// calmShare: who has used less than this part of a processor is calm.
	calmShare = 0.05
	// shortShare and longShare are how busy a processor may be, on average, before one
	// more is used: when work comes in short pieces, and when somebody who has little
	// to do would wait behind long ones. The kernel's work for a packet is not counted
	// as the process' time: at shortShare little of a processor is left.
	shortShare = 0.6
	longShare  = 0.25
	// longPiece is where long begins, in processor time per goroutine that got its turn.
	// Measured: requests 8 us, new connections 13 to 20, bulk 140 and more.
	longPiece = 50 * time.Microsecond
	// turnsPerWait: the runtime notes how long one in so many waited for its turn
	// (gTrackingPeriod in runtime/runtime2.go).
	turnsPerWait = 8
	// fullAfter is how many looks in a row must find short pieces to fill the processors
	// before there are more: what comes in a burst is done in one go.
	fullAfter = 5
	// spareAfter is how many looks in a row must find that fewer would do before there
	// are fewer: load comes in waves, and a change stops the world for a moment.
	spareAfter = 50
)

// PaceProcessors lets the process use only as many processors (GOMAXPROCS) as its
// work needs, at least one and at most most, until ctx ends; then it may use most again.
//
// Much of a proxy's work comes in pieces of microseconds. With a processor to spare the
// runtime wakes a thread for each, which finds nothing more to do and goes to sleep
// again: a third of a small request's cost, and what could be done together is done
// one by one. Measured: perf/README.md, processors.
//
// Nothing else in the process may set GOMAXPROCS meanwhile.
func PaceProcessors(ctx context.Context, most int) {
	p := processors{now: 1, most: max(most, 1)}
	runtime.GOMAXPROCS(p.now)
	if p.most == 1 {
		return
	}
	defer runtime.GOMAXPROCS(p.most)
	turns := newTurns()
	look := busyLook
	used, at := cpuTime(), time.Now()
	for Sleep(ctx, look) == nil {
		u, t := cpuTime(), time.Now()
		w := work{used: u - used, of: t.Sub(at)}
		used, at = u, t
		look = calmLook
		if w.share() >= calmShare {
			look = busyLook
			w.turns = turns.since()
		}
		if p.next(w) {
			runtime.GOMAXPROCS(p.now) // stops the world: only when it changes
		}
	}
}

// work is what a process has done between two looks.
type work struct {
	used, of time.Duration // processor time, and time
	turns    uint64        // how often a goroutine got its turn, about; not known of a calm process
}

// share is how many processors were busy.
func (w work) share() float64 { return float64(w.used) / float64(w.of) }

// long reports whether somebody who has little to do would wait behind long pieces.
func (w work) long() bool { return w.used > time.Duration(w.turns)*longPiece }

// enough is how many processors do w without much waiting.
func (w work) enough() int {
	full := shortShare
	if w.long() {
		full = longShare
	}
	return max(int(math.Ceil(w.share()/full)), 1)
}

// processors is how many are in use.
type processors struct {
	now, most int
	full      int // looks in a row that found short pieces to need more
	spare     int // and that found fewer enough
}

// next decides after w, and reports whether that changes anything.
func (p *processors) next(w work) (changed bool) {
	want := min(w.enough(), p.most)
	switch {
	case want > p.now:
		p.spare = 0
		if p.full++; p.full < fullAfter && !w.long() {
			return false
		}
	case want < p.now:
		p.full = 0
		if p.spare++; p.spare < spareAfter {
			return false
		}
		want = p.now - 1
	}
	changed = want != p.now
	p.now, p.full, p.spare = want, 0, 0
	return changed
}

// turns counts how often a goroutine got its turn.
type turns struct {
	samples []metrics.Sample
	waits   uint64 // noted by the runtime up to the last call
}

// newTurns has counted nothing yet.
func newTurns() *turns {
	return &turns{samples: []metrics.Sample{{Name: "/sched/latencies:seconds"}}}
}

// since estimates how many there were since the last call.
func (t *turns) since() uint64 {
	metrics.Read(t.samples)
	if t.samples[0].Value.Kind() != metrics.KindFloat64Histogram {
		return 0
	}
	var waits uint64
	for _, n := range t.samples[0].Value.Float64Histogram().Counts {
		waits += n
	}
	n := waits - t.waits
	t.waits = waits
	return n * turnsPerWait
}
