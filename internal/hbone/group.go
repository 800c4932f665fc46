package hbone

import "sync"

// A group owns the goroutines of a pool or a server, and the streams that are
// over for the peer but not yet for the application. Its zero value is ready.
type group struct {
	wg sync.WaitGroup // waited for only when closed

	mu     sync.Mutex
	n      int       // goroutines
	none   sync.Cond // of mu; n is 0
	closed bool      // run refuses
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

// wait blocks until every goroutine has returned; those still running may start
// others.
func (g *group) wait() {
	g.mu.Lock()
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
