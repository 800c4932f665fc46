package hbone

import (
	"context"
	"crypto/tls"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	"github.com/ambit-mesh/ambit/internal/hbone/tls13"
)

// lingerTime is how long we wait for a peer that we send away to read why.
const lingerTime = time.Second

// lingerBytes is how much of what it still sends we throw away meanwhile.
const lingerBytes = 256 << 10

// connConfig is what a pool or a server gives its connections.
type connConfig struct {
	Tuning
	server      bool
	headerBytes int
	streams     int // server: how many the peer may open
	idleTimeout time.Duration
	budget      *Budget
	trace       *Trace
	group       *group
	handle      func(ctx context.Context, in *Incoming) // server
	peer        any                                     // server: what Authenticate said
	begun       func()                                  // server: the peer's SETTINGS have come
	punish      func()                                  // server: the peer was sent away
	keys        *tls13.KeyLog                           // of the handshake; nil: crypto/tls keeps them
	onGone      func(*conn)
}

// conn is one HTTP/2 connection. Lock order: Pool.mu, Stream.mu, conn.mu.
type conn struct {
	// Set by newConn, then only read.
	cfg  connConfig
	rec  *recordConn
	tls  layer
	info ConnInfo
	born time.Time
	done chan struct{} // closed when the connection is gone
	up   chan struct{} // closed when the peer's SETTINGS have come
	away chan struct{} // closed when the peer has said GOAWAY

	failed chan struct{} // closed by fail

	drainFn func() // drainQueue without an end; made once

	// lastWords guards what is said after seize: rec and tls are those of one
	// goroutine until then.
	lastWords sync.Mutex
	silent    bool // nothing can be said any more

	// Owned by the reader.
	in parser

	// mu guards all below except the atomics. No system call under it.
	mu      sync.Mutex
	streams map[uint32]*Stream
	err     error // why the connection ended; set once
	gone    bool  // streams have been told
	life    lifeState
	send    sendState
	recv    recvState

	// Any goroutine.
	bytesSent atomic.Uint64
	bulkUntil atomic.Int64 // busy with bulk until so long after born, in ns
}

// lifeState is how far a connection is in its life. Guarded by conn.mu.
type lifeState struct {
	goAway     *GoAwayError // the peer's
	leaving    bool         // the last GOAWAY is out and the connection about to end
	why        error        // it leaves; nil while it does not
	failed     bool         // conn.failed is closed
	retired    bool         // no new streams
	draining   bool         // server: GOAWAY is out
	lastLocal  uint32
	lastPeer   uint32 // highest stream the peer has opened
	acceptUpTo uint32 // server: streams beyond are refused
	slots      int    // client: streams open or about to be
	handlers   int    // server: running
	holds      int    // Ensure
	idleSince  time.Time
	timer      *time.Timer
	heard      time.Time // when the peer last answered
	pingSent   time.Time // zero: none is under way
	pingID     uint64
	pings      map[uint64]chan struct{}
}

// recvState is the connection's receive window. Guarded by conn.mu.
type recvState struct {
	window  int
	unacked int // taken by applications, not yet credited
	small   int // of a stream in company; set once
	company company
}

// newConn makes a connection of a TLS connection whose handshake is done.
func newConn(cfg connConfig, rec *recordConn, tc *tls.Conn, info ConnInfo) *conn {
	c := &conn{
		cfg: cfg, rec: rec, info: info, born: time.Now(),
		done: make(chan struct{}), up: make(chan struct{}), away: make(chan struct{}), failed: make(chan struct{}),
		streams: make(map[uint32]*Stream),
	}
	c.tls = newLayer(rec, tc, cfg.keys, info.TLS, !cfg.server)
	c.cfg.keys = nil
	c.drainFn = func() { c.drainQueue(false) }
	c.in.init(c)
	c.recv.window = cfg.ConnWindow
	c.recv.small = windowInCompany(cfg.StreamWindow, cfg.roundTrip(rec.Conn))
	c.life.acceptUpTo = 1<<31 - 1
	c.life.idleSince = c.born
	c.send.init()
	if !cfg.server {
		c.life.lastLocal = ^uint32(0) // so that the first is 1
	}
	return c
}

// discard closes a connection that will not run.
func (c *conn) discard() {
	c.rec.Conn.Close()
	c.rec.drop()
	c.tls.wipe()
}

// run serves the connection until it ends, and returns when it is gone. The
// goroutines of its streams belong to the group.
func (c *conn) run(ctx context.Context) {
	c.start()
	stop := context.AfterFunc(ctx, func() { c.fail(context.Cause(ctx)) })
	err := c.read(ctx)
	stop()
	c.end(err)
}

// start sends what comes first and starts the keepalive.
func (c *conn) start() {
	c.mu.Lock()
	c.enqueueHello()
	c.life.timer = time.AfterFunc(c.cfg.PingInterval, c.tick)
	c.mu.Unlock()
	c.push()
}

// fail ends the connection for err. The first error counts.
func (c *conn) fail(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	if !c.life.failed {
		c.life.failed = true
		close(c.failed)
	}
	c.mu.Unlock()
	c.rec.Conn.Close()
}

// end tears the connection down after the reader has stopped for err.
func (c *conn) end(err error) {
	var ce *ConnError
	c.mu.Lock()
	switch ga := c.life.goAway; {
	case c.err != nil:
	case ga != nil && ga.Code != http2.ErrCodeNo:
		c.err = ga // says more than the end of the connection
	case c.life.why != nil && !errors.As(err, &ce):
		c.err = c.life.why // the peer has ended it because we leave
	default:
		c.err = err
	}
	err = c.err
	c.life.timer.Stop()
	c.mu.Unlock()
	c.in.drop()

	if errors.As(err, &ce) {
		c.cfg.trace.limitHit(ce.Limit)
	}
	c.loseStreams(&lostError{err})
	if ce != nil {
		if c.cfg.server {
			c.cfg.punish()
		}
		c.sayWhy(ce)
	} else {
		c.sayAlert(err)
	}
	c.rec.Conn.Close()
	c.rec.drop()
	c.mu.Lock()
	c.send.stop(err)
	for id, ch := range c.life.pings {
		delete(c.life.pings, id)
		close(ch)
	}
	c.mu.Unlock()
	c.wipe()
	close(c.done)
	if c.cfg.onGone != nil {
		c.cfg.onGone(c)
	}
	if c.in.begun {
		c.cfg.trace.connClosed(c.info, err)
	} else if c.cfg.server {
		c.cfg.trace.handshakeFailed(c.info.Remote, err)
	}
}

// closeWrite ends our direction. The caller has called seize.
func (c *conn) closeWrite() {
	c.lastWords.Lock()
	defer c.lastWords.Unlock()
	if !c.silent {
		c.tls.closeNotify()
		c.rec.closeWrite()
	}
}

// sayAlert tells the peer what was wrong with its records, if anything was.
func (c *conn) sayAlert(err error) {
	if !tls13.IsLocal(err) {
		return
	}
	c.rec.Conn.SetWriteDeadline(time.Now().Add(c.cfg.linger))
	c.seize()
	c.lastWords.Lock()
	defer c.lastWords.Unlock()
	c.tls.alert(err)
	c.rec.flush()
}

// wipe clears the keys once nobody writes any more. The socket is closed.
func (c *conn) wipe() {
	c.seize()
	c.lastWords.Lock()
	defer c.lastWords.Unlock()
	c.silent = true
	c.tls.wipe()
}

// loseStreams tells every open stream that the connection is gone.
func (c *conn) loseStreams(err error) {
	c.mu.Lock()
	c.gone = true
	lost := make([]*Stream, 0, len(c.streams))
	for _, s := range c.streams {
		lost = append(lost, s)
	}
	c.mu.Unlock()
	for _, s := range lost {
		s.lose(err)
	}
}

// sayWhy sends GOAWAY and gives the peer a moment to read it: what it still
// sends is thrown away, because closing a socket with unread bytes would also
// destroy what we sent.
func (c *conn) sayWhy(ce *ConnError) {
	deadline := time.Now().Add(c.cfg.linger)
	c.rec.Conn.SetDeadline(deadline)
	c.mu.Lock()
	c.enqueueGoAway(c.life.lastPeer, ce.Code, ce.Error())
	c.mu.Unlock()
	c.push()
	c.seize()
	c.closeWrite()
	b := grab(c.cfg.budget, record)
	defer b.free()
	for left := lingerBytes; left > 0; {
		n, err := c.rec.Conn.Read(b.b)
		if left -= n; err != nil {
			return
		}
	}
	timer := time.NewTimer(time.Until(deadline)) // who floods is read no further
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.failed:
	}
}

// leave says GOAWAY without a fault of the peer, and ends the connection once the peer
// has taken what was sent before.
func (c *conn) leave(why error) {
	c.mu.Lock()
	if c.err != nil || c.life.leaving {
		c.mu.Unlock()
		return
	}
	c.life.retired, c.life.leaving, c.life.why = true, true, why
	c.enqueueGoAway(c.life.lastPeer, http2.ErrCodeNo, "")
	c.mu.Unlock()
	c.cfg.group.run(func() {
		c.push()
		c.seize()
		c.closeWrite()
		c.awaitTaken()
		c.fail(why)
	})
}

// awaitTaken waits until the peer has ended the connection, or its kernel has all that
// we sent. A socket that is closed before resets the connection at the next word of the
// peer, a WINDOW_UPDATE most likely, and what it had still to send is lost. A peer that
// takes nothing for StallTime, or not all in leaveTime, gets no more.
func (c *conn) awaitTaken() {
	ticker := time.NewTicker(lingerTime)
	defer ticker.Stop()
	begun := time.Now()
	for left, since := c.rec.unacked(), begun; ; {
		select {
		case <-c.done:
			return
		case <-c.failed:
			return
		case now := <-ticker.C:
			was := left
			if left = c.rec.unacked(); left < was {
				since = now
			}
			if left == 0 || now.Sub(since) >= c.cfg.StallTime || now.Sub(begun) >= leaveTime {
				return
			}
		}
	}
}

// drain (server) tells the peer to open no more streams: first without a
// number, since a request may be on its way, then with the last one, after one
// round trip. Source: RFC 9113, section 6.8.
func (c *conn) drain() {
	c.mu.Lock()
	if c.err != nil || c.life.draining {
		c.mu.Unlock()
		return
	}
	c.life.draining = true
	c.enqueueGoAway(1<<31-1, http2.ErrCodeNo, "")
	ack := c.enqueuePing()
	c.mu.Unlock()
	c.cfg.group.run(func() {
		c.push()
		timer := time.NewTimer(lingerTime)
		defer timer.Stop()
		select {
		case <-ack:
		case <-timer.C:
		case <-c.done:
			return
		}
		c.mu.Lock()
		c.life.acceptUpTo = c.life.lastPeer
		c.enqueueGoAway(c.life.lastPeer, http2.ErrCodeNo, "")
		c.mu.Unlock()
		c.push()
		c.leaveIfUnused()
	})
}

// retire (client) lets no new stream begin; the connection ends with its last.
func (c *conn) retire() {
	c.mu.Lock()
	c.life.retired = true
	c.mu.Unlock()
	c.leaveIfUnused()
}

// leaveIfUnused ends a connection that takes no new streams and has none.
func (c *conn) leaveIfUnused() {
	c.mu.Lock()
	over := c.life.retired || c.life.goAway != nil || c.life.draining && c.life.acceptUpTo < 1<<31-1
	busy := len(c.streams) > 0 || c.life.slots > 0 || c.life.handlers > 0
	why := error(ErrDraining)
	if c.life.goAway != nil {
		why = c.life.goAway
	}
	c.mu.Unlock()
	if over && !busy {
		c.leave(why)
	}
}

// isBulk reports whether much has been moved just now.
func (c *conn) isBulk() bool { return int64(time.Since(c.born)) < c.bulkUntil.Load() }

// bulkMemory is how long a connection counts as busy with bulk after a large
// batch.
const bulkMemory = 250 * time.Millisecond

// noteBatch notes that n bytes were moved at once.
func (c *conn) noteBatch(n int) {
	if n >= classPayload[large] {
		c.bulkUntil.Store(int64(time.Since(c.born) + bulkMemory))
	}
}
