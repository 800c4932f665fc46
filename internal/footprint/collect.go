package footprint

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"time"
)

const (
	// collectAt is how many bytes a small heap may grow to before it is collected.
	// The runtime would do so at 4 MiB, several times a second in a proxy that takes
	// thousands of connections. Measured: perf/README.md, new connections.
	collectAt = 16 << 20
	// growthLeast and growthMost bound what the heap may grow by between two
	// collections, in percent of what lives: the runtime's own value for a heap that
	// is not small, and what makes the runtime wait until collectAt (it starts at
	// 4 MiB times the percentage).
	growthLeast, growthMost = 100, 400
	// steadyAfter is how many collections, each within steadyTime of the one before,
	// have found no more alive than that one: then what is collected is what comes and
	// goes. While what lives grows, the heap is collected as ever, so that it lies
	// densely: a thousand idle connections would otherwise lie among as much garbage.
	// Both are our choice.
	steadyAfter = 3
	steadyTime  = time.Second
)

// PaceCollector lets a small heap be collected more rarely while what lives does not
// grow: not before it has grown to 16 MiB. A larger one is collected as ever, when it has doubled, and a
// memory limit counts as ever. It does nothing when GOGC is set in environ. Call
// it once.
func PaceCollector(environ []string) {
	for _, kv := range environ {
		if v, ok := strings.CutPrefix(kv, "GOGC="); ok && v != "" {
			return // somebody has decided
		}
	}
	p := newPacer()
	p.adjust()
	afterEachCollection(p.adjust)
}

// pacer is what the heap may grow by now. One goroutine uses it: first the one that
// makes it, then that of finalizers.
type pacer struct {
	percent int
	samples []metrics.Sample
	live    uint64    // after the last collection
	at      time.Time // of the last collection
	steady  int       // collections that found nothing grown
}

// newPacer has decided nothing yet.
func newPacer() *pacer {
	return &pacer{samples: []metrics.Sample{{Name: "/gc/heap/live:bytes"}}}
}

// adjust looks at what lives and says how far the heap may grow.
func (p *pacer) adjust() {
	metrics.Read(p.samples)
	if p.samples[0].Value.Kind() != metrics.KindUint64 {
		return
	}
	if want := p.next(p.samples[0].Value.Uint64(), time.Now()); p.percent != want {
		p.percent = want
		debug.SetGCPercent(want) // stops the world: only when it changes
	}
}

// next is what the heap may grow by, in percent, when a collection at now has found
// live bytes.
func (p *pacer) next(live uint64, now time.Time) int {
	if grown := live > p.live+p.live/16; grown || now.Sub(p.at) > steadyTime {
		p.steady = 0
	} else {
		p.steady++
	}
	p.live, p.at = live, now
	if p.steady < steadyAfter {
		return growthLeast
	}
	return growthFor(live)
}

// growthFor is what a heap of live bytes may grow by, in percent, in few steps so
// that it seldom changes.
func growthFor(live uint64) int {
	growth := growthMost
	for growth > growthLeast && live+live/100*uint64(growth) > collectAt {
		growth /= 2
	}
	return growth
}

// afterEachCollection calls fn after each collection, one call at a time: the
// finalizer of something that nobody holds runs then, and makes the next one.
func afterEachCollection(fn func()) {
	type tick struct{ _ [16]byte } // large enough to be an object of its own
	var again func(*tick)
	again = func(*tick) {
		fn()
		runtime.SetFinalizer(new(tick), again)
	}
	runtime.SetFinalizer(new(tick), again)
}
