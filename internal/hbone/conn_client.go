package hbone

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// errConnFull means that another connection has to be used.
var errConnFull = errors.New("connection takes no more streams")

// openTimes bound the wait for an answer.
type openTimes struct {
	open   time.Duration // from the start
	goAway time.Duration // once the peer has said GOAWAY
	timers *sync.Pool    // of *time.Timer that do not run
}

// timer starts a timer of open, which stop gives back.
func (t openTimes) timer() *time.Timer {
	if timer, ok := t.timers.Get().(*time.Timer); ok {
		timer.Reset(t.open)
		return timer
	}
	return time.NewTimer(t.open)
}

// stop gives back a timer: once it is stopped it has no value to give.
func (t openTimes) stop(timer *time.Timer) {
	timer.Stop()
	t.timers.Put(timer)
}

// acquire takes a slot for a stream, which open or giveUp uses up.
func (c *conn) acquire(most int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := &c.life
	if c.err != nil || l.retired || l.goAway != nil || l.slots >= min(most, c.send.peerStreams) || l.lastLocal+2 > 1<<31-1 && l.lastLocal != ^uint32(0) {
		return false
	}
	l.slots++
	return true
}

// allowsStreams reports whether the peer allows streams at all.
func (c *conn) allowsStreams() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.send.peerStreams > 0
}

// usable reports whether new streams may be opened once there is a slot.
func (c *conn) usable() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err == nil && !c.life.retired && c.life.goAway == nil && c.send.peerStreams > 0
}

// whyUnusable is why a connection is not usable.
func (c *conn) whyUnusable() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.life.goAway != nil:
		return c.life.goAway
	case c.err != nil:
		return &lostError{c.err}
	case c.life.retired:
		return ErrConnLost
	}
	return errNoStreams
}

// giveUp gives a slot back.
func (c *conn) giveUp() {
	c.mu.Lock()
	c.life.slots--
	c.life.idleSince = time.Now()
	c.mu.Unlock()
	c.leaveIfUnused()
}

// open sends the CONNECT and waits for the answer. The caller has a slot.
func (c *conn) open(ctx context.Context, req Request, times openTimes) (*Stream, error) {
	block := appendRequest(make([]byte, 0, 512), req)
	c.mu.Lock()
	if c.err != nil || c.life.retired || c.life.goAway != nil {
		c.mu.Unlock()
		c.giveUp()
		return nil, errConnFull
	}
	c.life.lastLocal += 2
	s := c.newStream(c.life.lastLocal)
	s.opened = make(chan error, 1)
	c.streams[s.id] = s
	c.enqueueHeaders(s.id, block, false)
	c.mu.Unlock()
	c.kick() // not push: ctx bounds what we wait for

	err := c.awaitAnswer(ctx, s, times)
	if err == nil {
		return s, nil
	}
	s.abort(http2.ErrCodeCancel, err)
	s.release()
	return nil, err
}

// awaitAnswer waits until the peer has answered.
func (c *conn) awaitAnswer(ctx context.Context, s *Stream, times openTimes) error {
	timer := times.timer()
	defer times.stop(timer)
	away := c.away
	for {
		select {
		case err := <-s.opened:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-away:
			// The CONNECT may have crossed the GOAWAY; some peers then never
			// answer it.
			away = nil
			timer.Reset(min(times.goAway, times.open))
		case <-timer.C:
			return ErrOpenTimeout
		}
	}
}

// onAnswer takes the header that a server sends on a stream.
func (c *conn) onAnswer(id uint32, f fields, end bool) error {
	s, err := c.lookup(frameHeader{stream: id})
	if err != nil || s == nil {
		return err
	}
	status, err := f.statusCode()
	c.mu.Lock()
	again, ended := s.answered, s.recving.ended
	c.mu.Unlock()
	switch {
	case ended:
		s.abort(http2.ErrCodeStreamClosed, &ResetError{Code: http2.ErrCodeStreamClosed, Local: true})
		return nil
	case again && end: // trailers: nothing of it is of use here
		s.receiveEnd()
		return nil
	case again || err != nil || status == 101:
		s.abort(http2.ErrCodeProtocol, &ResetError{Code: http2.ErrCodeProtocol, Local: true})
		return nil
	case status < 200:
		return c.countControl()
	case status > 299:
		s.abort(http2.ErrCodeCancel, &RefusedError{Status: status, Header: f.header})
		return nil
	}
	if s.takeAnswer(f.header) && end {
		s.receiveEnd()
	}
	return nil
}

// takeAnswer tells who waits that the peer has accepted. It reports false when nobody
// waits any more: the stream was ended meanwhile, and why is in opened, which has room
// for one word.
func (s *Stream) takeAnswer(h Header) bool {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.over {
		return false
	}
	s.answered, s.header = true, h
	s.opened <- nil
	return true
}

// shrink notes that the peer refused a stream although it allowed more.
func (c *conn) shrink() {
	c.mu.Lock()
	c.send.peerStreams = max(1, min(c.send.peerStreams, len(c.streams)))
	c.mu.Unlock()
}

// ping waits until the peer has answered a PING not longer ago than
// PingInterval.
func (c *conn) ping(ctx context.Context) error {
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		return &lostError{c.err}
	}
	if time.Since(c.life.heard) < c.cfg.PingInterval {
		c.mu.Unlock()
		return nil
	}
	answered := c.enqueuePing()
	c.mu.Unlock()
	c.push()
	select {
	case <-answered:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return &lostError{c.err}
	}
	return nil
}

// hold keeps the connection although it is idle, until ctx ends.
func (c *conn) hold(ctx context.Context) {
	c.mu.Lock()
	c.life.holds++
	c.life.idleSince = time.Now()
	c.mu.Unlock()
	context.AfterFunc(ctx, func() {
		c.mu.Lock()
		c.life.holds--
		c.life.idleSince = time.Now()
		c.mu.Unlock()
	})
}
