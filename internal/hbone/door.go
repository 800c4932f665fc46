package hbone

import (
	"container/list"
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// errLeft is why a connection never came in.
var errLeft = errors.New("the peer ended the connection without a word")

// errEvicted is why a connection in its handshake was closed.
var errEvicted = errors.New("too many handshakes at once: the oldest is closed")

// door counts who is inside and who is still on the way in. When too many are
// on their way, in all or from one address, the one that has been longest is
// shown out: an honest peer is through in milliseconds.
type door struct {
	limits Limits
	trace  *Trace

	mu      sync.Mutex
	closed  bool
	pending list.List // of *guest, oldest first
	byIP    map[netip.Addr]*visitors
	banned  map[netip.Addr]penalty
	turned  bucket // connections that were turned away, or turned another away
}

const (
	// penaltyMemory is how long a penalty counts towards the next.
	penaltyMemory = time.Minute
	// maxPenalty is the longest, so that a mistake heals.
	maxPenalty = 30 * time.Second
	// maxRemembered bounds how many addresses are remembered, of those that have a
	// penalty and of those that have visited.
	maxRemembered = 4096
)

// penalty keeps an address out. Guarded by door.mu.
type penalty struct {
	length time.Duration
	until  time.Time
}

// visitors are the connections of one address. Guarded by door.mu.
type visitors struct {
	conns      int
	pending    list.List // of *guest, oldest first
	handshakes bucket
}

// guest is one connection.
type guest struct {
	d   *door
	raw net.Conn
	ip  netip.Addr
	out chan struct{} // closed when evicted

	// Guarded by door.mu. The elements are nil once the handshake is done.
	inAll, inIP *list.Element
	evicted     bool
}

// init prepares the door.
func (d *door) init(l Limits, t *Trace) {
	d.limits, d.trace = l, t
	d.byIP = make(map[netip.Addr]*visitors)
	d.banned = make(map[netip.Addr]penalty)
}

// enter registers raw; nil means that it may not come in. Pause is how long to
// wait before the next is let in: at a door where many are turned away, those
// who are inside must not feel the crowd.
func (d *door) enter(raw net.Conn) (g *guest, pause time.Duration) {
	g = &guest{d: d, raw: raw, ip: addrPort(raw.RemoteAddr()).Addr(), out: make(chan struct{})}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, 0
	}
	if p, ok := d.banned[g.ip]; ok && time.Now().Before(p.until) {
		d.trace.limitHit(LimitPenalty)
		return nil, d.turnAway()
	}
	v := d.byIP[g.ip]
	if v == nil {
		d.forgetVisitors()
		v = &visitors{}
		d.byIP[g.ip] = v
	}
	if v.conns >= d.limits.ConnsPerIP {
		d.trace.limitHit(LimitConns)
		return nil, d.turnAway()
	}
	v.conns++
	switch {
	case v.pending.Len() >= d.limits.HandshakesPerIP:
		d.evict(&v.pending)
		pause = d.turnAway()
	case d.pending.Len() >= d.limits.Handshakes:
		d.evict(&d.pending)
		pause = d.turnAway()
	}
	g.inAll, g.inIP = d.pending.PushBack(g), v.pending.PushBack(g)
	return g, pause
}

// noted counts a connection that was over before it came in.
func (d *door) noted() (pause time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.turnAway()
}

// turnAway counts a connection that found no place without another one losing
// its own. The caller holds d.mu.
func (d *door) turnAway() (pause time.Duration) {
	return d.turned.wait(turnedAwayRate, time.Now())
}

// forgetVisitors forgets addresses that have nobody inside, when there are too
// many. The caller holds d.mu.
func (d *door) forgetVisitors() {
	if len(d.byIP) < maxRemembered {
		return
	}
	maps.DeleteFunc(d.byIP, func(_ netip.Addr, v *visitors) bool { return v.conns == 0 })
}

// takeTurn waits until the address of g may cost another handshake.
func (g *guest) takeTurn(life context.Context) error {
	d := g.d
	d.mu.Lock()
	pause := d.byIP[g.ip].handshakes.wait(handshakeRate, time.Now())
	d.mu.Unlock()
	if pause == 0 {
		return nil
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-g.out:
		return errEvicted
	case <-life.Done():
		return context.Cause(life)
	}
}

// evict shows out the oldest guest of l. The caller holds d.mu.
func (d *door) evict(l *list.List) {
	old := l.Front().Value.(*guest)
	old.evicted = true
	close(old.out)
	old.arrived()
	old.raw.Close()
	d.trace.limitHit(LimitHandshakes)
}

// arrived takes g off the lists of those on their way. The caller holds d.mu.
func (g *guest) arrived() {
	if g.inAll == nil {
		return
	}
	g.d.pending.Remove(g.inAll)
	g.d.byIP[g.ip].pending.Remove(g.inIP)
	g.inAll, g.inIP = nil, nil
}

// settle says that the handshake is done.
func (g *guest) settle() {
	g.d.mu.Lock()
	g.arrived()
	g.d.mu.Unlock()
}

// punish keeps the address of g out for a while.
func (g *guest) punish() {
	d := g.d
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.limits.Penalty == 0 {
		return
	}
	if len(d.banned) >= maxRemembered {
		clear(d.banned)
	}
	p := d.banned[g.ip]
	if now.Sub(p.until) > penaltyMemory {
		p.length = 0
	}
	p.length = min(max(2*p.length, d.limits.Penalty), max(maxPenalty, d.limits.Penalty))
	p.until = now.Add(p.length)
	d.banned[g.ip] = p
}

// leave forgets g.
func (g *guest) leave() {
	d := g.d
	d.mu.Lock()
	defer d.mu.Unlock()
	g.arrived()
	v := d.byIP[g.ip]
	if v.conns--; v.conns == 0 && v.handshakes.full(handshakeRate, time.Now()) {
		delete(d.byIP, g.ip)
	}
}

// why turns an error of the handshake into what it means; limit is the one that
// a passed deadline means.
func (g *guest) why(err error, limit Limit) error {
	g.d.mu.Lock()
	evicted := g.evicted
	g.d.mu.Unlock()
	if evicted {
		return &ConnError{Code: http2.ErrCodeEnhanceYourCalm, Limit: LimitHandshakes, Why: errEvicted.Error()}
	}
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, ErrHandshakeTimeout) {
		g.d.trace.limitHit(limit)
		return &ConnError{Code: http2.ErrCodeNo, Limit: limit, Why: ErrHandshakeTimeout.Error()}
	}
	return err
}

// close lets nobody in any more and shows out who is on the way.
func (d *door) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for e := d.pending.Front(); e != nil; e = e.Next() {
		e.Value.(*guest).raw.Close()
	}
}
