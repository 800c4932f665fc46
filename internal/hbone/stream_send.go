package hbone

import (
	"net"
	"os"

	"golang.org/x/net/http2"
)

// Write sends p. It returns when p is queued, which the peer's windows and the
// connection's queue make it wait for.
func (s *Stream) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		want := min(len(p)-done, classPayload[large])
		if err := s.waitSend(want); err != nil {
			return done, err
		}
		n, err := s.sendGranted(p[done:], want)
		if err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// sendGranted sends as much of p, want bytes at most, as the windows and the queue take
// now; it may be nothing.
func (s *Stream) sendGranted(p []byte, want int) (n int, err error) {
	granted := s.reserve(want)
	if granted == 0 {
		return 0, nil
	}
	b := grab(s.c.cfg.budget, classFor(granted))
	n = min(granted, len(b.b)-frameHead)
	copy(b.b[frameHead:], p[:n])
	if err := s.commit(b, n, granted, false); err != nil {
		return 0, err
	}
	return n, nil
}

// CloseWrite ends our direction; the peer's goes on. When the peer, a server, has
// ended its own before, it waits for nothing: then our end may go with what is
// sent next, or a moment later.
func (s *Stream) CloseWrite() error {
	c := s.c
	c.mu.Lock()
	if s.sending.ended {
		c.mu.Unlock()
		return nil
	}
	if err := s.sending.err; err != nil {
		c.mu.Unlock()
		return err
	}
	if !s.answered {
		c.mu.Unlock()
		return net.ErrClosed
	}
	c.enqueueFrame(http2.FrameData, http2.FlagDataEndStream, s.id, nil)
	s.endSendLocked()
	later := !c.cfg.server && s.recving.done
	if later {
		c.kickSoonLocked()
	}
	c.mu.Unlock()
	if !later {
		c.kick()
	}
	c.leaveIfUnused()
	return nil
}

// waitSend waits until reserve is likely to give something of want.
func (s *Stream) waitSend(want int) error {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case s.sending.err != nil:
			return s.sending.err
		case s.sending.ended:
			return net.ErrClosed
		case c.send.err != nil:
			return &lostError{c.send.err}
		case s.sending.until.passed():
			return os.ErrDeadlineExceeded
		case c.available(s, want) > 0:
			return nil
		}
		if s.sending.window > 0 && !s.sending.waiting {
			s.sending.waiting = true
			c.send.waiting = append(c.send.waiting, s)
		}
		s.canSend.Wait()
	}
}

// available is how much of want s may send now. The caller holds c.mu.
func (c *conn) available(s *Stream, want int) int {
	w := &c.send
	room := w.limit - w.queued - w.reserved
	if want <= classPayload[record] {
		room += sendSpare
	}
	if room < min(want, sendPiece) {
		return 0
	}
	return max(0, min(want, s.sending.window, w.window, w.frame, room))
}

// reserve takes up to want bytes of the windows and of the queue; commit or
// refund must follow. Zero means waitSend.
func (s *Stream) reserve(want int) int {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.sending.err != nil || s.sending.ended {
		return 0
	}
	n := c.available(s, want)
	s.sending.window -= n
	c.send.window -= n
	c.send.reserved += n
	return n
}

// refund gives back what was reserved and not used.
func (s *Stream) refund(n int) {
	if n == 0 {
		return
	}
	c := s.c
	c.mu.Lock()
	s.sending.window += n
	c.send.window += n
	c.send.reserved -= n
	c.wakeSenders(1)
	c.mu.Unlock()
}

// commit sends n of granted bytes that lie in b behind room for a frame header,
// and with end the end of our direction. It owns b.
func (s *Stream) commit(b *buffer, n, granted int, end bool) error {
	c := s.c
	flags := http2.Flags(0)
	if end {
		flags = http2.FlagDataEndStream
	}
	putFrameHead(b.b, n, http2.FrameData, flags, s.id)
	b.r, b.w = 0, frameHead+n
	c.mu.Lock()
	w := &c.send
	w.reserved -= granted
	s.sending.window += granted - n
	w.window += granted - n
	err := s.sending.err
	if err == nil && s.sending.ended {
		err = net.ErrClosed // nothing may follow the end
	}
	if err != nil {
		w.window += n
		c.wakeSenders(1)
		c.mu.Unlock()
		b.free()
		return err
	}
	last := len(w.queue) - 1
	if last >= 0 && w.queue[last].shared && len(w.queue[last].room()) >= b.len() {
		w.queue[last].add(b.bytes())
		w.queued += b.len()
		defer b.free()
	} else {
		b.shared = n < classPayload[tiny] && b.class <= record
		c.enqueue(b)
	}
	if granted > n {
		c.wakeSenders(1)
	}
	if end {
		s.endSendLocked()
	}
	c.mu.Unlock()
	c.push()
	if end {
		c.leaveIfUnused()
	}
	return nil
}

// endSendLocked notes that our direction has ended. The caller holds c.mu.
func (s *Stream) endSendLocked() {
	s.sending.ended = true
	if s.recving.done {
		s.c.removeLocked(s)
	}
}
