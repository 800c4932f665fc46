package waypoint

import (
	"io"
	"sync"
	"time"

	"github.com/ambit-mesh/ambit/waypoint/message"
	"github.com/ambit-mesh/ambit/waypoint/upstream"
)

// maxReplay is how much of a request's body is kept so that the request can be
// sent again, in bytes: our choice, as others of the ecosystem have it.
const maxReplay = 64 << 10

// copies are buffers for bodies.
var copies = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// pump carries the body of a request to whichever endpoint it goes to, and again
// to the next one when the request is tried again.
type pump struct {
	body message.Body
	keep bool // for another try
	grpc bool // its messages are counted

	mu      sync.Mutex
	started bool
	idle    sync.Cond // nobody is writing to the endpoint
	writing bool
	to      upstream.Exchange // nil between two tries
	kept    []byte
	lost    bool // kept is not all that has come
	count   uint64
	calls   grpcMessages
	ended   bool // all has come
	tail    message.Fields
	err     error // why it never will
	done    sync.WaitGroup
}

// newPump returns the pump for a body; nil when there is none.
func newPump(body message.Body, keep bool) *pump {
	if body == nil {
		return nil
	}
	p := &pump{body: body, keep: keep}
	p.idle.L = &p.mu
	return p
}

// start carries what comes. A body that has come already, and that the endpoint takes
// at once, is read at once, and nothing runs beside the caller.
func (p *pump) start(to upstream.Exchange) {
	if n := p.body.Buffered(); n <= maxReplay && p.body.Whole() && to.Room(n) >= n {
		p.keep = true
		p.run()
		return
	}
	p.done.Go(p.run)
}

// run reads until the end.
func (p *pump) run() {
	buf := copies.Get().(*[32 << 10]byte)
	defer copies.Put(buf)
	for {
		n, err := p.body.Read(buf[:])
		if !p.pass(buf[:n], err) {
			return
		}
	}
}

// pass takes a piece, and the end when err says so. It returns false after that.
func (p *pump) pass(piece []byte, err error) (more bool) {
	p.mu.Lock()
	for p.writing { // what came before, once more
		p.idle.Wait()
	}
	p.count += uint64(len(piece))
	if p.grpc {
		p.calls.pass(piece)
	}
	if p.keep && !p.lost && len(p.kept)+len(piece) <= maxReplay {
		p.kept = append(p.kept, piece...)
	} else if len(piece) > 0 {
		p.lost, p.kept = true, nil
	}
	if err == io.EOF {
		p.ended, p.tail = true, p.body.Trailer()
	} else if err != nil {
		p.err = err
	}
	to := p.to
	p.writing = to != nil
	p.mu.Unlock()
	if to != nil {
		p.send(to, piece, err)
		p.written()
	}
	return err == nil
}

// written notes that nobody is writing any more.
func (p *pump) written() {
	p.mu.Lock()
	p.writing = false
	p.idle.Broadcast()
	p.mu.Unlock()
}

// send writes a piece. What cannot be written is noticed by who waits for the
// answer.
func (p *pump) send(to upstream.Exchange, piece []byte, err error) {
	to.Body(piece)
	switch {
	case err == io.EOF:
		to.End(p.body.Trailer())
		to.Flush()
	case err != nil:
		to.Interrupt() // the request will never be complete
	case p.body.Buffered() == 0:
		to.Flush()
	}
}

// attach sends what has come so far to an endpoint, and from now on what comes.
// ok is false when the beginning is not kept any more.
func (p *pump) attach(to upstream.Exchange) (ok bool) {
	p.mu.Lock()
	for p.writing {
		p.idle.Wait()
	}
	if p.lost {
		p.mu.Unlock()
		return false
	}
	p.to = to
	if !p.started {
		p.started = true
		p.mu.Unlock()
		if p.body.Buffered() == 0 && !p.body.Whole() {
			to.Flush() // who asks may wait for an answer before it says more
		}
		p.start(to)
		return true
	}
	kept, ended, err := p.kept, p.ended, p.err
	p.writing = true
	p.mu.Unlock()
	replay := func() {
		to.Body(kept)
		if ended {
			to.End(p.tail)
		}
		if err != nil {
			to.Interrupt()
		}
		to.Flush()
		p.written()
	}
	if to.Room(len(kept)) >= len(kept) {
		replay()
	} else {
		p.done.Go(replay) // the endpoint may answer before it has read all
	}
	return true
}

// detach takes the endpoint away, whose exchange has been interrupted.
func (p *pump) detach() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.writing {
		p.idle.Wait()
	}
	p.to = nil
}

// replayable reports whether the request can be sent again.
func (p *pump) replayable() bool {
	if p == nil {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.lost && p.err == nil
}

// stop ends the reading of what is left.
func (p *pump) stop(stopReading func()) {
	p.mu.Lock()
	reading := p.started && !p.ended && p.err == nil
	p.mu.Unlock()
	if reading {
		stopReading()
	}
	p.done.Wait()
}

// state is how much has come, and whether it was all.
func (p *pump) state() (count uint64, whole bool, err error) {
	if p == nil {
		return 0, true, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count, p.ended, p.err
}

// settleTime is how long an answer that is complete waits for the last of its request to
// be written: our choice. The endpoint has read it nearly always.
const settleTime = 100 * time.Millisecond

// sent reports whether the request has been written whole.
func (p *pump) sent() bool {
	if p == nil {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.writing && p.ended {
		late := false
		timer := time.AfterFunc(settleTime, func() {
			p.mu.Lock()
			late = true
			p.idle.Broadcast()
			p.mu.Unlock()
		})
		defer timer.Stop()
		for p.writing && !late {
			p.idle.Wait()
		}
	}
	return p.ended && !p.writing
}

// failed reports whether the client has broken the request off.
func (p *pump) failed() bool {
	if p == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err != nil
}

// messages is how many messages of gRPC have come.
func (p *pump) messages() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls.count
}

// copy is the whole body, if it was kept.
func (p *pump) copy() (body []byte, whole bool) {
	if p == nil {
		return nil, true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]byte(nil), p.kept...), p.ended && !p.lost
}

// forget says that there will be no further try.
func (p *pump) forget() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keep = false
	if len(p.kept) > 0 {
		p.kept, p.lost = nil, true
	}
}
