package upstream

import (
	"context"
	"errors"
	"net"

	"github.com/ambit-mesh/ambit/waypoint/message"
)

// Exchange is one request on its way to an endpoint, and its answer. One
// goroutine sends while another receives.
type Exchange interface {
	// Send sends the head of the request. With end there is no body.
	Send(req *message.Request, end bool) error
	// Body sends a part of the body.
	Body(p []byte) error
	// End ends the body.
	End(tail message.Fields) error
	// Flush sends what was gathered.
	Flush() error
	// Room is how many bytes of want Body takes now, after Send, without waiting for the
	// endpoint. What other requests send may take it.
	Room(want int) int
	// Response waits for the next answer: informational ones, then the final one.
	// Interrupt ends the wait, which the caller sees to when ctx ends. The body of the final one is read from it.
	Response(ctx context.Context) (*message.Response, error)
	// Hijack gives the connection to who has changed its protocol. nil means that
	// it cannot.
	Hijack() net.Conn
	// Interrupt makes everything else fail. Any goroutine may call it.
	Interrupt()
	// Close ends the exchange. whole says that request and answer are complete, so
	// that the connection can be used again.
	Close(whole bool)
}

// Errors of getting a connection.
var (
	// ErrOverflow: a limit of the service's traffic settings is reached, or kept the
	// request waiting for too long.
	ErrOverflow = errors.New("limit of connections or requests is reached")
	// ErrReused: the endpoint closed a connection that was kept for it, before it
	// said anything to this request.
	ErrReused = errors.New("the endpoint had closed a kept connection")
	// ErrRefused: the endpoint has not looked at the request.
	ErrRefused = errors.New("the endpoint has not looked at the request")
)

// ConnectError is why no connection to an endpoint came about. Nothing of the
// request was sent.
type ConnectError struct {
	Endpoint string
	Err      error
}

func (e *ConnectError) Error() string { return "connect to " + e.Endpoint + ": " + e.Err.Error() }

// Unwrap makes errors.Is and errors.As see the cause.
func (e *ConnectError) Unwrap() error { return e.Err }
