package entry

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/ambit-mesh/ambit/waypoint/http1"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

// Carries is what a port carries.
type Carries uint8

const (
	Unknown Carries = iota // to be found out
	HTTP                   // HTTP/1.1 or HTTP/2, told apart by the preface
	Bytes                  // anything else: nothing is read into it
)

// Exchange is one request and the way to answer it. One goroutine answers while
// another may read the request's body.
type Exchange interface {
	// Request is what is asked for. Its body is read by one goroutine.
	Request() *message.Request
	// Respond sends the head of an answer: informational ones, then the final
	// one. With end there is no body.
	Respond(resp *message.Response, end bool) error
	// Body sends a part of the body.
	Body(p []byte) error
	// End ends the body.
	End(tail message.Fields) error
	// Flush sends what was gathered.
	Flush() error
	// StopReading makes reads of the request's body fail, now and later.
	StopReading()
	// Interrupt makes everything fail, and the client not take what it got for complete.
	// Any goroutine may call it, until Request has returned.
	Interrupt()
	// Hijack gives the connection to who has changed its protocol by a 101. nil
	// means that it cannot.
	Hijack() Raw
}

// Handlers are called for what streams carry.
type Handlers struct {
	// Request answers a request. It returns false when the answer is not complete
	// and cannot be: the client must not take it for one. ctx ends when the client
	// is gone: it has broken off, or, in HTTP/1.1, has ended its side although it waits
	// for an answer. Servers and proxies of the ecosystem take that for the same.
	Request func(ctx context.Context, x Exchange) (complete bool)
	// Refused is told of a request that is no good, which is answered by us. req
	// is what of it could be read.
	Refused func(ctx context.Context, why *message.Error)
	// Bytes serves a stream that is not HTTP.
	Bytes func(ctx context.Context, c Raw)
	// Farewell says when connections should end after what is under way.
	Farewell *Farewell
}

// sniffTime is how long we wait for the first bytes of a stream of which nobody
// says what it carries. Who waits for the server to speak first waits so long:
// name the port tcp-..., and nobody waits. Our choice.
const sniffTime = time.Second

// Serve serves one stream until it ends. ctx ends when the stream is lost.
func Serve(ctx context.Context, c Raw, what Carries, h Handlers) {
	if what == Bytes {
		h.Bytes(ctx, c)
		return
	}
	r := http1.NewReader(c)
	defer r.Release()
	found, err := look(r, c, what)
	switch {
	case err != nil && r.Buffered() == 0 && (errors.Is(err, io.EOF) || !timedOut(err)):
		c.Close()
	case found == isHTTP2:
		serveHTTP2(ctx, c, r.Take(), h)
	case found == isHTTP1 || what == HTTP:
		serveHTTP1(ctx, c, r, h)
	default:
		first := append([]byte(nil), r.Take()...)
		r.Release()
		h.Bytes(ctx, &Early{Raw: c, First: first})
	}
}

// look reads until it is clear what the stream carries. An error says that no
// more came; what came decides then.
func look(r *http1.Reader, c Raw, what Carries) (guess, error) {
	if what == Unknown {
		c.SetReadDeadline(time.Now().Add(sniffTime))
		defer c.SetReadDeadline(time.Time{})
	}
	if err := r.Idle(); err != nil {
		r.Forgive()
		return isBytes, err
	}
	for {
		found := sniff(r.Peek())
		if found != unsure && (what == Unknown || found != isBytes) {
			return found, nil
		}
		if what == HTTP && found == isBytes {
			return isHTTP1, nil // and it will be refused as one
		}
		if err := r.More(); err != nil {
			r.Forgive()
			return isBytes, err
		}
	}
}

// timedOut reports whether a deadline has passed.
func timedOut(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
