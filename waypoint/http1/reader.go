package http1

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/ambit-mesh/ambit/waypoint/message"
)

// Source is a connection as a Reader needs it.
type Source interface {
	io.Reader
	SetReadDeadline(time.Time) error
}

// waiter is a Source that can wait without a buffer.
type waiter interface{ WaitReadable() error }

// Reader reads messages from a connection, one after the other. The body of a
// message has to be read to its end before the next head. One goroutine uses it.
type Reader struct {
	src  Source
	buf  []byte // what has been read; nil while nothing is held
	r, w int
	body body
	err  error // of the source; sticky

	names []string // of the Connection field of the current head
}

// NewReader returns a reader of src.
func NewReader(src Source) *Reader { return &Reader{src: src} }

// buffers are those of readers that wait for something.
var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// Buffered is how many bytes have been read and not parsed.
func (r *Reader) Buffered() int { return r.w - r.r }

// Take returns what has been read and not parsed, for who goes on with the
// connection in another way. The bytes are valid until Release.
func (r *Reader) Take() []byte {
	p := r.buf[r.r:r.w]
	r.r = r.w
	return p
}

// Release gives the buffer back. What it holds is lost.
func (r *Reader) Release() {
	if r.buf != nil && cap(r.buf) == bufferSize {
		buffers.Put((*[bufferSize]byte)(r.buf))
	}
	r.buf, r.r, r.w = nil, 0, 0
}

// Idle waits until the peer sends something, without holding a buffer when the
// source can do that. The error is io.EOF when the peer has ended in place of it.
func (r *Reader) Idle() error {
	if r.Buffered() > 0 {
		return nil
	}
	if w, ok := r.src.(waiter); ok {
		r.Release()
		if err := w.WaitReadable(); err != nil {
			return err
		}
	}
	return r.fill()
}

// fill reads once into the buffer, which must have room or be released.
func (r *Reader) fill() error {
	if r.err != nil {
		return r.err
	}
	if r.buf == nil {
		r.buf = buffers.Get().(*[bufferSize]byte)[:]
	}
	if r.r == r.w {
		r.r, r.w = 0, 0
	}
	n, err := r.src.Read(r.buf[r.w:])
	r.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	r.err = err
	return err
}

// room makes place for more bytes of a head that is not complete, in a larger
// buffer if it must be.
func (r *Reader) room() {
	if r.w < len(r.buf) {
		return
	}
	if r.r > 0 {
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
		return
	}
	larger := make([]byte, 2*len(r.buf))
	copy(larger, r.buf[:r.w])
	w := r.w
	r.Release()
	r.buf, r.w = larger, w
}

// errHeadSize is why a head is refused that does not end.
var errHeadSize = &message.Error{Status: 431, Text: "head too large"}

// errHeadTime is why a head is refused that takes too long.
var errHeadTime = &message.Error{Status: 408, Text: "head took too long"}

// head returns the next head up to and with the empty line that ends it. The
// error is io.EOF when the peer ended before its first byte.
func (r *Reader) head() ([]byte, error) {
	if r.Buffered() == 0 {
		if err := r.Idle(); err != nil {
			return nil, err
		}
	}
	late := false
	for seen := 0; ; {
		p := r.buf[r.r:r.w]
		// A line end of four bytes may stand half before seen.
		if i := bytes.Index(p[max(0, seen-3):], headEnd); i >= 0 {
			n := max(0, seen-3) + i + len(headEnd)
			if n > maxHead {
				return nil, errHeadSize
			}
			if late {
				r.src.SetReadDeadline(time.Time{})
			}
			r.r += n
			return p[:n], nil
		}
		if bareEnd(p[max(0, seen-1):]) {
			return nil, message.Bad("head: line end without a carriage return")
		}
		if seen = len(p); seen > maxHead {
			return nil, errHeadSize
		}
		if !late {
			late = true
			r.src.SetReadDeadline(time.Now().Add(HeadTime))
		}
		r.room()
		if err := r.fill(); err != nil {
			return nil, r.headError(err)
		}
	}
}

var headEnd = []byte("\r\n\r\n")

// bareEnd reports whether a line feed stands without a carriage return, whose
// head would never end. The first byte of p is only looked at as the one before.
func bareEnd(p []byte) bool {
	for at := 0; ; {
		i := bytes.IndexByte(p[at:], '\n')
		if i < 0 {
			return false
		}
		if i += at; i > 0 && p[i-1] != '\r' {
			return true
		}
		at = i + 1
	}
}

// headError is why a head is not complete.
func (r *Reader) headError(err error) error {
	if t, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err); ok && t.Timeout() {
		return errHeadTime
	}
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Peek is what has been read and not parsed.
func (r *Reader) Peek() []byte { return r.buf[r.r:r.w] }

// More reads once more behind what is there.
func (r *Reader) More() error {
	if r.buf != nil {
		r.room()
	}
	return r.fill()
}

// Forgive forgets an error of the source, such as a deadline that has passed and
// counts no more.
func (r *Reader) Forgive() { r.err = nil }
