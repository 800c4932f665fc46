package http2

import (
	"context"
	"net"
	"strings"
	"time"

	"golang.org/x/net/http2"

	"github.com/ambit-mesh/ambit/internal/h2"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

// NewClient makes the side of c that asks. Its Serve must run for requests to
// get answers.
func NewClient(c net.Conn) *Conn { return newConn(c, nil) }

// Reserve takes a place for a request, which Open or Unreserve gives back. ok is
// false when the connection takes no more, now or ever. most bounds how many
// requests are open at once, beside what the peer allows.
func (c *Conn) Reserve(most int) (ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil || c.goAway || c.leaving || c.slots >= min(most, c.peer.streams) || c.nextID > 1<<31-3 {
		return false
	}
	c.slots++
	return true
}

// Unreserve gives a place back that was not used.
func (c *Conn) Unreserve() {
	c.mu.Lock()
	c.slots--
	c.noteQuiet()
	c.mu.Unlock()
	c.closeIfOver()
}

// Usable reports whether a place may become free: the connection stands, and
// nobody has said goodbye.
func (c *Conn) Usable() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err == nil && !c.goAway && !c.leaving
}

// IdleSince is since when the connection has nothing to do; ok is false while it
// has.
func (c *Conn) IdleSince() (t time.Time, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.idle, c.slots == 0
}

// Open asks for something, on a place that the caller has reserved. With end the
// request has no body. It is written with the next Flush.
func (c *Conn) Open(req *message.Request, end bool) (*Stream, error) {
	block := make([]byte, 0, 512)
	block = h2.AppendIndexed(block, h2.StaticMethod, req.Method)
	scheme := req.Scheme
	if scheme == "" {
		scheme = "http"
	}
	block = h2.AppendIndexed(block, h2.StaticScheme, scheme)
	block = h2.AppendIndexed(block, h2.StaticAuthority, req.Authority)
	block = h2.AppendIndexed(block, h2.StaticPath, req.Target.String())
	if req.Length > 0 || req.Length == 0 && (req.Method == "POST" || req.Method == "PUT" || req.Method == "PATCH") {
		block = appendLength(block, req.Length)
	}
	block = appendFields(block, req.Fields)
	if req.Trailers {
		block = h2.AppendField(block, "te", "trailers")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil || c.goAway || c.leaving {
		c.slots--
		return nil, &StreamError{Code: http2.ErrCodeRefusedStream, Unprocessed: true}
	}
	s := c.newStream(c.nextID)
	c.nextID += 2
	s.method = req.Method
	s.send.headSent = true
	c.streams[s.id] = s
	c.addHeaders(s.id, block, end)
	if end {
		s.endSend()
	}
	return s, nil
}

// Response waits for the next answer: informational ones, then the final one.
// When ctx ends first, its cause is returned and the stream is still open.
func (s *Stream) Response(ctx context.Context) (*message.Response, error) {
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, func() {
			s.c.mu.Lock()
			s.recv.ready.Broadcast()
			s.c.mu.Unlock()
		})
		defer stop()
	}
	return s.answer(func() error { return context.Cause(ctx) })
}

// Answer is Response for who calls Reset when it has waited long enough.
func (s *Stream) Answer() (*message.Response, error) {
	return s.answer(func() error { return nil })
}

// answer waits for the next answer, or until over says why it need not.
func (s *Stream) answer(over func() error) (*message.Response, error) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	for len(s.answers) == 0 {
		if s.err != nil {
			return nil, s.err
		}
		if err := over(); err != nil {
			return nil, err
		}
		s.recv.ready.Wait()
	}
	resp := s.answers[0]
	s.answers = s.answers[1:]
	return resp, nil
}

// lowerName is a field's name in lower case.
func lowerName(name string) string {
	for i := range len(name) {
		if 'A' <= name[i] && name[i] <= 'Z' {
			return strings.ToLower(name)
		}
	}
	return name
}
