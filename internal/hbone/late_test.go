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
