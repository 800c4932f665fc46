package hbone

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// openTries is how many connections to the same peer a CONNECT is tried on
// when peers go away under it.
const openTries = 3

// PoolConfig tunes a [Pool]. The zero PoolConfig is ready for use.
type PoolConfig struct {
	Tuning
	// StreamsPerConn is how many streams one connection carries, at most what
	// the peer allows. Zero means 100.
	StreamsPerConn int
	// BulkConns is how many connections one key may have because others are
	// busy with bulk. Zero means 3.
	BulkConns int
	// IdleTimeout is how long a connection without streams is kept. Zero means
	// 300 s.
	IdleTimeout time.Duration
	// DialTimeout bounds a new connection: TCP, TLS and SETTINGS. Zero means
	// 10 s.
	DialTimeout time.Duration
	// OpenTimeout bounds the wait for the answer to a CONNECT. Zero means 20 s.
	OpenTimeout time.Duration
	// GoAwayTimeout bounds the same wait once the peer has said GOAWAY, because
	// a CONNECT that crosses it may stay without an answer. Zero means 2 s.
	GoAwayTimeout time.Duration
	// ProveAfter is how long streams may begin on connections that stand before
	// it is asked anew whether the peer can be reached. Zero means 30 s; negative
	// never.
	ProveAfter time.Duration
	// Budget is shared by the pools and servers of a process. Nil means one of
	// its own.
	Budget *Budget
}

// withDefaults returns the configuration in force.
func (c PoolConfig) withDefaults() PoolConfig {
	c.Tuning = c.Tuning.withDefaults()
	c.StreamsPerConn = cmp.Or(c.StreamsPerConn, streamsPerConn)
	c.BulkConns = cmp.Or(c.BulkConns, bulkConns)
	c.IdleTimeout = cmp.Or(c.IdleTimeout, 300*time.Second)
	c.DialTimeout = cmp.Or(c.DialTimeout, 10*time.Second)
	c.OpenTimeout = cmp.Or(c.OpenTimeout, 20*time.Second)
	c.GoAwayTimeout = cmp.Or(c.GoAwayTimeout, 2*time.Second)
	c.ProveAfter = cmp.Or(c.ProveAfter, 30*time.Second)
	if c.Budget == nil {
		c.Budget = NewBudget(0)
	}
	return c
}

// A Pool opens streams to peers and shares connections among them. Many
// goroutines may use it.
type Pool struct {
	cfg    PoolConfig
	trace  *Trace
	group  group
	timers sync.Pool // of Open

	mu     sync.Mutex
	closed bool
	peers  map[Key]*peer
	conns  map[*conn]Key      // all that were made for streams and are not gone
	alive  map[*conn]struct{} // all that are not gone
}

// peer is what a pool has for one key. Guarded by Pool.mu.
type peer struct {
	conns []*conn // that take new streams
	dial  *dialing

	proved time.Time               // when a connection came about last
	proof  context.CancelCauseFunc // ends the attempt that is under way; nil when none is
}

// dialing is a connection in the making: one per key at a time.
type dialing struct {
	cancel context.CancelCauseFunc
	stale  bool          // the certificate has changed meanwhile
	done   chan struct{} // closed at the end
	err    error         // set before
	dud    error         // set before: why the connection takes no streams; nil: it does
}

// NewPool returns an empty pool.
func NewPool(cfg PoolConfig, trace *Trace) *Pool {
	return &Pool{
		cfg: cfg.withDefaults(), trace: trace,
		peers: make(map[Key]*peer), conns: make(map[*conn]Key), alive: make(map[*conn]struct{}),
	}
}

// Open asks the peer at t for a stream to r.Authority and waits until the peer
// has accepted or refused it. ctx bounds the wait only; the stream outlives it.
//
// A CONNECT that meets a GOAWAY, REFUSED_STREAM or the end of its connection is
// tried again on a fresh connection to the same peer. Errors: [ErrDraining]
// after Close; [*RefusedError]; [*DialError]; [ErrOpenTimeout]; the cause of
// ctx. See [Retryable] for which of them another endpoint may be tried.
func (p *Pool) Open(ctx context.Context, t Target, r Request) (*Stream, error) {
	if r.Authority.IsZero() {
		return nil, errors.New("a CONNECT needs an authority")
	}
	if err := checkHeader(r.Header); err != nil {
		return nil, err
	}
	times := openTimes{open: p.cfg.OpenTimeout, goAway: p.cfg.GoAwayTimeout, timers: &p.timers}
	for try := 1; ; {
		c, err := p.checkout(ctx, t, true)
		if err != nil {
			return nil, err
		}
		s, err := c.open(ctx, r, times)
		switch {
		case err == nil:
			return s, nil
		case err == errConnFull: // it went away between checkout and open
			continue
		case try >= openTries || ctx.Err() != nil || !tryHere(c, err):
			return nil, err
		}
		try++
	}
}

// tryHere reports whether a CONNECT that failed with err on c may be tried on
// another connection to the same peer.
func tryHere(c *conn, err error) bool {
	var reset *ResetError
	switch {
	case errors.As(err, &reset):
		if reset.Local || reset.Code != http2.ErrCodeRefusedStream {
			return false
		}
		c.shrink()
		return true
	case errors.Is(err, ErrOpenTimeout):
		return !c.usable() // it crossed a GOAWAY
	case errors.Is(err, ErrDraining):
		return false
	}
	var goAway *GoAwayError
	return errors.As(err, &goAway) || errors.Is(err, ErrConnLost)
}

// Ensure sees to it that a connection to the peer exists and answers PING.
// alive is closed when that connection is gone. Until ctx ends, the connection
// is not given up for being idle.
func (p *Pool) Ensure(ctx context.Context, t Target) (alive <-chan struct{}, err error) {
	c, err := p.checkout(ctx, t, false)
	if err != nil {
		return nil, err
	}
	if err := c.ping(ctx); err != nil {
		return nil, err
	}
	c.hold(ctx)
	return c.done, nil
}

// checkout returns a connection to the peer: with a slot for a stream if slot
// is set, otherwise any.
func (p *Pool) checkout(ctx context.Context, t Target, slot bool) (*conn, error) {
	extra := slot // more connections for bulk are welcome
	for duds := 0; ; {
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			return nil, ErrDraining
		}
		pr := p.peer(t.Key)
		c, busy := pr.pick(p.cfg.StreamsPerConn, slot)
		if c != nil && (!busy || !extra || len(pr.conns) >= p.cfg.BulkConns) {
			p.proveLocked(ctx, t, pr)
			p.mu.Unlock()
			return c, nil
		}
		if pr.dial == nil {
			p.startDial(ctx, t, pr)
		}
		d := pr.dial
		p.mu.Unlock()
		if c != nil {
			c.giveUp()
		}
		select {
		case <-d.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if d.err != nil {
			if c == nil || !c.usable() {
				return nil, d.err
			}
			extra = false // then with what there is
		}
		if d.dud == nil {
			continue
		}
		if duds++; duds == openTries { // one that drains may hand over to another
			return nil, &DialError{StageH2, d.dud}
		}
	}
}

// peer returns the entry of key. The caller holds p.mu.
func (p *Pool) peer(key Key) *peer {
	pr := p.peers[key]
	if pr == nil {
		pr = &peer{}
		p.peers[key] = pr
	}
	return pr
}

// pick chooses a connection, at best one that is not busy with bulk, and takes
// a slot on it if slot is set. The caller holds Pool.mu.
func (pr *peer) pick(most int, slot bool) (c *conn, busy bool) {
	pr.conns = slices.DeleteFunc(pr.conns, func(c *conn) bool { return !c.usable() })
	for _, busy := range []bool{false, true} {
		for _, c := range pr.conns {
			if c.isBulk() == busy && (!slot || c.acquire(most)) {
				return c, busy
			}
		}
	}
	return nil, false
}

// startDial begins to make a connection. It outlives the ctx of the one who
// asked, since others wait for it too. The caller holds p.mu.
func (p *Pool) startDial(ctx context.Context, t Target, pr *peer) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	d := &dialing{cancel: cancel, done: make(chan struct{})}
	pr.dial = d
	started := p.group.run(func() {
		c, err := p.dial(ctx, t)
		p.dialed(t.Key, d, c, err)
	})
	if !started {
		d.err, pr.dial = ErrDraining, nil
		close(d.done)
	}
}

// dialed publishes the outcome of a dial.
func (p *Pool) dialed(key Key, d *dialing, c *conn, err error) {
	p.mu.Lock()
	pr := p.peer(key)
	pr.dial = nil
	if d.err = err; p.closed {
		d.err = ErrDraining
	}
	unwanted := c != nil && (d.stale || p.closed)
	switch {
	case c == nil || unwanted:
	case c.usable(): // otherwise connGone may have been here
		pr.conns, pr.proved = append(pr.conns, c), time.Now()
		p.conns[c] = key
	default:
		d.dud = c.whyUnusable()
	}
	p.forget(key)
	p.mu.Unlock()
	close(d.done)
	if unwanted {
		c.fail(ErrDraining)
	}
}

// connGone removes a connection.
func (p *Pool) connGone(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.alive, c)
	key, ok := p.conns[c]
	if !ok {
		return
	}
	delete(p.conns, c)
	if pr := p.peers[key]; pr != nil {
		pr.conns = slices.DeleteFunc(pr.conns, func(other *conn) bool { return other == c })
		p.forget(key)
	}
}

// forget removes the entry of a key that has nothing. The caller holds p.mu.
func (p *Pool) forget(key Key) {
	if pr := p.peers[key]; pr != nil && len(pr.conns) == 0 && pr.dial == nil && pr.proof == nil {
		delete(p.peers, key)
	}
}

// Retire lets no new stream begin on the connections whose key matches, because
// the certificate they were made with is no longer the one to use. Streams
// that are open live on.
func (p *Pool) Retire(match func(Key) bool) {
	p.mu.Lock()
	for key, pr := range p.peers {
		if match(key) {
			pr.conns = nil
			if pr.dial != nil {
				pr.dial.stale = true
			}
			p.forget(key)
		}
	}
	var old []*conn
	for c, key := range p.conns {
		if match(key) {
			old = append(old, c)
		}
	}
	p.mu.Unlock()
	for _, c := range old {
		c.retire()
	}
}

// Close cuts all connections and streams and waits until nothing is left.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	for _, pr := range p.peers {
		if pr.dial != nil {
			pr.dial.cancel(ErrDraining)
		}
		if pr.proof != nil {
			pr.proof(ErrDraining)
		}
	}
	all := slices.Collect(maps.Keys(p.alive))
	p.mu.Unlock()
	for _, c := range all {
		c.fail(ErrDraining)
	}
	p.group.cutTails(ErrDraining)
	p.group.wait()
}

// String says how many connections there are, for logs and tests.
func (p *Pool) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return fmt.Sprintf("hbone pool of %d connections to %d peers", len(p.conns), len(p.peers))
}
