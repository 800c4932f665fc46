package footprint

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
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
	// starvedEvery is how many looks at a busy process lie between two at what it gets of
	// the machine.
	starvedEvery = 10
	// starvedTimes: threads that wait for a core so much longer than they run are
	// starved by other programs. One thread gets its share of one core; more get it of
	// several. Measured: 1.1 among programs that load a machine together, 1.6 to 4 on one
	// that many others want.
	starvedTimes = 2.2
	// spareAfter is how many looks in a row must find that fewer would do before there
	// are fewer: load comes in waves, and a change stops the world for a moment.
	spareAfter = 15
)

// PaceProcessors lets the process use only as many processors (GOMAXPROCS) as its
// work needs, at least one and at most most, until ctx ends; then it may use most again.
//
// Much of a proxy's work comes in pieces of microseconds. With a processor to spare the
// runtime wakes a thread for each, which finds nothing more to do and goes to sleep
// again: a third of a small request's cost, and what could be done together is done
// one by one. Measured: perf/README.md, processors.
//
// Where other programs take the cores, it uses all that it may: a thread more is a
// share more.
//
// Nothing else in the process may set GOMAXPROCS meanwhile.
func PaceProcessors(ctx context.Context, most int) {
	p := processors{now: 1, most: max(most, 1)}
	runtime.GOMAXPROCS(p.now)
	if p.most == 1 {
		return
	}
	defer runtime.GOMAXPROCS(p.most)
	turns, crowd := newTurns(), newCrowd()
	look := busyLook
	used, at := cpuTime(), time.Now()
	for lifecycle.Sleep(ctx, look) == nil {
		u, t := cpuTime(), time.Now()
		w := work{used: u - used, of: t.Sub(at), turns: turns.since()}
		used, at = u, t
		look = calmLook
		if w.share() >= calmShare {
			look = busyLook
			w.starved = crowd.starves()
		}
		if p.next(w) {
			runtime.GOMAXPROCS(p.now) // stops the world: only when it changes
		}
	}
}

// work is what a process has done between two looks.
type work struct {
	used, of time.Duration // processor time, and time
	turns    uint64        // how often a goroutine got its turn, about
	starved  bool          // by other programs
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
	if w.starved {
		want = p.most
	}
	switch {
	case want > p.now:
		p.spare = 0
		if p.full++; p.full < fullAfter && !w.long() && !w.starved {
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

// crowd tells whether other programs keep this one waiting.
type crowd struct {
	looks    int
	ran      uint64 // by all threads, up to the last glance, in ns
	waited   uint64 // for a core, the same
	starving bool   // at the last glance
}

// newCrowd has not looked yet.
func newCrowd() *crowd {
	c := &crowd{}
	c.ran, c.waited = threadTimes("/proc/self/task")
	return c
}

// starves answers from the last glance, and takes another from time to time.
func (c *crowd) starves() bool {
	if c.looks++; c.looks%starvedEvery != 0 {
		return c.starving
	}
	ran, waited := threadTimes("/proc/self/task")
	// A thread that has ended takes its times along.
	c.starving = ran > c.ran && waited > c.waited && float64(waited-c.waited) > starvedTimes*float64(ran-c.ran)
	c.ran, c.waited = ran, waited
	return c.starving
}

// threadTimes sums how long the threads listed in dir have run and have waited for a
// core, in ns; zeros where the kernel does not say. Source: proc(5), schedstat in the
// kernel's Documentation/scheduler/sched-stats.rst.
func threadTimes(dir string) (ran, waited uint64) {
	threads, err := os.ReadDir(dir)
	if err != nil {
		return 0, 0
	}
	for _, t := range threads {
		text, err := os.ReadFile(filepath.Join(dir, t.Name(), "schedstat"))
		if err != nil {
			continue // it has ended
		}
		r, w := parseSchedstat(string(text))
		ran, waited = ran+r, waited+w
	}
	return ran, waited
}

// parseSchedstat reads "ran waited slices"; zeros for anything else.
func parseSchedstat(text string) (ran, waited uint64) {
	f := strings.Fields(text)
	if len(f) != 3 {
		return 0, 0
	}
	r, err1 := strconv.ParseUint(f[0], 10, 64)
	w, err2 := strconv.ParseUint(f[1], 10, 64)
	if err1 != nil || err2 != nil {
		return 0, 0
	}
	return r, w
}
