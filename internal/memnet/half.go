package memnet

import (
	"io"
	"os"
	"sync"
	"time"
)

// halfSize is how many bytes are on their way in one direction before the
// writer waits: that of a small socket buffer.
const halfSize = 256 << 10

// half is one direction of a connection.
type half struct {
	mu      sync.Mutex
	changed sync.Cond // of mu
	bytes   []byte
	ended   bool  // the writer has ended
	gone    bool  // the reader reads no more
	err     error // of a fault; for both ends
	stalled bool  // bytes stay where they are
	read    deadline
	write   deadline
}

// deadline is a net.Conn deadline. Guarded by half.mu.
type deadline struct {
	t     time.Time
	timer *time.Timer
}

func newHalf() *half {
	h := &half{}
	h.changed.L = &h.mu
	return h
}

// set sets d, which is one of h.
func (h *half) set(d *deadline, t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if d.t = t; !t.IsZero() {
		d.timer = time.AfterFunc(time.Until(t), h.wake)
	}
	h.changed.Broadcast()
}

// wake makes those who wait look again.
func (h *half) wake() {
	h.mu.Lock()
	h.changed.Broadcast()
	h.mu.Unlock()
}

func (d *deadline) passed() bool { return !d.t.IsZero() && !time.Now().Before(d.t) }

// change runs f under the lock and wakes those who wait.
func (h *half) change(f func()) {
	h.mu.Lock()
	f()
	h.changed.Broadcast()
	h.mu.Unlock()
}

// take reads what is there, waiting for the first byte.
func (h *half) take(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.gone:
			return 0, os.ErrClosed
		case h.err != nil:
			return 0, h.err
		case h.read.passed():
			return 0, os.ErrDeadlineExceeded
		case len(h.bytes) > 0 && !h.stalled:
			n := copy(p, h.bytes)
			h.bytes = h.bytes[n:]
			h.changed.Broadcast()
			return n, nil
		case h.ended && !h.stalled:
			return 0, io.EOF
		}
		h.changed.Wait()
	}
}

// give writes p, waiting for room.
func (h *half) give(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	done := 0
	for {
		switch {
		case h.ended:
			return done, os.ErrClosed
		case h.err != nil:
			return done, h.err
		case h.gone:
			return done, io.ErrClosedPipe
		case h.write.passed():
			return done, os.ErrDeadlineExceeded
		case done == len(p):
			return done, nil
		case len(h.bytes) < halfSize:
			n := min(len(p)-done, halfSize-len(h.bytes))
			h.bytes = append(h.bytes, p[done:done+n]...)
			done += n
			h.changed.Broadcast()
			continue
		}
		h.changed.Wait()
	}
}
