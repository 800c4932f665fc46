package zds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/ambit-mesh/ambit/internal/netns"
)

// request is one message to a ztunnel and the wait for its answer.
type request struct {
	uid  string
	data []byte
	ns   *netns.NS       // goes beside data; may be nil
	ctx  context.Context // once it has ended the request is not sent; nil: always sent
	done chan error      // of one; set by push
}

// wait returns what became of r.
func (r *request) wait(ctx context.Context) error {
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// peerConn is the connection to one ztunnel.
type peerConn struct {
	// Set by newPeerConn, then only read.
	conn    *net.UnixConn
	timeout time.Duration
	in      chan packet   // from readAll
	over    chan struct{} // closed by fail: nobody takes from in any more
	wake    chan struct{} // of one: the queue is not empty

	// Set by readAll before it closes in.
	readErr error

	// mu guards the fields below.
	mu    sync.Mutex
	queue []*request
	gone  bool

	// ready is guarded by Server.mu.
	ready bool
}

// newPeerConn wraps c. It starts nothing.
func newPeerConn(c *net.UnixConn, timeout time.Duration) *peerConn {
	return &peerConn{
		conn: c, timeout: timeout,
		in: make(chan packet), over: make(chan struct{}), wake: make(chan struct{}, 1),
	}
}

// readAll passes on packets until the connection ends. It reads all the time, so
// that the end of a ztunnel is seen at once and not with the next message to it.
func (p *peerConn) readAll() {
	defer close(p.in)
	for {
		pkt, err := readPacket(p.conn)
		if err != nil {
			p.readErr = err
			return
		}
		select {
		case p.in <- pkt:
		case <-p.over:
			pkt.drop()
			p.readErr = net.ErrClosed
			return
		}
	}
}

// ended returns why readAll has ended.
func (p *peerConn) ended() error {
	if errors.Is(p.readErr, io.EOF) {
		return fmt.Errorf("%w: it closed the connection", errGone)
	}
	return fmt.Errorf("%w: %w", errGone, p.readErr)
}

// receive waits for the packet that is due.
func (p *peerConn) receive() (packet, error) {
	timer := time.NewTimer(p.timeout)
	defer timer.Stop()
	select {
	case pkt, ok := <-p.in:
		if !ok {
			return packet{}, p.ended()
		}
		return pkt, nil
	case <-timer.C:
		return packet{}, protocolError("nothing came within %v", p.timeout)
	}
}

// exchange sends r and waits for its answer. An error other than [*AckError] and
// that of a closed namespace ends the connection: answers carry no id, so a late
// one could not be told from the next.
func (p *peerConn) exchange(r *request) error {
	if err := p.conn.SetWriteDeadline(time.Now().Add(p.timeout)); err != nil {
		return err
	}
	if err := p.send(r); err != nil {
		return err
	}
	answer, err := p.receive()
	if err != nil {
		return fmt.Errorf("wait for the answer about %s: %w", r.uid, err)
	}
	defer answer.drop()
	refused, err := decodeAck(&answer)
	if err != nil {
		return err
	}
	if refused != "" {
		return &AckError{UID: r.uid, Text: refused}
	}
	return nil
}

// send writes r with the descriptor of its namespace.
func (p *peerConn) send(r *request) error {
	if r.ns == nil {
		return writePacket(p.conn, r.data, -1)
	}
	return r.ns.WithFD(func(fd int) error { return writePacket(p.conn, r.data, fd) })
}

// serveQueue carries out requests one by one until the connection ends.
func (p *peerConn) serveQueue(ctx context.Context) error {
	for {
		for r := p.next(); r != nil; r = p.next() {
			if err := p.carryOut(r); err != nil {
				return err
			}
		}
		select {
		case <-p.wake:
		case pkt, ok := <-p.in:
			if !ok {
				return p.ended()
			}
			pkt.drop()
			return protocolError("an answer to nothing")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// carryOut is one request; its error ends the connection.
func (p *peerConn) carryOut(r *request) error {
	if r.ctx != nil && r.ctx.Err() != nil {
		r.done <- context.Cause(r.ctx) // nobody waits for it any more
		return nil
	}
	err := p.exchange(r)
	var refused *AckError
	if err == nil || errors.As(err, &refused) || errors.Is(err, os.ErrClosed) && !errors.Is(err, net.ErrClosed) {
		r.done <- err
		return nil
	}
	r.done <- fmt.Errorf("%w: %w", errGone, err)
	return err
}

// push puts r at the end of the queue. It fails when the connection is gone.
func (p *peerConn) push(r *request) bool {
	r.done = make(chan error, 1)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return false
	}
	p.queue = append(p.queue, r)
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return true
}

// do pushes r and waits for what becomes of it.
func (p *peerConn) do(ctx context.Context, r *request) error {
	if !p.push(r) {
		return errGone
	}
	return r.wait(ctx)
}

// next takes the first request of the queue, or returns nil.
func (p *peerConn) next() *request {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 {
		return nil
	}
	r := p.queue[0]
	p.queue = p.queue[1:]
	return r
}

// fail ends what is queued, and readAll.
func (p *peerConn) fail() {
	close(p.over)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gone = true
	for _, r := range p.queue {
		r.done <- errGone
	}
	p.queue = nil
}
