package hbone

import (
	"golang.org/x/net/http2"
)

// receive takes payload from the reader: what the application's socket takes at
// once is written to it, the rest joins the backlog. The reader may be made to
// wait for the budget; then nothing more comes in on the connection.
func (s *Stream) receive(p []byte) error {
	s.mu.Lock()
	taken := 0
	switch {
	case s.err != nil || s.discard || s.released:
		taken = len(p)
	case s.pipe != nil && len(s.backlog) == 0 && !s.helping:
		taken = s.deliverNow(p)
	}
	p = p[taken:]
	if n := len(s.backlog); len(p) > 0 && n > 0 {
		k := s.backlog[n-1].add(p)
		p = p[k:]
	}
	s.mu.Unlock()
	if taken > 0 && s.c.credit(s, taken) {
		s.c.in.changed = true
	}
	for len(p) > 0 {
		b := grabWait(s.c.cfg.budget, min(classFor(len(p)), large), s.c.failed)
		if b == nil {
			s.c.cfg.trace.limitHit(LimitBudget)
			s.abort(http2.ErrCodeEnhanceYourCalm, &ResetError{Code: http2.ErrCodeEnhanceYourCalm, Local: true})
			return nil
		}
		p = p[b.add(p):]
		s.appendBacklog(b)
	}
	return nil
}

// deliverNow writes what the application's socket takes without waiting. The
// caller holds s.mu.
func (s *Stream) deliverNow(p []byte) int {
	n, err := s.pipe.writeNow(p)
	if err != nil {
		s.appFailed(err)
		return len(p)
	}
	return n
}

// appendBacklog adds b and sees to it that somebody takes it.
func (s *Stream) appendBacklog(b *buffer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil || s.discard || s.released {
		n := b.len()
		b.free()
		if s.c.credit(s, n) {
			s.c.in.changed = true
		}
		return
	}
	s.backlog = append(s.backlog, b)
	s.readable.Broadcast()
	s.startHelper()
}

// startHelper has the backlog written to the application. The caller holds s.mu.
func (s *Stream) startHelper() {
	if s.pipe == nil || s.helping || len(s.backlog) == 0 {
		return
	}
	s.helping = s.c.cfg.group.start(s.pipe.helpFn)
}

// help writes the backlog until it is empty. The group has started it.
func (s *Stream) help() {
	defer s.c.cfg.group.ended()
	for {
		s.mu.Lock()
		if len(s.backlog) == 0 {
			s.helping = false
			s.finishReceive()
			s.readable.Broadcast() // Pipe may wait for what is counted here
			s.mu.Unlock()
			return
		}
		b := s.popBacklog()
		s.mu.Unlock()
		n := b.len()
		_, err := s.pipe.writeAll(b.bytes())
		b.free()
		if err != nil {
			s.mu.Lock()
			s.appFailed(err)
			s.mu.Unlock()
		}
		if s.c.credit(s, n) {
			s.c.kick()
		}
	}
}

// popBacklog takes the oldest piece. The caller holds s.mu.
func (s *Stream) popBacklog() *buffer {
	b := s.backlog[0]
	s.backlog[0] = nil
	if s.backlog = s.backlog[1:]; len(s.backlog) == 0 {
		s.backlog = nil
	}
	return b
}

// dropBacklog frees the backlog and returns how many bytes were in it. The
// caller holds s.mu.
func (s *Stream) dropBacklog() int {
	n := 0
	for _, b := range s.backlog {
		n += b.len()
		b.free()
	}
	s.backlog = nil
	return n
}

// appFailed notes that the application's socket takes nothing any more. What
// it has sent before is still read. The caller holds s.mu.
func (s *Stream) appFailed(err error) {
	s.discard = true
	if s.pipe.writeErr == nil {
		s.pipe.writeErr = err
	}
	if n := s.dropBacklog(); n > 0 && s.c.credit(s, n) {
		s.c.kick()
	}
	s.recvOver = true
	s.pipe.wakeLocked()
}

// receiveEnd takes the peer's END_STREAM.
func (s *Stream) receiveEnd() {
	c := s.c
	c.mu.Lock()
	s.recving.ended, s.recving.done = true, true
	if s.sending.ended {
		c.removeLocked(s)
	}
	c.mu.Unlock()
	s.mu.Lock()
	s.end = true
	s.readable.Broadcast()
	s.finishReceive()
	tell := s.onEnd
	s.mu.Unlock()
	if tell != nil {
		tell()
	}
	c.leaveIfUnused()
}

// finishReceive passes the end on when all has been given to the application.
// The caller holds s.mu.
func (s *Stream) finishReceive() {
	if s.pipe == nil || !s.end || s.helping || len(s.backlog) > 0 || s.recvOver {
		return
	}
	s.recvOver = true
	if !s.pipe.lingering { // else run closes, which says it too
		s.pipe.endWrite()
	}
	s.pipe.wakeLocked()
}
