package hbone

import (
	"encoding/binary"
	"time"

	"golang.org/x/net/http2"
)

// tick runs every PingInterval: it looks for a dead peer and for an idle
// connection, and sends a PING.
func (c *conn) tick() {
	now := time.Now()
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	l := &c.life
	stalled := c.rec.stalled.Load()
	lost := !l.leaving && !l.pingSent.IsZero() && now.Sub(l.pingSent) >= c.cfg.PingTimeout
	idle := !c.cfg.server && len(c.streams) == 0 && l.slots == 0 && l.holds == 0 &&
		c.cfg.idleTimeout > 0 && now.Sub(l.idleSince) >= c.cfg.idleTimeout
	if l.pingSent.IsZero() && !l.leaving { // nothing can be said behind the last GOAWAY
		c.enqueuePing()
	}
	l.timer.Reset(c.cfg.PingInterval)
	c.mu.Unlock()

	switch {
	case stalled != 0 && now.UnixNano()-stalled >= int64(c.cfg.StallTime):
		c.cfg.trace.limitHit(LimitSlowReader)
		c.fail(&ConnError{Code: http2.ErrCodeEnhanceYourCalm, Why: "the peer's socket takes nothing"})
	case lost:
		c.fail(ErrPingTimeout)
	case idle:
		c.leave(ErrIdle)
	default:
		c.kick()
	}
}

// enqueuePing queues a PING and returns what is closed when it is answered or
// the connection is gone. The caller holds c.mu.
func (c *conn) enqueuePing() chan struct{} {
	l := &c.life
	l.pingID++
	answered := make(chan struct{})
	if l.pings == nil {
		l.pings = make(map[uint64]chan struct{})
	}
	l.pings[l.pingID] = answered
	if l.pingSent.IsZero() {
		l.pingSent = time.Now()
	}
	var p [8]byte
	binary.BigEndian.PutUint64(p[:], l.pingID)
	c.enqueueFrame(http2.FramePing, 0, 0, p[:])
	return answered
}

// pingAnswered takes the payload of a PING ACK. A later ACK answers for the
// earlier ones.
func (c *conn) pingAnswered(p []byte) {
	id := binary.BigEndian.Uint64(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	l := &c.life
	if _, ok := l.pings[id]; !ok {
		return // not ours: ignored
	}
	for other, ch := range l.pings {
		if other <= id {
			close(ch)
			delete(l.pings, other)
		}
	}
	l.heard, l.pingSent = time.Now(), time.Time{}
	if len(l.pings) > 0 {
		l.pingSent = time.Now()
	}
}
