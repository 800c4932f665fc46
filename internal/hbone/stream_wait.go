package hbone

import (
	"io"
	"net"
	"os"
)

// WaitReadable waits until Read would return something, an end or an error. It
// lets who has nothing to do wait without a buffer.
func (s *Stream) WaitReadable() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.backlog) == 0 {
		switch {
		case s.err != nil:
			return s.err
		case s.end:
			return io.EOF
		case s.released:
			return net.ErrClosed
		case s.readTime.passed():
			return os.ErrDeadlineExceeded
		}
		s.readable.Wait()
	}
	return nil
}

// Quiet reports whether the stream is open in both directions and nothing has
// come that was not read: whether it can be kept for later.
func (s *Stream) Quiet() bool {
	s.mu.Lock()
	ok := len(s.backlog) == 0 && s.err == nil && !s.end && !s.released
	s.mu.Unlock()
	if !ok {
		return false
	}
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.sending.err == nil && !s.sending.ended && !s.over
}
