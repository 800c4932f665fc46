package hbone

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// An answer that comes when nobody waits for it any more keeps nobody waiting: it is
// the reader of all streams that takes it.
func TestAnswerThatComesTooLate(t *testing.T) {
	c := newConnForTest(t)
	c.mu.Lock()
	s := c.newStream(1)
	s.opened = make(chan error, 1)
	c.streams[1] = s
	c.mu.Unlock()
	s.lose(ErrOpenTimeout) // while the reader has found the stream
	taken := make(chan bool, 1)
	go func() { taken <- s.takeAnswer(nil) }()
	select {
	case ok := <-taken:
		if ok || s.answered {
			t.Error("a stream that was given up counts as accepted")
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the reader waits for who has left")
	}
}

// Nothing follows the end of a direction, also when a goroutine was about to send: peers
// end the whole connection for it.
func TestNothingFollowsTheEnd(t *testing.T) {
	c := newConnForTest(t)
	c.send.busy = true // nobody writes, so that the queue can be looked at
	c.mu.Lock()
	s := c.newStream(1)
	s.answered = true
	c.streams[1] = s
	c.mu.Unlock()
	window := c.send.window
	granted := s.reserve(100)
	if err := s.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := s.commit(grab(c.cfg.budget, record), 100, granted, false); !errors.Is(err, net.ErrClosed) {
		t.Errorf("commit = %v, want %v", err, net.ErrClosed)
	}
	if got := c.send.queued; got != frameHead {
		t.Errorf("%d bytes are queued, want the %d of the end", got, frameHead)
	}
	if c.send.window != window || c.send.reserved != 0 {
		t.Errorf("window = %d of %d, %d reserved: what was not sent is not given back", c.send.window, window, c.send.reserved)
	}
	c.send.stop(io.EOF)
}

// The end of a stream comes once.
func TestEndTwice(t *testing.T) {
	told := make(chan struct{}, 2)
	reset := make(chan error, 1)
	n := newNode(t, nodeConfig{server: ServerConfig{Handle: func(ctx context.Context, in *Incoming) {
		s, err := in.Accept(nil)
		if err != nil {
			return
		}
		s.OnEnd(func() { told <- struct{}{} })
		<-ctx.Done()
		reset <- context.Cause(ctx)
	}}})
	a := newAttacker(t, n)
	a.open()
	for range 2 {
		a.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: nil, EndHeaders: true, EndStream: true})
	}
	a.flush()
	var re *ResetError
	if err := <-reset; !errors.As(err, &re) || re.Code != http2.ErrCodeStreamClosed {
		t.Errorf("the stream ended with %v, want %v", err, http2.ErrCodeStreamClosed)
	}
	if len(told) != 1 {
		t.Errorf("told %d times of the end, want once", len(told))
	}
}

// A request that is taken back before its answer ends for who works on it, also when its
// client has nothing more to say.
func TestRequestTakenBack(t *testing.T) {
	began, ended := make(chan struct{}), make(chan error, 1)
	n := newNode(t, nodeConfig{server: ServerConfig{Handle: func(ctx context.Context, _ *Incoming) {
		close(began)
		select {
		case <-ctx.Done():
			ended <- context.Cause(ctx)
		case <-time.After(5 * time.Second):
			ended <- nil
		}
	}}})
	a := newAttacker(t, n)
	a.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: a.block(), EndHeaders: true, EndStream: true})
	a.flush()
	<-began
	a.fr.WriteRSTStream(1, http2.ErrCodeCancel)
	a.flush()
	if _, ok := errors.AsType[*ResetError](<-ended); !ok {
		t.Error("the handler goes on for a client that has left")
	}
}

// Requests that end at once and are then reset count like any others: each has made the
// handler begin. They need not come so fast that handlers pile up.
func TestRapidResetOfRequestsThatHaveEnded(t *testing.T) {
	c := newConnForTest(t)
	var err error
	resets := 0
	for ; err == nil && resets < 2*rapidResetRate.burst; resets++ {
		id := uint32(2*resets + 1)
		c.mu.Lock()
		s := c.newStream(id)
		s.recving.ended, s.recving.done, s.end = true, true, true
		c.streams[id] = s
		c.mu.Unlock()
		err = c.onReset(frameHeader{stream: id}, []byte{0, 0, 0, byte(http2.ErrCodeCancel)})
		s.release()
	}
	if ce, ok := errors.AsType[*ConnError](err); !ok || ce.Limit != LimitRapidReset || resets != rapidResetRate.burst+1 {
		t.Errorf("after %d resets: %v, want the limit %s after %d", resets, err, LimitRapidReset, rapidResetRate.burst+1)
	}
}
