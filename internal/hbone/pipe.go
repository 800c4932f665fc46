package hbone

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/http2"
)

// AppError is an error of the application's socket in [Stream.Pipe].
type AppError struct {
	Op  string // "read" or "write"
	Err error
}

func (e *AppError) Error() string { return fmt.Sprintf("%s application: %v", e.Op, e.Err) }

// Unwrap makes errors.Is and errors.As see the cause.
func (e *AppError) Unwrap() error { return e.Err }

// pipe joins a stream and an application's socket. The goroutine in run reads
// the socket; the connection's reader, or a helper of the stream, writes it.
type pipe struct {
	// Set by newPipe, then only read.
	s              *Stream
	app            *net.TCPConn
	raw            syscall.RawConn
	sent, received *atomic.Uint64

	// Owned by run.
	class   int
	err     error // of read; io.EOF is errEnded
	sendErr error // of the tunnel
	told    bool  // the end has gone with the last data
	readFn  func(fd uintptr) bool
	waitFn  func(fd uintptr) bool
	helpFn  func() // of s; made once, since helpers come and go

	// Owned by the one who writes: the reader, unless a helper is at it.
	out     []byte
	outErr  error
	writeFn func(fd uintptr) bool

	// Guarded by s.mu.
	lingering   bool // run waits for the other direction
	stopReading bool // the peer wants no more
	writeErr    error
	aborted     bool
}

// errEnded means that the application has ended its direction.
var errEnded = errors.New("the application has ended its direction")

// longAgo is a deadline that wakes who waits for a socket.
var longAgo = time.Unix(1, 0)

// Pipe carries bytes both ways between app and the tunnel until both
// directions have ended, and closes both. sent counts what app gave and
// received what it took.
//
// A direction that ends is ended on the other side, and the other direction
// goes on. A reset on one side is a reset on the other. When ctx ends both
// sides are reset and Pipe returns its cause. Source: RFC 9113, section 8.5.
//
// Errors: an [*AppError] for app's side; a [*ResetError] or why the connection
// was lost for the tunnel's.
func (s *Stream) Pipe(ctx context.Context, app *net.TCPConn, sent, received *atomic.Uint64) error {
	defer s.release()
	defer app.Close()
	raw, err := app.SyscallConn()
	if err != nil {
		s.Reset()
		return &AppError{Op: "read", Err: err}
	}
	p := &pipe{s: s, app: app, raw: raw, sent: sent, received: received, class: record}
	p.readFn, p.writeFn, p.waitFn, p.helpFn = p.readAll, p.writeSome, p.waitSome, s.help
	stop := context.AfterFunc(ctx, func() { s.abort(http2.ErrCodeCancel, context.Cause(ctx)) })
	defer stop()
	if err := s.attach(p); err != nil {
		return err
	}
	return p.run()
}

// attach lets the stream deliver to p from now on, beginning with the backlog.
func (s *Stream) attach(p *pipe) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pipe = p
	if s.err != nil {
		p.abort()
		return s.err
	}
	s.startHelper()
	if len(s.backlog) > 0 && !s.helping {
		p.abort()
		return ErrDraining
	}
	s.finishReceive()
	s.c.mu.Lock()
	p.stopReading = s.sending.soft
	s.c.mu.Unlock()
	return nil
}

// run copies from the application to the tunnel, then waits for the other
// direction.
func (p *pipe) run() error {
	err := p.upload()
	if err == errEnded {
		err = p.linger()
	}
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	// A helper has yet to count what it has just written. It does not wait any more for
	// a socket that is closed, nor when all is written.
	for p.s.helping && (p.aborted || p.s.recvOver) {
		p.s.readable.Wait()
	}
	if p.s.err != nil && p.s.err != net.ErrClosed {
		return p.s.err
	}
	return err
}

// upload copies from the application to the tunnel. It returns errEnded when
// the application has ended its direction and the tunnel knows.
func (p *pipe) upload() error {
	if err := p.raw.Read(p.readFn); err != nil {
		return p.readFailed(err)
	}
	switch {
	case p.sendErr != nil:
		return p.sendFailed(p.sendErr)
	case p.err != errEnded:
		return p.readFailed(p.err)
	case p.told:
		return errEnded
	}
	return p.endUpload()
}

// readAll copies what the application has said. False means that it has said
// no more yet: then nothing is held, and the poller, which has not been asked
// in between, knows when there is more.
func (p *pipe) readAll(fd uintptr) (over bool) {
	s := p.s
	for {
		want := classPayload[p.class]
		if p.sendErr = s.waitSend(want); p.sendErr != nil {
			return true
		}
		grant := s.reserve(want)
		if grant == 0 {
			continue
		}
		b := grab(s.c.cfg.budget, classFor(grant))
		room := b.b[frameHead:min(len(b.b), frameHead+grant)]
		n, more, err := readShort(fd, room)
		if n == 0 {
			b.free()
			s.refund(grant)
		} else {
			p.class = adapt(b.class, n, record, huge)
			p.sent.Add(uint64(n))
			p.told = err == errEnded && p.failure() == nil
			if p.sendErr = s.commit(b, n, grant, p.told); p.sendErr != nil {
				return true
			}
		}
		if p.err = err; err != nil || !more {
			return err != nil
		}
	}
}

// readShort reads from the application, and once more when that gave less than
// it might: most often nothing is left, but an end that follows its data closely
// then goes with it. More says that there may be more; err is errEnded at the end.
func readShort(fd uintptr, p []byte) (n int, more bool, err error) {
	for range 2 {
		k, err := readFD(fd, p[n:])
		n += k
		switch {
		case n == len(p):
			return n, true, nil
		case err == syscall.EAGAIN:
			return n, false, nil
		case err != nil:
			return n, false, err
		case k == 0:
			return n, false, errEnded
		}
	}
	return n, true, nil
}

// endUpload passes the application's end on, or its reset if we know of one.
func (p *pipe) endUpload() error {
	if err := p.failure(); err != nil {
		p.s.abort(http2.ErrCodeConnect, err)
		return err
	}
	if err := p.s.CloseWrite(); err != nil {
		return p.sendFailed(err)
	}
	return errEnded
}

// failure is why the application takes nothing any more, nil if it does.
func (p *pipe) failure() error {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	if p.writeErr == nil {
		return nil
	}
	return &AppError{Op: "write", Err: p.writeErr}
}

// sendFailed ends upload when the tunnel takes no more. If the peer only wants
// no more, the other direction goes on.
func (p *pipe) sendFailed(err error) error {
	p.s.c.mu.Lock()
	soft := p.s.sending.soft
	p.s.c.mu.Unlock()
	if soft {
		return errEnded
	}
	p.s.abort(http2.ErrCodeCancel, err) // the reader, which would do so too, may not know yet
	return err
}

// readFailed ends upload when the application cannot be read.
func (p *pipe) readFailed(err error) error {
	p.s.mu.Lock()
	stopped, aborted := p.stopReading, p.aborted
	p.s.mu.Unlock()
	if aborted {
		return net.ErrClosed // run knows better
	}
	if stopped && errors.Is(err, os.ErrDeadlineExceeded) {
		return errEnded
	}
	aerr := &AppError{Op: "read", Err: err}
	p.s.abort(http2.ErrCodeConnect, aerr)
	return aerr
}

// linger waits until the application has got all, and watches for its reset
// meanwhile.
func (p *pipe) linger() error {
	s := p.s
	s.mu.Lock()
	over := s.recvOver
	p.lingering = true
	if !over {
		p.app.SetReadDeadline(time.Time{})
	}
	s.mu.Unlock()
	if !over {
		p.err = nil
		err := p.raw.Read(p.waitFn)
		if err == nil && p.err != nil {
			return p.readFailed(p.err)
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return p.readFailed(err)
		}
	}
	if err := p.failure(); err != nil {
		s.abort(http2.ErrCodeConnect, err)
		return err
	}
	return nil
}

// waitSome returns true when the application's socket has an error. At its end
// a read gives 0 at once and the poller wakes us for errors only.
func (p *pipe) waitSome(fd uintptr) bool {
	var one [1]byte
	_, err := readFD(fd, one[:])
	if err == nil || err == syscall.EAGAIN {
		return false
	}
	p.err = err
	return true
}

// wakeLocked wakes run when it need not wait any longer. The caller holds s.mu.
func (p *pipe) wakeLocked() {
	if p.s.recvOver && (p.lingering || p.stopReading) {
		p.app.SetReadDeadline(longAgo)
	}
}

// abort resets the application. The caller holds s.mu.
func (p *pipe) abort() {
	if p.aborted {
		return
	}
	p.aborted = true
	p.app.SetLinger(0)
	p.app.Close()
}

// endWrite passes the peer's end on to the application.
func (p *pipe) endWrite() { p.app.CloseWrite() }

// writeNow writes what the socket takes at once.
func (p *pipe) writeNow(b []byte) (int, error) {
	p.out, p.outErr = b, nil
	err := p.raw.Write(p.writeFn)
	n := len(b) - len(p.out)
	p.out = nil
	p.received.Add(uint64(n))
	if err == nil {
		err = p.outErr
	}
	return n, err
}

// writeSome writes once. It never makes the caller wait.
func (p *pipe) writeSome(fd uintptr) bool {
	n, err := writeFD(fd, p.out)
	p.out = p.out[n:]
	if err != nil && err != syscall.EAGAIN {
		p.outErr = err
	}
	return true
}

// writeAll writes b, waiting for the socket.
func (p *pipe) writeAll(b []byte) (int, error) {
	n, err := p.app.Write(b)
	p.received.Add(uint64(n))
	return n, err
}
