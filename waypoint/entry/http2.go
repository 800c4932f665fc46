package entry

import (
	"context"
	"errors"

	"github.com/ambit-mesh/ambit/waypoint/http2"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

// two is a request of HTTP/2 and its answer.
type two struct{ s *http2.Stream }

// serveHTTP2 answers requests until the connection ends.
func serveHTTP2(ctx context.Context, c Raw, initial []byte, h Handlers) {
	conn := http2.NewServer(c, func(s *http2.Stream) {
		ctx, cancel := s.Context(ctx)
		defer cancel(nil)
		if !h.Request(ctx, two{s}) {
			s.Break()
		}
	})
	stop := context.AfterFunc(ctx, conn.Close)
	defer stop()
	defer h.Farewell.add(conn.Drain)()
	err := conn.Serve(initial)
	if broken, ok := errors.AsType[*http2.ConnError](err); ok {
		h.Refused(ctx, message.Bad("%v", broken))
	}
}

// Request implements [Exchange].
func (x two) Request() *message.Request { return x.s.Request() }

// Respond implements [Exchange].
func (x two) Respond(resp *message.Response, end bool) error { return x.s.Respond(resp, end) }

// Body implements [Exchange].
func (x two) Body(p []byte) error { return x.s.Write(p, false) }

// End implements [Exchange].
func (x two) End(tail message.Fields) error {
	if len(tail) > 0 {
		return x.s.Trailers(tail)
	}
	return x.s.Write(nil, true)
}

// Flush implements [Exchange].
func (x two) Flush() error {
	x.s.Flush()
	return nil
}

// StopReading implements [Exchange].
func (x two) StopReading() { x.s.StopReading() }

// Interrupt implements [Exchange].
func (x two) Interrupt() { x.s.Break() }

// Hijack implements [Exchange].
func (x two) Hijack() Raw { return nil }
