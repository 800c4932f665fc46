package hbone

import "net"

// For users who must not wait for the peer.

// WriteNow sends as much of p as the peer's windows and the connection's queue
// take without waiting, and returns how much that was. The error is why no more
// can be sent at all.
func (s *Stream) WriteNow(p []byte) (n int, err error) {
	for n < len(p) {
		want := min(len(p)-n, classPayload[large])
		if err := s.sendError(); err != nil {
			return n, err
		}
		took, err := s.sendGranted(p[n:], want)
		if took == 0 || err != nil {
			return n, err
		}
		n += took
	}
	return n, nil
}

// sendError is why nothing can be sent any more; nil while something can.
func (s *Stream) sendError() error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	switch {
	case s.sending.err != nil:
		return s.sending.err
	case s.sending.ended:
		return net.ErrClosed
	case s.c.send.err != nil:
		return &lostError{s.c.send.err}
	}
	return nil
}

// Room is how many bytes of want can be written now without waiting. What others
// write on the connection may take it.
func (s *Stream) Room(want int) int {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.c.available(s, want)
}

// OnEnd has fn called once the peer has ended its direction, at once if it has. fn
// runs on the goroutine that reads the connection: it must not wait. A stream that
// breaks off is no end: the context of its handler ends then. OnEnd is called at most
// once.
func (s *Stream) OnEnd(fn func()) {
	s.mu.Lock()
	s.onEnd = fn
	ended := s.end
	s.mu.Unlock()
	if ended {
		fn()
	}
}

// Ended reports whether the peer has ended its direction and everything that it sent
// has been read.
func (s *Stream) Ended() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.end && len(s.backlog) == 0
}
