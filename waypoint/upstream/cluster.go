package upstream

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/internal/workload"
	"github.com/ambit-mesh/ambit/waypoint/config"
)

// defaultPending is how many requests wait for a connection where the users say
// nothing. Source: what the ecosystem does.
const defaultPending = 1024

// maxTold is how many connections to an endpoint are kept that are of one client each,
// because the endpoint was told of it: our choice. Clients that call once would leave
// as many as they like.
const maxTold = 128

// cluster is the endpoints of one key, with what limits them together.
type cluster struct {
	u   *Upstreams
	key Key

	requests atomic.Int64 // under way
	retries  atomic.Int64 // requests that are being tried again
	turn     atomic.Uint64
	asked    time.Time // for it; guarded by Upstreams.mu

	mu      sync.Mutex
	hosts   map[string]*host // by workload UID
	conns   int              // open or being opened; only counted, not bounded, without a limit
	waiting []*waiter        // for one of them
	epoch   int              // goes up when what was opened before is not to be kept
	closed  bool
}

// place is what a request may use: a connection that was kept, a part of one, or, when
// it is neither, the right to open one.
type place struct {
	one   *conn1
	two   *conn2
	epoch int // of the cluster
}

// waiter is a request that waits for a place.
type waiter struct {
	h    *host
	two  bool          // a part of a connection of h will do
	free chan struct{} // of 1: look again
}

// host is one endpoint of a cluster.
type host struct {
	c      *cluster
	uid    string
	active atomic.Int64 // requests under way

	// Guarded by cluster.mu.
	idle []*conn1 // kept connections, the one used last at the end
	two  []*conn2
	ill  illness
}

// newCluster makes an empty one.
func newCluster(u *Upstreams, key Key) *cluster {
	return &cluster{u: u, key: key, hosts: map[string]*host{}}
}

// traffic is how the users want the endpoints treated.
func (c *cluster) traffic() *config.Traffic {
	return c.u.deps.Routes.Picture().Service(c.key.Service).Traffic(c.key.Port, c.key.Subset)
}

// host is that of a workload, made when it is not there.
func (c *cluster) host(uid string) *host {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.hosts[uid]
	if h == nil {
		h = &host{c: c, uid: uid}
		c.hosts[uid] = h
	}
	return h
}

// enter counts a request against the limit. The caller leaves when it is over.
func (c *cluster) enter(l *waypointapi.Limits) bool {
	most := int64(l.GetRequests())
	for {
		n := c.requests.Load()
		if most > 0 && n >= most {
			return false // and is not counted for a moment, which would refuse others
		}
		if c.requests.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// BeginRetry counts a request that is tried again against the limit of its service; ok
// is false when that is reached. The caller calls end when the request is over; nil
// when there is nothing to end.
func (e *Endpoint) BeginRetry() (end func(), ok bool) {
	most, n := int64(e.Traffic.GetLimits().GetRetries()), &e.h.c.retries
	if most == 0 {
		return nil, true
	}
	if n.Add(1) > most {
		n.Add(-1)
		return nil, false
	}
	return func() { n.Add(-1) }, true
}

// acquire gets a place for a request to e; two says that it is one of HTTP/2. Without
// a connection that can be used, it counts a new one against the limit. When that is
// reached, it closes one that nobody uses, or waits for one to end or to become idle.
func (c *cluster) acquire(ctx context.Context, e *Endpoint, two bool) (place, error) {
	h, by, l := e.h, e.way(), e.Traffic.GetLimits()
	most, pending := int(l.GetConnections()), int(l.GetPending())
	if pending == 0 {
		pending = defaultPending
	}
	c.mu.Lock()
	for {
		if got, ok := c.placeLocked(h, &by, most, two); ok {
			c.mu.Unlock()
			return got, nil
		}
		if end := c.spareLocked(); end != nil {
			c.mu.Unlock()
			end()
			c.mu.Lock()
			continue
		}
		if len(c.waiting) >= pending {
			c.mu.Unlock()
			return place{}, ErrOverflow
		}
		w := &waiter{h: h, two: two, free: make(chan struct{}, 1)}
		c.waiting = append(c.waiting, w)
		c.mu.Unlock()
		select {
		case <-w.free:
			c.mu.Lock()
		case <-ctx.Done():
			c.mu.Lock()
			c.forgetLocked(w)
			c.mu.Unlock()
			return place{}, fmt.Errorf("%w, and no connection became free in time: %w", ErrOverflow, context.Cause(ctx))
		}
	}
}

// standing takes a place on a connection for e that stands, if there is one.
func (c *cluster) standing(e *Endpoint, two bool) (got place, ok bool) {
	by := e.way()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.standingLocked(e.h, &by, two)
}

// standingLocked takes one that was made to h in a way. The caller holds mu.
func (c *cluster) standingLocked(h *host, by *way, two bool) (got place, ok bool) {
	got.epoch = c.epoch
	if two {
		got.two = h.reserveLocked(by)
	} else {
		got.one = h.takeIdleLocked(by)
	}
	return got, got.one != nil || got.two != nil
}

// placeLocked takes a place if there is one. The caller holds mu.
func (c *cluster) placeLocked(h *host, by *way, most int, two bool) (got place, ok bool) {
	if got, ok = c.standingLocked(h, by, two); ok {
		return got, true
	}
	if most > 0 && c.conns >= most {
		return place{}, false
	}
	c.conns++
	return got, true
}

// spareLocked finds a connection that nobody uses, of any host, and returns what ends
// it; nil when there is none. The caller holds mu, and calls end without it.
func (c *cluster) spareLocked() (end func()) {
	for _, h := range c.hosts {
		if k := h.takeIdleLocked(nil); k != nil {
			return k.discard
		}
	}
	for _, h := range c.hosts {
		for _, k := range h.two {
			if k.unused() {
				k.leaving = true
				return k.conn.Drain
			}
		}
	}
	return nil
}

// forgetLocked takes one out of the queue, and lets the next have what it was
// given in the same moment. The caller holds mu.
func (c *cluster) forgetLocked(w *waiter) {
	if i := slices.Index(c.waiting, w); i >= 0 {
		c.waiting = slices.Delete(c.waiting, i, i+1)
		return
	}
	c.wakeLocked(w.h)
}

// wakeLocked lets one that waits look again: one that can use a part of a connection
// of h, else the first. The caller holds mu.
func (c *cluster) wakeLocked(h *host) {
	if len(c.waiting) == 0 {
		return
	}
	i := max(0, slices.IndexFunc(c.waiting, func(w *waiter) bool { return w.two && w.h == h }))
	c.waiting[i].free <- struct{}{}
	c.waiting = slices.Delete(c.waiting, i, i+1)
}

// left notes that a request has left its part of a connection of h.
func (c *cluster) left(h *host) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wakeLocked(h)
}

// released notes that a connection has ended.
func (c *cluster) released() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns--
	c.wakeLocked(nil)
}

// takeIdleLocked takes the connection used last that is still good, and was made in
// that way; nil: in any. The caller holds cluster.mu.
func (h *host) takeIdleLocked(by *way) *conn1 {
	for i := len(h.idle) - 1; i >= 0; i-- {
		if k := h.idle[i]; by == nil || k.way == *by && !passed(k.until, time.Now()) {
			h.idle = slices.Delete(h.idle, i, i+1)
			return k
		}
	}
	return nil
}

// keep puts a connection aside for the next request.
func (c *cluster) keep(k *conn1) {
	c.mu.Lock()
	if c.closed || k.epoch != c.epoch {
		c.mu.Unlock()
		k.discard()
		return
	}
	k.since = time.Now()
	k.h.idle = append(k.h.idle, k)
	c.wakeLocked(nil)
	var old *conn1
	if k.way.from.IsValid() && len(k.h.idle) > maxTold {
		old = k.h.idle[0]
		k.h.idle = slices.Delete(k.h.idle, 0, 1)
	}
	c.mu.Unlock()
	if old != nil {
		old.discard()
	}
}

// idleTime is how long connections are kept.
func (c *cluster) idleTime() time.Duration {
	if d := c.traffic().GetLimits().GetIdleTimeout(); d != nil {
		return d.AsDuration()
	}
	return c.u.cfg.IdleTimeout
}

// sweep closes what was idle for too long, and forgets hosts that are gone.
func (c *cluster) sweep(now time.Time, snap *workload.Snapshot) {
	limit := c.idleTime()
	var old []*conn1
	var done []*conn2
	c.mu.Lock()
	for uid, h := range c.hosts {
		kept := h.idle[:0]
		for _, k := range h.idle {
			if now.Sub(k.since) > limit || passed(k.until, now) || !k.raw.Quiet() || snap.Workload(uid) == nil {
				old = append(old, k)
			} else {
				kept = append(kept, k)
			}
		}
		clear(h.idle[len(kept):])
		h.idle = kept
		for _, k := range h.two {
			if since, idle := k.conn.IdleSince(); idle && now.Sub(since) > limit || passed(k.until, now) {
				done = append(done, k)
			}
		}
		if snap.Workload(uid) == nil && len(h.idle)+len(h.two) == 0 && h.active.Load() == 0 {
			delete(c.hosts, uid)
		}
	}
	c.mu.Unlock()
	for _, k := range old {
		k.discard()
	}
	for _, k := range done {
		k.conn.Drain()
	}
}

// retire ends what is idle and lets the rest be used by nobody new.
func (c *cluster) retire() {
	c.mu.Lock()
	c.epoch++
	var idle []*conn1
	var two []*conn2
	for _, h := range c.hosts {
		idle = append(idle, h.idle...)
		two = append(two, h.two...)
		h.idle = nil
	}
	c.mu.Unlock()
	for _, k := range idle {
		k.discard()
	}
	for _, k := range two {
		k.conn.Drain()
	}
}

// close ends everything.
func (c *cluster) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.retire()
	c.mu.Lock()
	var two []*conn2
	for _, h := range c.hosts {
		two = append(two, h.two...)
	}
	c.mu.Unlock()
	for _, k := range two {
		k.conn.Close()
	}
}

// empty reports whether there is nothing left, and nobody has picked an endpoint.
func (c *cluster) empty() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.hosts {
		if h.active.Load() > 0 {
			return false
		}
	}
	return c.conns == 0 && c.requests.Load() == 0
}
