package hbone

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// tlsHead is the size of the header of a TLS record, in bytes.
// Source: RFC 8446, section 5.1.
const tlsHead = 5

// errWouldBlock tells crypto/tls that no more bytes are there for now. It is
// temporary, so that crypto/tls does not hold on to it.
type errWouldBlock struct{}

func (errWouldBlock) Error() string   { return "no bytes from the peer yet" }
func (errWouldBlock) Timeout() bool   { return true }
func (errWouldBlock) Temporary() bool { return true }

var _ net.Error = errWouldBlock{}

// recordConn is the TCP connection under TLS. It reads many records with one
// system call; those of the handshake it hands to crypto/tls one by one, so that
// crypto/tls never holds more than one. What a layer seals it gathers and writes
// with one system call. While it waits it holds at most a part of a record.
type recordConn struct {
	net.Conn
	raw    syscall.RawConn // nil when the connection is not a socket
	budget *Budget

	// Owned by the reader.
	in       *buffer // what came and the layer has not taken; nil when nothing
	inClass  int
	inSince  time.Time     // since when nothing comes, while inClass is for bulk; else zero
	head     [tlsHead]byte // of the current record
	headLen  int           // how much of head has passed
	bodyLeft int           // how much of the current record's body has not passed
	polling  bool          // Read does not wait: see wait
	readErr  error
	readFn   func(fd uintptr) bool

	// mu guards out. It is not held during system calls.
	mu     sync.Mutex
	out    *buffer // records not yet written; nil when none
	gather bool    // set once, after the handshake

	// Owned by the one who flushes.
	leaving             *buffer // being written; nil when nothing is
	rest                []byte  // of leaving
	restErr             error
	waits               time.Time     // when the socket first took no more in this flush
	waited              time.Duration // how long the last flush waited for the socket
	writeFn, writeNowFn func(fd uintptr) bool

	stalled atomic.Int64 // since when the socket takes nothing, in Unix ns; 0: it does
}

// newRecordConn wraps conn.
func newRecordConn(conn net.Conn, budget *Budget) *recordConn {
	r := &recordConn{Conn: conn, budget: budget, inClass: record}
	if sc, ok := conn.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			r.raw = raw
		}
	}
	r.readFn, r.writeFn, r.writeNowFn = r.readSome, r.writeSome, r.writeNow
	return r
}

// awaitFirstByte asks the kernel to keep connections that have said nothing to itself,
// for whole seconds of about d: who never speaks then costs no goroutine and no
// descriptor, and who does is served without waiting once more. Where that cannot be
// had they are accepted at once, and time out here. Source: tcp(7), TCP_DEFER_ACCEPT.
func awaitFirstByte(ln net.Listener, d time.Duration) {
	sc, ok := ln.(syscall.Conn)
	if !ok || d < time.Second {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_DEFER_ACCEPT, int(d/time.Second))
	})
}

// hasLeft reports whether the peer of a connection that was just accepted has ended it
// without a word. It takes nothing and does not wait.
func hasLeft(conn net.Conn) bool {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	left := false
	_ = raw.Control(func(fd uintptr) {
		var p [1]byte
		n, _, err := syscall.Recvfrom(int(fd), p[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		left = err == nil && n == 0 || errors.Is(err, syscall.ECONNRESET)
	})
	return left
}

// Read gives bytes of at most one TLS record to crypto/tls.
func (r *recordConn) Read(p []byte) (int, error) {
	if r.in == nil {
		if r.polling {
			return 0, errWouldBlock{}
		}
		if err := r.wait(); err != nil {
			return 0, err
		}
	}
	n := r.pass(p)
	if r.in.len() == 0 {
		r.in.free()
		r.in = nil
	}
	return n, nil
}

// pass copies bytes to p, not beyond the end of the current record.
func (r *recordConn) pass(p []byte) int {
	from := r.in.bytes()
	n := min(len(p), len(from))
	if r.bodyLeft > 0 {
		n = min(n, r.bodyLeft)
		r.bodyLeft -= n
	} else {
		h := copy(r.head[r.headLen:], from[:n])
		r.headLen += h
		n = h + r.startBody(n-h)
	}
	copy(p, from[:n])
	r.in.r += n
	return n
}

// startBody begins the body of a record when its header is complete; n bytes
// may follow. It returns how many of them belong to the body.
func (r *recordConn) startBody(n int) int {
	if r.headLen < tlsHead {
		return 0
	}
	r.headLen = 0
	r.bodyLeft = int(binary.BigEndian.Uint16(r.head[3:]))
	n = min(n, r.bodyLeft)
	r.bodyLeft -= n
	return n
}

// wait returns when more bytes have come from the peer.
func (r *recordConn) wait() error {
	r.shrink()
	if r.raw == nil {
		return r.waitPlain()
	}
	r.readErr = nil
	if err := r.raw.Read(r.readFn); err != nil {
		return err
	}
	return r.readErr
}

// waitPlain is wait for a connection that is not a socket.
func (r *recordConn) waitPlain() error {
	b := grab(r.budget, record)
	n, err := r.Conn.Read(b.b[r.in.len():])
	if n > 0 {
		r.took(b, n)
		return nil
	}
	b.free()
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// shrink gives back what a waiting connection need not hold.
func (r *recordConn) shrink() {
	switch {
	case r.in.len() == 0:
		r.drop()
	case r.in.class > record:
		small := grab(r.budget, record)
		small.add(r.in.bytes()) // a part of a record
		r.in.free()
		r.in = small
	}
}

// took makes b, into which n bytes were read behind room for what was there, the
// buffer in use.
func (r *recordConn) took(b *buffer, n int) {
	b.w = copy(b.b, r.in.bytes()) + n
	r.in.free()
	r.in = b
}

// readSome reads once from the socket. False means that nothing is there yet.
func (r *recordConn) readSome(fd uintptr) bool {
	b := grab(r.budget, r.classNow())
	n, err := readFD(fd, b.b[r.in.len():])
	if n > 0 {
		r.took(b, n)
		r.inClass, r.inSince = adapt(b.class, b.w, record, huge), time.Time{}
		return true
	}
	b.free()
	if err == syscall.EAGAIN {
		if r.inClass > record && r.inSince.IsZero() {
			r.inSince = time.Now()
		}
		return false
	}
	if err == nil {
		err = io.EOF
		if r.in != nil {
			err = io.ErrUnexpectedEOF
		}
	}
	r.readErr = err
	return true
}

// classNow is the class of buffer to read into: what comes after a rest is seldom bulk,
// though what came before it was.
func (r *recordConn) classNow() int {
	if !r.inSince.IsZero() && time.Since(r.inSince) > bulkMemory {
		r.inClass, r.inSince = record, time.Time{}
	}
	return r.inClass
}

// drop frees what the reader holds. Only the reader calls it, at its end.
func (r *recordConn) drop() {
	r.in.free()
	r.in = nil
}

// Write takes records: it gathers them, or writes them at once during the
// handshake.
func (r *recordConn) Write(p []byte) (int, error) {
	r.mu.Lock()
	if !r.gather {
		r.mu.Unlock()
		return r.Conn.Write(p)
	}
	defer r.mu.Unlock()
	if r.out == nil {
		r.out = grab(r.budget, classFor(len(p)-classSlack[record]/2))
	}
	if len(r.out.room()) < len(p) {
		// fit has made room for data; this is something small.
		bigger := grab(r.budget, min(r.out.class+1, huge))
		bigger.add(r.out.bytes())
		r.out.free()
		r.out = bigger
	}
	if n := r.out.add(p); n < len(p) {
		return n, errors.New("no room for a TLS record")
	}
	return len(p), nil
}

// fit makes room for up to n bytes of plaintext, of total that will follow one
// another, and returns for how many. It flushes when it must.
func (r *recordConn) fit(n, total int) (int, error) {
	r.mu.Lock()
	free := 0
	if r.out != nil {
		free = plainRoom(len(r.out.room()) - recordOverhead)
	}
	r.mu.Unlock()
	if free < min(n, recordPayload) {
		if err := r.flush(); err != nil {
			return 0, err
		}
		b := grab(r.budget, classFor(total-classSlack[tiny]/4))
		free = plainRoom(len(b.room()))
		r.mu.Lock()
		if r.out != nil { // a record of crypto/tls itself got in between
			b.add(r.out.bytes())
			free = plainRoom(len(b.room()))
			r.out.free()
		}
		r.out = b
		r.mu.Unlock()
	}
	return min(n, free), nil
}

// plainRoom is how many bytes of plaintext fit into free bytes of records.
func plainRoom(free int) int {
	full := free / (recordPayload + recordOverhead)
	rest := free - full*(recordPayload+recordOverhead) - recordOverhead
	return full*recordPayload + max(0, rest)
}

// flush writes what was gathered. One goroutine at a time calls it.
func (r *recordConn) flush() error {
	for {
		if _, err := r.write(r.writeFn); err != nil {
			return err
		}
		r.mu.Lock()
		empty := r.out == nil
		r.mu.Unlock()
		if empty {
			return nil
		}
	}
}

// flushNow writes what the socket takes at once. Unless done, flush has to
// write the rest.
func (r *recordConn) flushNow() (done bool, err error) {
	if r.raw == nil {
		return false, nil
	}
	return r.write(r.writeNowFn)
}

// write writes with fn what was gathered, or the rest of it.
func (r *recordConn) write(fn func(fd uintptr) bool) (done bool, err error) {
	r.waited = 0
	if r.leaving == nil {
		r.mu.Lock()
		r.leaving, r.out = r.out, nil
		r.mu.Unlock()
		if r.leaving == nil {
			return true, nil
		}
		r.rest = r.leaving.bytes()
	}
	if r.raw == nil {
		r.stalled.Store(time.Now().UnixNano())
		_, err = r.Conn.Write(r.rest)
		r.stalled.Store(0)
		r.rest = nil
	} else {
		r.restErr, r.waits = nil, time.Time{}
		if err = r.raw.Write(fn); err == nil {
			err = r.restErr
		}
		if !r.waits.IsZero() {
			r.waited = time.Since(r.waits)
			r.stalled.Store(0)
		}
	}
	if len(r.rest) > 0 && err == nil {
		return false, nil
	}
	r.rest = nil
	r.leaving.free()
	r.leaving = nil
	return true, err
}

// writeNow writes once to the socket.
func (r *recordConn) writeNow(fd uintptr) bool {
	n, err := writeFD(fd, r.rest)
	r.rest = r.rest[n:]
	if err != nil && err != syscall.EAGAIN {
		r.restErr = err
	}
	return true
}

// writeSome writes to the socket until it takes no more.
func (r *recordConn) writeSome(fd uintptr) bool {
	progress := false
	for len(r.rest) > 0 {
		n, err := writeFD(fd, r.rest)
		if n > 0 {
			r.rest = r.rest[n:]
			progress = true
			continue
		}
		if err == syscall.EAGAIN {
			now := time.Now()
			if r.waits.IsZero() {
				r.waits = now
			}
			if progress || r.stalled.Load() == 0 {
				r.stalled.Store(now.UnixNano())
			}
			return false
		}
		r.restErr = err
		break
	}
	return true
}

// closeWrite ends our direction of TCP.
func (r *recordConn) closeWrite() {
	r.flush()
	if hc, ok := r.Conn.(interface{ CloseWrite() error }); ok {
		hc.CloseWrite()
	}
}

// unacked is how many bytes the peer's kernel has yet to confirm; 0 when that is not
// known. Source: tcp(7), SIOCOUTQ.
func (r *recordConn) unacked() int {
	if r.raw == nil {
		return 0
	}
	var n int32
	// It fails on a socket that is closed only.
	_ = r.raw.Control(func(fd uintptr) {
		_, _, _ = syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&n)))
	})
	return int(n)
}

// readFD reads once; n is 0 with a nil error at the end.
func readFD(fd uintptr, p []byte) (int, error) {
	for {
		n, err := syscall.Read(int(fd), p)
		if err != syscall.EINTR {
			return max(n, 0), err
		}
	}
}

// writeFD writes once.
func writeFD(fd uintptr, p []byte) (int, error) {
	for {
		n, err := syscall.Write(int(fd), p)
		if err != syscall.EINTR {
			return max(n, 0), err
		}
	}
}
