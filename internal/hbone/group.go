package hbone

import (
	"sync"
	"time"
)

// A group owns the goroutines of a pool or a server, and the streams that are
// over for the peer but not yet for the application. Its zero value is ready.
type group struct {
	wg sync.WaitGroup // waited for only when closed

	mu     sync.Mutex
	n      int       // goroutines
	none   sync.Cond // of mu; n is 0
	ending bool      // no worker is kept
	closed bool      // run refuses
	idle   []worker  // the one that worked last is the last
	spare  int       // how many of them nobody has needed since the last trim
	trim   *time.Timer
	cut    error
	tails  map[*Stream]struct{}
}

// run starts fn in a goroutine that wait waits for. It reports false when the
// group is over; fn is not run then.
func (g *group) run(fn func()) bool {
	return g.start(func() {
		defer g.ended()
		fn()
	})
}

// start is run for a function that calls ended itself when it is done. It
// allocates nothing.
func (g *group) start(fn func()) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.n++
	g.wg.Add(1)
	go fn()
	return true
}

// ended counts a goroutine that is about to return.
func (g *group) ended() {
	defer g.wg.Done()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.n--; g.n == 0 && g.none.L != nil {
		g.none.Broadcast()
	}
}

// keep remembers a tail until it is dropped. When the tails have been cut it
// returns why.
func (g *group) keep(s *Stream) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cut != nil {
		return g.cut
	}
	if g.tails == nil {
		g.tails = make(map[*Stream]struct{})
	}
	g.tails[s] = struct{}{}
	return nil
}

// drop forgets a tail.
func (g *group) drop(s *Stream) {
	g.mu.Lock()
	delete(g.tails, s)
	g.mu.Unlock()
}

// cutTails ends the tails, and those to come, for cause.
func (g *group) cutTails(cause error) {
	g.mu.Lock()
	if g.cut == nil {
		g.cut = cause
	}
	all := make([]*Stream, 0, len(g.tails))
	for s := range g.tails {
		all = append(all, s)
	}
	g.mu.Unlock()
	for _, s := range all {
		s.lose(cause)
	}
}

// worker is a goroutine of runDeep that waits for the next function. Closing it
// lets it go.
type worker chan func()

const (
	// maxIdle is how many workers wait at most.
	maxIdle = 16
	// trimTime is how long workers that nobody needs are kept.
	trimTime = time.Second
)

// runDeep is run for functions that need much stack and return soon: growing one
// for each of many would cost more than the goroutine.
func (g *group) runDeep(fn func()) bool {
	g.mu.Lock()
	if n := len(g.idle); n > 0 {
		w := g.idle[n-1]
		g.idle = g.idle[:n-1]
		g.spare = min(g.spare, n-1)
		g.mu.Unlock()
		w <- fn
		return true
	}
	g.mu.Unlock()
	return g.run(func() {
		w := make(worker, 1)
		for ok := true; ok; fn, ok = <-w {
			fn()
			fn = nil
			if !g.rest(w) {
				return
			}
		}
	})
}

// rest makes w one of the workers that wait, if there is to be one more.
func (g *group) rest(w worker) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ending || len(g.idle) >= maxIdle {
		return false
	}
	g.idle = append(g.idle, w)
	switch {
	case g.trim == nil:
		g.trim = time.AfterFunc(trimTime, g.trimIdle)
	case len(g.idle) == 1:
		g.trim.Reset(trimTime)
	}
	return true
}

// trimIdle lets those workers go that nobody has needed for trimTime.
func (g *group) trimIdle() {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := min(g.spare, len(g.idle))
	for _, w := range g.idle[:n] {
		close(w)
	}
	g.idle = append(g.idle[:0], g.idle[n:]...)
	g.spare = len(g.idle)
	if len(g.idle) > 0 {
		g.trim.Reset(trimTime)
	}
}

// wait blocks until every goroutine has returned; those still running may start
// others.
func (g *group) wait() {
	g.mu.Lock()
	g.ending = true
	for _, w := range g.idle {
		close(w)
	}
	g.idle = nil
	if g.trim != nil {
		g.trim.Stop()
	}
	if g.none.L == nil {
		g.none.L = &g.mu
	}
	for g.n > 0 {
		g.none.Wait()
	}
	g.closed = true
	g.mu.Unlock()
	g.wg.Wait()
}
