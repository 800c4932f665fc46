package http2

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"golang.org/x/net/http2"

	"github.com/ambit-mesh/ambit/internal/h2"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

// Stream is one request and its answer. One goroutine may read while another
// writes.
type Stream struct {
	// Set when it is made, then only read.
	c      *Conn
	id     uint32
	req    *message.Request // server
	method string           // client
	begun  time.Time

	// Guarded by Conn.mu.
	recv    recvHalf
	send    sendHalf
	answers []*message.Response     // client: not yet taken
	cancel  context.CancelCauseFunc // of Context; may be nil
	err     error                   // why it failed
}

// recvHalf is what comes in.
type recvHalf struct {
	data    []byte // not yet read, from read on
	read    int
	window  int
	unread  int   // bytes that were read and for which no credit was given
	got     int64 // of the body
	length  int64 // that it said, or Unknown
	gotHead bool
	ended   bool // the peer has said all
	dropped bool // nobody reads any more
	stopped bool // Read fails
	tail    message.Fields
	ready   sync.Cond
}

// sendHalf is what goes out.
type sendHalf struct {
	window   int
	headSent bool
	ended    bool
	err      error
	ready    sync.Cond
}

// newStream makes a stream. The caller holds mu.
func (c *Conn) newStream(id uint32) *Stream {
	s := &Stream{c: c, id: id}
	s.recv.ready.L, s.send.ready.L = &c.mu, &c.mu
	s.recv.window, s.recv.length = streamWindow, message.Unknown
	s.send.window = c.peer.window
	return s
}

// Request is what the peer asks for.
func (s *Stream) Request() *message.Request { return s.req }

// Begun is when the request came.
func (s *Stream) Begun() time.Time { return s.begun }

// serve runs the handler of a request and ends what it left open.
func (c *Conn) serve(s *Stream) {
	c.handle(s)
	c.mu.Lock()
	switch {
	case s.err != nil || c.err != nil:
	case !s.send.ended:
		s.resetLocked(http2.ErrCodeInternal)
	case !s.recv.ended:
		// The answer is complete and the rest of the request is not wanted.
		// Source: RFC 9113, section 8.1.
		s.resetLocked(http2.ErrCodeNo)
	}
	s.dropLocked()
	c.mu.Unlock()
	c.flush()
	c.closeIfOver()
}

// fail ends the stream without a word to the peer. The caller holds mu.
func (s *Stream) fail(err error) {
	if s.err != nil {
		return
	}
	s.err = err
	if s.send.err == nil {
		s.send.err = err
	}
	if s.cancel != nil {
		s.cancel(err)
	}
	s.recv.ready.Broadcast()
	s.send.ready.Broadcast()
	s.c.out.room.Broadcast()
}

// resetLocked ends the stream and tells the peer, and gives back the credit of
// what was not read. The caller holds mu.
func (s *Stream) resetLocked(code http2.ErrCode) {
	if s.c.streams[s.id] == s {
		s.c.out.addReset(s.id, code)
	}
	s.dropLocked()
	s.fail(&StreamError{Code: code})
	s.c.remove(s)
}

// dropLocked forgets what nobody is going to read. The caller holds mu.
func (s *Stream) dropLocked() {
	s.c.addCredit(len(s.recv.data) - s.recv.read)
	s.recv.data, s.recv.read, s.recv.dropped = nil, 0, true
}

// Reset ends the stream at once, unless both sides are done. Who has asked for
// something always calls it at the end.
func (s *Stream) Reset(code http2.ErrCode) {
	s.c.mu.Lock()
	if s.err == nil && !(s.send.ended && s.recv.ended) {
		s.resetLocked(code)
	}
	s.dropLocked()
	s.c.mu.Unlock()
	s.c.flush()
	s.c.closeIfOver()
}

// Context returns a context that ends when the stream has failed, with the
// reason as its cause. cancel frees what it holds. It is called at most once.
func (s *Stream) Context(parent context.Context) (ctx context.Context, cancel context.CancelCauseFunc) {
	ctx, cancel = context.WithCancelCause(parent)
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.cancel = cancel
	if s.err != nil {
		cancel(s.err)
	}
	return ctx, cancel
}

// Err is why the stream failed; nil while it has not.
func (s *Stream) Err() error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.err
}

// Read implements [message.Body].
func (s *Stream) Read(p []byte) (int, error) {
	c := s.c
	c.mu.Lock()
	for len(s.recv.data) == s.recv.read {
		switch {
		case s.recv.stopped:
			c.mu.Unlock()
			return 0, ErrNotWanted
		case s.recv.ended:
			c.mu.Unlock()
			return 0, io.EOF
		case s.err != nil:
			err := s.err
			c.mu.Unlock()
			return 0, err
		}
		s.recv.ready.Wait()
	}
	n := copy(p, s.recv.data[s.recv.read:])
	s.recv.read += n
	if s.recv.read == len(s.recv.data) {
		if s.recv.read = 0; cap(s.recv.data) > 64<<10 {
			s.recv.data = nil
		}
		s.recv.data = s.recv.data[:0]
	}
	push := c.addCredit(n)
	if s.recv.unread += n; s.recv.unread >= streamWindow/4 && !s.recv.ended && s.err == nil {
		c.out.addWindow(s.id, s.recv.unread)
		s.recv.window += s.recv.unread
		s.recv.unread = 0
		push = true
	}
	var err error
	if s.recv.ended && len(s.recv.data) == 0 {
		err = io.EOF
	}
	c.mu.Unlock()
	if push {
		c.flush()
	}
	return n, err
}

// Buffered implements [message.Body].
func (s *Stream) Buffered() int {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.recv.ended {
		return len(s.recv.data) - s.recv.read + 1 // the end can be read as well
	}
	return len(s.recv.data) - s.recv.read
}

// Whole implements [message.Body].
func (s *Stream) Whole() bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.recv.ended
}

// Trailer implements [message.Body].
func (s *Stream) Trailer() message.Fields {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.recv.tail
}

// Respond sends the head of an answer; with end there is nothing more. It is
// written with the next Flush, or with what somebody else writes.
func (s *Stream) Respond(resp *message.Response, end bool) error {
	block := h2.AppendStatus(make([]byte, 0, 256), resp.Status)
	if resp.Status >= 200 && resp.Status != 204 && resp.Length >= 0 {
		block = appendLength(block, resp.Length)
	}
	return s.sendHead(appendFields(block, resp.Fields), end && resp.Status >= 200, resp.Status >= 200)
}

// sendHead queues a header block.
func (s *Stream) sendHead(block []byte, end, final bool) error {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.send.err != nil {
		return s.send.err
	}
	c.addHeaders(s.id, block, end)
	s.send.headSent = s.send.headSent || final
	if end {
		s.endSend()
	}
	return nil
}

// endSend notes that we have said all. The caller holds mu.
func (s *Stream) endSend() {
	s.send.ended = true
	if s.recv.ended {
		s.c.remove(s)
	}
}

// Write sends a part of the body; with end there is nothing more. It waits while
// the peer's windows are full. It is written with the next Flush.
func (s *Stream) Write(p []byte, end bool) error {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if err := s.send.err; err != nil {
			return err
		}
		if c.out.err != nil {
			return c.out.err
		}
		n := min(len(p), s.send.window, c.peer.send, c.peer.frame)
		if len(p) > 0 && n <= 0 || len(c.out.frames) > maxQueued {
			c.mu.Unlock()
			c.flush()
			c.mu.Lock()
			if len(p) > 0 && min(s.send.window, c.peer.send) <= 0 && s.send.err == nil {
				s.send.ready.Wait()
			} else if len(c.out.frames) > maxQueued && c.out.writing && c.out.err == nil {
				c.out.room.Wait()
			}
			continue
		}
		last := end && n == len(p)
		flags := http2.Flags(0)
		if last {
			flags = http2.FlagDataEndStream
		}
		if n > 0 || last {
			c.out.add(http2.FrameData, flags, s.id, p[:n])
		}
		s.send.window -= n
		c.peer.send -= n
		if p = p[n:]; len(p) == 0 {
			if last {
				s.endSend()
			}
			return nil
		}
	}
}

// Room is how many bytes of want Write takes now without waiting. What others write on
// the connection may take it.
func (s *Stream) Room(want int) int {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if len(s.c.out.frames) > maxQueued {
		return 0
	}
	return max(0, min(want, s.send.window, s.c.peer.send))
}

// Trailers sends trailers, which end our side.
func (s *Stream) Trailers(tail message.Fields) error {
	return s.sendHead(appendFields(nil, tail), true, true)
}

// Flush writes what was queued.
func (s *Stream) Flush() { s.c.flush() }

// appendLength encodes a Content-Length.
func appendLength(p []byte, n int64) []byte {
	var digits [20]byte
	i := len(digits)
	for {
		i--
		digits[i] = '0' + byte(n%10)
		if n /= 10; n == 0 {
			return h2.AppendField(p, "content-length", string(digits[i:]))
		}
	}
}

// appendFields encodes fields, with names in lower case.
func appendFields(p []byte, fields message.Fields) []byte {
	for i := range fields {
		p = h2.AppendField(p, lowerName(fields[i].Name), fields[i].Value)
	}
	return p
}

// ErrNotWanted is why a body is read no further: nobody wants the rest.
var ErrNotWanted = errors.New("the rest of the body is not wanted")

// StopReading makes Read fail, now and later; what still comes is thrown away.
func (s *Stream) StopReading() {
	s.c.mu.Lock()
	s.dropLocked()
	s.recv.stopped = true
	s.recv.ready.Broadcast()
	s.c.mu.Unlock()
	s.c.flush()
}

// Break ends the stream so that the peer does not take the answer for complete.
func (s *Stream) Break() { s.Reset(http2.ErrCodeInternal) }
