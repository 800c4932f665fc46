package hbone

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// A Stream is one TCP stream in a tunnel. One goroutine may read it while
// another writes it. It must be closed, by Close, Reset or the end of Pipe.
type Stream struct {
	// Set when the stream is made, then only read.
	c      *conn
	id     uint32
	cancel context.CancelCauseFunc // server: of the handler's context; else nil
	opened chan error              // client: the answer, or why there is none

	// Guarded by c.mu.
	sending  sendHalf
	recving  recvHalf
	answered bool      // the 2xx has been sent or has come
	over     bool      // both ends are done with it
	canSend  sync.Cond // of c.mu
	header   Header    // client: of the answer

	// mu guards all below.
	mu       sync.Mutex
	backlog  []*buffer // what came and was not taken, in order
	end      bool      // END_STREAM came behind the backlog
	helping  bool      // a helper writes the backlog to the application
	discard  bool      // the application takes nothing any more
	recvOver bool      // all has been given to the application, or is lost
	released bool      // the user is done
	err      error     // why no more can be received
	pipe     *pipe     // set by Pipe
	onEnd    func()    // set by OnEnd; often nil
	readable sync.Cond // of mu
	readTime deadline
}

// sendHalf is the sending direction of a stream. Guarded by conn.mu.
type sendHalf struct {
	window  int // the peer's
	ended   bool
	soft    bool  // the peer wants no more, without an error
	err     error // why no more may be sent
	waiting bool  // in sendState.waiting
	until   deadline
}

// recvHalf is the receiving direction as the peer sees it. Guarded by conn.mu.
type recvHalf struct {
	window  int
	unacked int  // taken by the application, not yet credited
	ended   bool // END_STREAM is in a frame that has begun
	done    bool // and that frame has ended
}

// deadline is a net.Conn deadline. Its owner's lock guards it.
type deadline struct {
	t     time.Time
	timer *time.Timer
}

// set sets the deadline; wake is called when it passes.
func (d *deadline) set(t time.Time, wake func()) {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if d.t = t; !t.IsZero() {
		d.timer = time.AfterFunc(time.Until(t), wake)
	}
}

// passed reports whether the deadline is over.
func (d *deadline) passed() bool { return !d.t.IsZero() && !time.Now().Before(d.t) }

// newStream makes a stream. The caller holds c.mu and puts it into c.streams.
func (c *conn) newStream(id uint32) *Stream {
	s := &Stream{c: c, id: id}
	s.canSend.L = &c.mu
	s.readable.L = &s.mu
	s.sending.window = c.send.initWindow
	s.recving.window = c.cfg.StreamWindow
	return s
}

// Header is the header of the peer's answer, for a stream from [Pool.Open].
func (s *Stream) Header() Header { return s.header }

// LocalAddr is our address of the tunnel.
func (s *Stream) LocalAddr() net.Addr { return s.c.rec.Conn.LocalAddr() }

// RemoteAddr is the peer's address of the tunnel.
func (s *Stream) RemoteAddr() net.Addr { return s.c.rec.Conn.RemoteAddr() }

// Read reads what the peer sent. It returns io.EOF after END_STREAM. It must
// not be used once Pipe has been called.
func (s *Stream) Read(p []byte) (int, error) {
	s.mu.Lock()
	for len(s.backlog) == 0 {
		err := s.err
		switch {
		case err != nil:
		case s.end:
			err = io.EOF
		case s.released:
			err = net.ErrClosed
		case s.readTime.passed():
			err = os.ErrDeadlineExceeded
		case len(p) == 0:
			s.mu.Unlock()
			return 0, nil
		}
		if err != nil {
			s.mu.Unlock()
			return 0, err
		}
		s.readable.Wait()
	}
	n := 0
	for n < len(p) && len(s.backlog) > 0 {
		b := s.backlog[0]
		k := copy(p[n:], b.bytes())
		n += k
		if b.r += k; b.len() == 0 {
			s.popBacklog().free()
		}
	}
	s.mu.Unlock()
	if s.c.credit(s, n) {
		s.c.kick()
	}
	return n, nil
}

// SetDeadline sets both deadlines.
func (s *Stream) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

// SetReadDeadline bounds Read.
func (s *Stream) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readTime.set(t, func() {
		s.mu.Lock()
		s.readable.Broadcast()
		s.mu.Unlock()
	})
	s.readable.Broadcast()
	return nil
}

// SetWriteDeadline bounds Write.
func (s *Stream) SetWriteDeadline(t time.Time) error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.sending.until.set(t, func() {
		s.c.mu.Lock()
		s.canSend.Broadcast()
		s.c.mu.Unlock()
	})
	s.canSend.Broadcast()
	return nil
}

// Close ends both directions. What was written still arrives; what the peer
// sends from now on is refused. Closing twice is fine.
func (s *Stream) Close() error {
	err := s.CloseWrite()
	s.terminate(net.ErrClosed, http2.ErrCodeCancel, true)
	s.release()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Reset ends both directions at once; the peer sees a reset, as of a TCP
// connection.
func (s *Stream) Reset() {
	s.terminate(net.ErrClosed, http2.ErrCodeConnect, true)
	s.release()
}

// abort resets the stream for err and tells the peer code.
func (s *Stream) abort(code http2.ErrCode, err error) { s.terminate(err, code, true) }

// lose ends the stream without a word to the peer.
func (s *Stream) lose(err error) { s.terminate(err, 0, false) }

// terminate ends both directions at once for err. The application is reset,
// unless it has got all and given all. With tell, the peer gets RST_STREAM if
// it does not think the stream over.
func (s *Stream) terminate(err error, code http2.ErrCode, tell bool) {
	c := s.c
	c.mu.Lock()
	told := tell && !s.over
	if told {
		c.enqueueReset(s.id, code)
	}
	if s.sending.err == nil {
		s.sending.err = err
	}
	answered := s.answered
	c.removeLocked(s)
	s.canSend.Broadcast()
	c.mu.Unlock()
	if told {
		c.kick()
	}
	c.leaveIfUnused()
	if !answered && s.opened != nil {
		select {
		case s.opened <- err:
		default:
		}
	}
	s.loseReceived(err)
	if s.cancel != nil {
		s.cancel(err)
	}
}

// loseReceived drops the backlog and resets the application.
func (s *Stream) loseReceived(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil && !(s.recvOver && s.released) {
		s.err = err
	}
	n := s.dropBacklog()
	s.recvOver = true
	s.readable.Broadcast()
	if s.pipe != nil {
		s.pipe.abort()
	}
	if n > 0 && s.c.credit(s, n) {
		s.c.kick()
	}
}

// resetByPeer takes a RST_STREAM. A peer that has sent all and then says
// NO_ERROR or CANCEL only wants no more from us: what it sent still goes to the
// application. Any other reset is one for the application too, and one before
// there is an answer is for who works on it.
func (s *Stream) resetByPeer(code http2.ErrCode) {
	c, err := s.c, &ResetError{Code: code}
	c.mu.Lock()
	soft := s.answered && s.recving.done && (code == http2.ErrCodeNo || code == http2.ErrCodeCancel)
	if !soft {
		c.mu.Unlock()
		s.lose(err)
		return
	}
	if s.sending.err == nil {
		s.sending.err, s.sending.soft = err, true
	}
	c.removeLocked(s)
	s.canSend.Broadcast()
	c.mu.Unlock()
	c.leaveIfUnused()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pipe != nil {
		s.pipe.stopReading = true
		s.pipe.wakeLocked()
	}
}

// removeLocked takes s out of the connection. The caller holds c.mu.
func (c *conn) removeLocked(s *Stream) {
	if s.over {
		return
	}
	s.over = true
	delete(c.streams, s.id)
	if i := slices.Index(c.send.waiting, s); i >= 0 {
		c.send.waiting = slices.Delete(c.send.waiting, i, i+1)
	}
	c.wakeSenders(1)
	if !c.cfg.server {
		c.life.slots--
		c.life.idleSince = time.Now()
	}
	if cause := c.cfg.group.keep(s); cause != nil && s.sending.err == nil {
		s.sending.err = cause
	}
}

// release says that the user is done with the stream.
func (s *Stream) release() {
	s.mu.Lock()
	s.released = true
	s.readTime.set(time.Time{}, nil)
	s.dropBacklog()
	s.mu.Unlock()
	s.c.mu.Lock()
	s.sending.until.set(time.Time{}, nil)
	s.c.mu.Unlock()
	s.c.cfg.group.drop(s)
}
