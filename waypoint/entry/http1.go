package entry

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ambit-mesh/ambit/waypoint/http1"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

// one is a request of HTTP/1.1 and its answer. It is used again for the next
// request of the connection.
type one struct {
	c       Raw
	r       *http1.Reader
	w       *http1.Writer
	req     message.Request
	ends    bool // the connection ends with this answer
	taken   bool // by who has changed the protocol
	stopped atomic.Bool
	bye     *Farewell

	leave context.CancelCauseFunc // of the connection's requests
	body  heardBody               // of req, if it has one

	mu      sync.Mutex
	waiting bool // for a request
	over    bool // no further one is wanted
	ended   bool // the client says nothing more
	heard   bool // all of the request, and nothing behind it
}

// errLeft is why a request ends whose client has ended its side.
var errLeft = errors.New("the client has closed the connection")

// ender is a stream that tells of its peer's end. *hbone.Stream is the real one.
type ender interface {
	OnEnd(fn func())
	Ended() bool
}

// serveHTTP1 answers requests until the connection ends.
func serveHTTP1(ctx context.Context, c Raw, r *http1.Reader, h Handlers) {
	x := &one{c: c, r: r, w: http1.NewWriter(c), bye: h.Farewell}
	ctx, x.leave = context.WithCancelCause(ctx)
	defer x.leave(nil)
	defer func() {
		if !x.taken {
			c.Close()
		}
	}()
	if e, ok := c.(ender); ok {
		e.OnEnd(x.onEnd)
	}
	defer h.Farewell.add(x.sayGoodbye)()
	for {
		if r.Buffered() == 0 {
			if !x.wait(true) || r.Idle() != nil {
				return
			}
			x.wait(false)
		}
		if err := r.ReadRequest(&x.req); err != nil {
			x.refuse(ctx, err, h)
			return
		}
		x.ends = !r.KeepsAlive()
		x.listen()
		complete := h.Request(ctx, x)
		x.hear(false)
		if !complete {
			Break(c)
			return
		}
		if x.taken {
			return
		}
		if x.ends || x.stopped.Load() || !x.finishBody() {
			x.linger()
			return
		}
	}
}

// listen begins to notice that the client leaves: its end comes behind all of the
// request. Who wants to change the protocol may end its side of what follows.
func (x *one) listen() {
	switch {
	case x.req.Upgrade != "":
	case x.req.Body != nil:
		x.body = heardBody{Body: x.req.Body, x: x}
		x.req.Body = &x.body
	default:
		x.hear(true)
	}
}

// hear notes whether the request has come to its end. What stands behind it is
// another request: then nobody has left.
func (x *one) hear(all bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.heard = all && x.r.Buffered() == 0
	x.leaveLocked()
}

// onEnd notes that the client says nothing more.
func (x *one) onEnd() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.ended = true
	x.leaveLocked()
}

// leaveLocked ends the request of a client that has gone. The caller holds x.mu.
func (x *one) leaveLocked() {
	if x.ended && x.heard && x.c.(ender).Ended() {
		x.leave(errLeft)
	}
}

// heardBody is the body of a request that tells when it has been read.
type heardBody struct {
	message.Body
	x *one
}

// Read implements [message.Body].
func (b *heardBody) Read(p []byte) (int, error) {
	n, err := b.Body.Read(p)
	if err == io.EOF {
		b.x.hear(true)
	}
	return n, err
}

// sayGoodbye ends a connection that waits for a request, unless one comes soon; one
// that is busy ends after its answer.
func (x *one) sayGoodbye() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.over = true
	if x.waiting {
		x.lastChanceLocked()
	}
}

// lastChanceLocked lets one more request come, for a while. The caller holds x.mu.
func (x *one) lastChanceLocked() {
	end := time.Unix(1, 0)
	if x.bye.Patience > 0 {
		end = time.Now().Add(x.bye.Patience)
	}
	x.c.SetReadDeadline(end)
}

// wait notes whether the connection waits. ok is false when it need not.
func (x *one) wait(waiting bool) (ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case !x.over:
	case waiting:
		x.lastChanceLocked()
	default:
		x.c.SetReadDeadline(time.Time{}) // the request came first
	}
	x.waiting = waiting
	return !waiting || !x.over || x.bye.Patience > 0
}

// refuse answers a request that is no good.
func (x *one) refuse(ctx context.Context, err error, h Handlers) {
	why, ok := errors.AsType[*message.Error](err)
	if !ok {
		return
	}
	h.Refused(ctx, why)
	x.w.Response("GET", message.HTTP11, &message.Response{
		Status: why.Status, Fields: message.Fields{{Name: "Content-Type", Value: "text/plain"}}, Length: int64(len(why.Text)),
	}, true)
	x.w.Body([]byte(why.Text))
	x.w.End(nil)
	x.w.Flush()
	x.linger()
}

// lingerTime and lingerBytes bound how long we read what nobody wants, so that
// the client can read our answer: closing a connection with unread bytes would
// destroy it.
const (
	lingerTime  = time.Second
	lingerBytes = 256 << 10
)

// linger ends our side and reads what the client still sends.
func (x *one) linger() {
	x.c.CloseWrite()
	x.c.SetReadDeadline(time.Now().Add(lingerTime))
	var p [4 << 10]byte
	for left := lingerBytes; left > 0; {
		n, err := x.c.Read(p[:])
		if left -= n; err != nil {
			return
		}
	}
}

// maxSkipped is how much of a body that nobody wanted is read to keep the
// connection, in bytes.
const maxSkipped = 64 << 10

// finishBody reads what is left of the request's body. It returns false when
// that is not worth it.
func (x *one) finishBody() bool {
	if x.req.Body == nil {
		return true
	}
	var p [4 << 10]byte
	for left := maxSkipped; left > 0; {
		n, err := x.req.Body.Read(p[:])
		if err == io.EOF {
			return true
		}
		if left -= n; err != nil {
			return false
		}
	}
	return false
}

// Request implements [Exchange].
func (x *one) Request() *message.Request { return &x.req }

// Respond implements [Exchange].
func (x *one) Respond(resp *message.Response, end bool) error {
	if resp.Status >= 200 {
		if x.bye.Said() {
			x.ends = true
		}
		if x.req.Version == message.HTTP10 && resp.Length < 0 && !end {
			x.ends = true
		}
	}
	if end && resp.Status >= 200 && resp.Length < 0 && x.req.Method != "HEAD" && resp.Status != 304 {
		sized := *resp
		sized.Length = 0
		resp = &sized
	} else if resp.Length >= 0 && !end && resp.Fields.Has("trailer") {
		counted := *resp // a message of HTTP/2 may say its length and have a trailer
		counted.Length = message.Unknown
		resp = &counted
	}
	return x.w.Response(x.req.Method, x.req.Version, resp, x.ends)
}

// Body implements [Exchange].
func (x *one) Body(p []byte) error { return x.w.Body(p) }

// End implements [Exchange].
func (x *one) End(tail message.Fields) error { return x.w.End(tail) }

// Flush implements [Exchange].
func (x *one) Flush() error { return x.w.Flush() }

// StopReading implements [Exchange]. The connection ends with the answer.
func (x *one) StopReading() {
	x.stopped.Store(true)
	x.c.SetReadDeadline(time.Unix(1, 0))
}

// Interrupt implements [Exchange].
func (x *one) Interrupt() { Break(x.c) }

// Hijack implements [Exchange].
func (x *one) Hijack() Raw {
	x.taken = true
	x.w.Flush()
	first := append([]byte(nil), x.r.Take()...)
	x.r.Release()
	return &Early{Raw: x.c, First: first}
}
