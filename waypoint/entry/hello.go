package entry

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"
)

// Limits on what is read to learn which server TLS asks for. Our choice: messages
// with post-quantum keys are 2 KB.
const (
	helloBytes = 16 << 10
	helloTime  = 5 * time.Second
)

// Errors of reading the first message of TLS.
var (
	// ErrNoHello: the stream does not begin as TLS does.
	ErrNoHello = errors.New("the connection does not begin with a ClientHello of TLS")
	errHeard   = errors.New("heard")
	errTooLong = errors.New("the ClientHello is too long")
)

// ServerName reads the first message of TLS and finds the server name that it asks
// for, "" when it asks for none. The stream that it returns has still all bytes.
func ServerName(ctx context.Context, c Raw) (name string, rest Raw, err error) {
	c.SetReadDeadline(time.Now().Add(helloTime))
	defer c.SetReadDeadline(time.Time{})
	l := &listener{Raw: c}
	heard := false
	// crypto/tls reads the message, and is stopped before it does anything about it.
	err = tls.Server(l, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		name, heard = h.ServerName, true
		return nil, errHeard
	}}).HandshakeContext(ctx)
	rest = &Early{Raw: c, First: l.heard}
	switch {
	case heard:
		return name, rest, nil
	case errors.Is(err, errTooLong), timedOut(err), ctx.Err() != nil:
		return "", rest, err
	}
	return "", rest, ErrNoHello
}

// listener is a stream that keeps what is read and sends nothing.
type listener struct {
	Raw
	heard []byte
}

// Read keeps what it reads.
func (l *listener) Read(p []byte) (int, error) {
	left := helloBytes - len(l.heard)
	if left == 0 {
		return 0, errTooLong
	}
	n, err := l.Raw.Read(p[:min(len(p), left)])
	l.heard = append(l.heard, p[:n]...)
	return n, err
}

// Write drops the alert by which crypto/tls says goodbye.
func (l *listener) Write(p []byte) (int, error) { return len(p), nil }

// Close leaves the stream open.
func (l *listener) Close() error { return nil }

// SetDeadline leaves the stream's deadlines as they are.
func (l *listener) SetDeadline(time.Time) error { return nil }

// SetWriteDeadline leaves the stream's deadlines as they are.
func (l *listener) SetWriteDeadline(time.Time) error { return nil }

var _ net.Conn = (*listener)(nil)
