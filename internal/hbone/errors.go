package hbone

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/net/http2"
)

// Sentinel errors.
var (
	// ErrDraining is why no new stream may start: the pool is closed, or the
	// server has begun to drain.
	ErrDraining = errors.New("no new streams: shutting down")
	// ErrOpenTimeout is why Open gave up: the peer did not answer the CONNECT.
	ErrOpenTimeout = errors.New("the peer did not answer the CONNECT in time")
	// ErrPingTimeout is why a connection ended: a PING had no answer.
	ErrPingTimeout = errors.New("the peer did not answer a PING in time")
	// ErrIdle is why a connection ended: nobody used it.
	ErrIdle = errors.New("connection unused")
	// ErrDrainTimeout is why streams were cut: the time to drain was over.
	ErrDrainTimeout = errors.New("streams did not end within the drain timeout")
	// ErrHandshakeTimeout is why a connection ended before it carried anything.
	ErrHandshakeTimeout = errors.New("handshake took too long")
	// ErrConnLost is why a stream ended when the peer closed the connection.
	ErrConnLost = errors.New("tunnel connection lost")
	// errHandled means that Accept or Refuse was called twice.
	errHandled = errors.New("the request was answered before")
	// errNoStreams means that the peer's SETTINGS allow none.
	errNoStreams = errors.New("the peer allows no streams")
	// errNotH2 means that the peer does not speak HTTP/2.
	errNotH2 = errors.New("the peer did not agree to ALPN h2")
)

// RefusedError is an answer other than 200.
type RefusedError struct {
	Status int
	Header Header
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("the peer refused the CONNECT with status %d", e.Status)
}

// DialStage is how far a new connection came.
type DialStage string

// The stages of a new connection, in their order.
const (
	StageDial DialStage = "dial" // TCP
	StageTLS  DialStage = "tls"  // certificate and handshake
	StageH2   DialStage = "h2"   // HTTP/2 SETTINGS of the peer
)

// DialError is why there is no connection to the peer.
type DialError struct {
	Stage DialStage
	Err   error
}

func (e *DialError) Error() string { return string(e.Stage) + ": " + e.Err.Error() }

// Unwrap makes errors.Is and errors.As see the cause.
func (e *DialError) Unwrap() error { return e.Err }

// ResetError is a RST_STREAM: by the peer, or by us when Local is set.
type ResetError struct {
	Code  http2.ErrCode
	Local bool
}

func (e *ResetError) Error() string {
	if e.Local {
		return fmt.Sprintf("stream reset (%v)", e.Code)
	}
	return fmt.Sprintf("stream reset by the peer (%v)", e.Code)
}

// Is makes a reset stream look like a reset TCP connection.
func (e *ResetError) Is(target error) bool { return target == syscall.ECONNRESET }

// GoAwayError is a GOAWAY of the peer. Unprocessed streams were never looked at.
type GoAwayError struct {
	Code        http2.ErrCode
	Debug       string // at most 256 bytes of what the peer said
	Unprocessed bool
}

func (e *GoAwayError) Error() string {
	if e.Debug == "" {
		return fmt.Sprintf("the peer said GOAWAY (%v)", e.Code)
	}
	return fmt.Sprintf("the peer said GOAWAY (%v): %q", e.Code, e.Debug)
}

// ConnError is why we ended a connection: the peer broke the protocol or a
// limit. Limit is empty when no limit was hit.
type ConnError struct {
	Code  http2.ErrCode
	Limit Limit
	Why   string
}

func (e *ConnError) Error() string {
	return fmt.Sprintf("connection ended (%v): %s", e.Code, e.Why)
}

// lostError wraps why a connection went away, for the streams it carried.
type lostError struct{ err error }

func (e *lostError) Error() string { return ErrConnLost.Error() + ": " + e.err.Error() }

func (e *lostError) Unwrap() []error { return []error{ErrConnLost, e.err} }

// Retryable reports whether a request that got err from [Pool.Open] may be
// tried again on another connection or with another endpoint: no peer has
// said no, and no byte of the application was sent. It is false when the
// caller's own context ended, for a status other than 503, and for a peer that
// is not who it should be.
func Retryable(err error) bool {
	var refused *RefusedError
	var goAway *GoAwayError
	var reset *ResetError
	var dial *DialError
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.Is(err, ErrDraining):
		return false
	case errors.As(err, &refused):
		return refused.Status == 503
	case errors.As(err, &dial):
		return dial.Stage == StageDial || transient(dial.Err)
	case errors.As(err, &reset):
		return !reset.Local && reset.Code == http2.ErrCodeRefusedStream
	case errors.As(err, &goAway):
		return true
	}
	return errors.Is(err, ErrOpenTimeout) || errors.Is(err, ErrConnLost)
}

// transient reports whether err is about the way to the peer rather than about
// who the peer or we are. An alert of the peer ("remote error") and a failed
// verification are not transient.
func transient(err error) bool {
	var alert *net.OpError
	if errors.As(err, &alert) && alert.Op == "remote error" {
		return false
	}
	for _, t := range []error{
		io.EOF, io.ErrUnexpectedEOF, os.ErrDeadlineExceeded, context.DeadlineExceeded, net.ErrClosed,
		syscall.ECONNRESET, syscall.EPIPE, syscall.ETIMEDOUT, ErrHandshakeTimeout, ErrConnLost,
	} {
		if errors.Is(err, t) {
			return true
		}
	}
	var goAway *GoAwayError
	return errors.As(err, &goAway)
}

// OfTunnel reports whether err is about the tunnel: a reset or GOAWAY of the
// peer, or the loss of the connection, rather than about the application's side
// or a cut of our own.
func OfTunnel(err error) bool {
	if _, ok := errors.AsType[*ResetError](err); ok {
		return true
	}
	if _, ok := errors.AsType[*GoAwayError](err); ok {
		return true
	}
	_, ok := errors.AsType[*ConnError](err)
	return ok || errors.Is(err, ErrPingTimeout) || errors.Is(err, ErrConnLost)
}
