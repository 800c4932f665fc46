package streamio

import (
	"net"
	"sync/atomic"
	"syscall"
	"time"
)

// end is one socket of a flow as both halves see it.
type end struct {
	conn *net.TCPConn
	raw  syscall.RawConn
	side Side
}

// half is one direction of a flow. One goroutine runs it.
type half struct {
	// Set by init, then only read.
	flow     *flow
	src, dst end
	count    *atomic.Uint64
	fill     func(fd uintptr) bool // made once: a method value allocates
	drain    func(fd uintptr) bool
	watch    func(fd uintptr) bool

	// Owned by run and by the three functions it hands to the poller.
	load load  // bytes between src and dst
	n    int   // bytes of the last fill; 0 is the end of src
	err  error // of the last fill, drain or watch
}

// init connects the half that carries bytes from src to dst.
func (h *half) init(f *flow, src, dst end, count *atomic.Uint64) {
	h.flow, h.src, h.dst, h.count = f, src, dst, count
	h.fill, h.drain, h.watch = h.fillFrom, h.drainTo, h.watchFor
}

// run moves bytes until src ends or something breaks, passes the end on, and
// then keeps an eye on src until the other half has ended too.
func (h *half) run() {
	defer h.load.release()
	for {
		if err := h.src.raw.Read(h.fill); err != nil || h.err != nil {
			h.fail(h.src.side, "read", err)
			return
		}
		if h.n == 0 {
			break
		}
		if err := h.dst.raw.Write(h.drain); err != nil || h.err != nil {
			h.fail(h.dst.side, "write", err)
			return
		}
	}
	if err := h.dst.conn.CloseWrite(); err != nil {
		h.fail(h.dst.side, "end", err)
		return
	}
	h.finish()
}

// fillFrom takes what src has. It reports whether it is done: false means wait
// until src is readable.
func (h *half) fillFrom(fd uintptr) bool {
	h.n, h.err = h.load.fill(int(fd))
	if h.err == syscall.EAGAIN {
		h.load.release() // nothing is under way: hold nothing while waiting
		h.err = nil
		return false
	}
	return true
}

// drainTo gives dst what was taken. False means wait until dst is writable.
func (h *half) drainTo(fd uintptr) bool {
	for h.load.len > 0 {
		n, err := h.load.drain(int(fd))
		if err == syscall.EAGAIN {
			return false
		}
		if err != nil {
			h.err = err
			return true
		}
		h.count.Add(uint64(n))
	}
	return true
}

// finish waits for the other half after this one has ended. A source that has
// ended its sending can still be reset; without anybody who looks, the other
// side would learn of it only when it next sends.
func (h *half) finish() {
	h.load.release()
	if h.flow.ended.Add(1) == 2 {
		// The other half watches its source, which is our destination.
		h.dst.conn.SetReadDeadline(aLongTimeAgo)
		return
	}
	err := h.src.raw.Read(h.watch)
	if h.flow.ended.Load() == 2 {
		h.src.conn.SetReadDeadline(time.Time{})
		return
	}
	h.fail(h.src.side, "read", err)
}

// aLongTimeAgo is a deadline that has passed: it wakes a reader.
var aLongTimeAgo = time.Unix(1, 0)

// watchFor looks for a reset of a socket whose end has been read. read would
// answer 0 for ever; the error that is pending on the socket tells.
// Source: tcp_reset in net/ipv4/tcp_input.c (EPIPE after FIN).
func (h *half) watchFor(fd uintptr) bool {
	errno, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ERROR)
	switch {
	case err != nil:
		h.err = err
	case errno != 0:
		h.err = syscall.Errno(errno)
	}
	return h.err != nil
}

// fail breaks the flow. pollErr is what the poller said; the error of the
// system call, if there was one, counts more.
func (h *half) fail(side Side, op string, pollErr error) {
	if h.err != nil {
		pollErr = h.err
	}
	h.flow.breakBoth(&CopyError{Side: side, Op: op, Err: pollErr})
}
