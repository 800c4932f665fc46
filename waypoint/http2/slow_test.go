package http2

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/waypoint/message"
)

// patience bounds the waits of these tests.
const patience = 10 * time.Second

// inTime waits for a function that must not wait for its peer.
func inTime(t *testing.T, what string, fn func()) {
	t.Helper()
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { defer close(done); fn() })
	select {
	case <-done:
		wg.Wait()
	case <-time.After(patience):
		t.Fatalf("%s: it waits", what)
	}
}

// us are two of our own sides of a connection.
func us(t *testing.T, a, b net.Conn, handle func(*Stream)) *Conn {
	serve(t, b, handle)
	c := NewClient(a)
	var wg sync.WaitGroup
	wg.Go(func() { c.Serve(nil) })
	t.Cleanup(func() { c.Close(); wg.Wait() })
	return c
}

// ask asks for something.
func ask(t *testing.T, c *Conn, path string) *Stream {
	t.Helper()
	if !c.Reserve(SharedRequests) {
		t.Fatal("the connection takes no request")
	}
	req := &message.Request{Method: "GET", Authority: "a", Target: message.Target{Path: path}}
	s, err := c.Open(req, true)
	if err != nil {
		t.Fatal(err)
	}
	s.Flush()
	return s
}

// Answers that nobody reads keep no other one back, as many as there may be.
func TestUnreadAnswersStopNobody(t *testing.T) {
	a, b := pair(t)
	large := make([]byte, 2*streamWindow)
	c := us(t, a, b, func(s *Stream) {
		s.Respond(&message.Response{Status: 200, Length: message.Unknown}, false)
		if s.Request().Path == "/large" {
			s.Write(large, true) // until the client leaves
		} else {
			s.Write([]byte("hello"), true)
		}
		s.Flush()
	})
	for range 20 {
		s := ask(t, c, "/large")
		if _, err := s.Response(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer s.Reset(0)
	}
	s := ask(t, c, "/")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	resp, err := s.Response(ctx)
	if err != nil {
		t.Fatal(err)
	}
	inTime(t, "an answer beside those that nobody reads", func() {
		if got, err := io.ReadAll(body{resp.Body}); err != nil || string(got) != "hello" {
			t.Errorf("%q, %v", got, err)
		}
	})
}

// body makes a reader of a message's body.
type body struct{ message.Body }

// stuck is a connection whose peer takes no more, as it looks to who writes.
type stuck struct {
	net.Conn
	free chan struct{} // closed: it goes on
}

func (s *stuck) Write(p []byte) (int, error) {
	<-s.free
	return s.Conn.Write(p)
}

// A peer that does not read keeps nobody who comes by from ending a request: neither
// who sends, nor who wants to, nor who reads.
func TestPeerThatDoesNotRead(t *testing.T) {
	a, b := pair(t)
	arrived := make(chan *Stream, 3)
	serve(t, b, func(s *Stream) {
		arrived <- s
		io.Copy(io.Discard, body{s.Request().Body})
	})
	slow := &stuck{Conn: a, free: make(chan struct{})}
	c := NewClient(slow)
	var wg sync.WaitGroup
	wg.Go(func() { c.Serve(nil) })
	t.Cleanup(func() { c.Close(); wg.Wait() })
	t.Cleanup(func() { close(slow.free) })
	open := func() *Stream {
		if !c.Reserve(SharedRequests) {
			t.Fatal("the connection takes no request")
		}
		s, err := c.Open(&message.Request{Method: "POST", Authority: "a", Target: message.Target{Path: "/"}, Length: message.Unknown}, false)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first, second := open(), open()
	inTime(t, "flush", func() { first.Flush() })
	// The windows are 64 KiB each until the peer has been heard.
	c.mu.Lock()
	c.peer.send = 8 * maxQueued
	second.send.window = 8 * maxQueued
	c.mu.Unlock()
	ended := make(chan error, 1)
	wg.Go(func() {
		var err error
		for err == nil {
			err = second.Write(make([]byte, 16<<10), false)
		}
		ended <- err
	})
	for queued := 0; queued <= maxQueued; {
		c.mu.Lock()
		queued = len(c.out.frames)
		c.mu.Unlock()
	}
	inTime(t, "reset", func() { second.Reset(8); first.Reset(8) })
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatal("who waits for room is not told that its stream has ended")
	}
}
