package http1

import (
	"bytes"
	"io"
	"strings"

	"github.com/ambit-mesh/ambit/waypoint/message"
)

// framed is how a body ends.
type framed uint8

const (
	counted  framed = iota // after so many bytes
	chunked                // with an empty chunk and a trailer
	untilEnd               // with the connection
)

// body is that of the current message of a Reader.
type body struct {
	r     *Reader
	how   framed
	left  int64 // of the body, or of the current chunk
	state chunkState
	done  bool
	close bool // the connection ends with the message
	tail  message.Fields
}

// chunkState is where in a chunked body we are.
type chunkState uint8

const (
	atSize  chunkState = iota // before the line with the size
	inChunk                   // left bytes are still to come
	atEnd                     // before the line end behind a chunk
	atTail                    // before the trailer
)

// begin prepares the body of a new message.
func (b *body) begin(r *Reader, how framed, length int64) *body {
	*b = body{r: r, how: how, left: length}
	return b
}

// Buffered implements [message.Body].
func (b *body) Buffered() int {
	n := b.r.Buffered()
	switch {
	case b.done, b.how == chunked && !b.ready():
		return 0
	case b.how == counted:
		return int(min(int64(n), b.left))
	}
	return n
}

// ready reports whether Read returns something of a chunked body without waiting: a
// part of a line is not something.
func (b *body) ready() bool {
	p := b.r.Peek()
	for state := b.state; ; {
		most := 2
		switch state {
		case inChunk:
			return len(p) > 0
		case atTail:
			return bytes.HasPrefix(p, headEnd[:2]) || bytes.Contains(p, headEnd) || len(p) > maxTrailer || bareEnd(p)
		case atSize:
			most = maxChunkDigits + 2
		case atEnd:
		}
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			return len(p) >= most
		}
		if i == 0 || p[i-1] != '\r' || i >= most || state == atEnd && i > 1 {
			return true // what is wrong is said at once
		}
		if state == atEnd {
			p, state = p[i+1:], atSize
			continue
		}
		n, err := chunkSize(p[:i-1])
		if err != nil {
			return true
		}
		if p, state = p[i+1:], inChunk; n == 0 {
			state = atTail
		}
	}
}

// Whole implements [message.Body].
func (b *body) Whole() bool { return b.done || b.how == counted && int64(b.r.Buffered()) >= b.left }

// Trailer implements [message.Body].
func (b *body) Trailer() message.Fields { return b.tail }

// Read implements [message.Body].
func (b *body) Read(p []byte) (int, error) {
	if b.done {
		return 0, io.EOF
	}
	if b.how == chunked {
		return b.readChunks(p)
	}
	n, err := b.some(p)
	if b.how == untilEnd {
		b.done = err == io.EOF
		return n, err
	}
	if b.left -= int64(n); b.left == 0 {
		b.done = true
		return n, io.EOF
	}
	return n, unexpected(err)
}

// unexpected turns an end of the connection into what it is inside a message.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// some reads at most what is left: what has been read already, else from the
// source, without a copy when p is large.
func (b *body) some(p []byte) (int, error) {
	r := b.r
	if b.how != untilEnd && int64(len(p)) > b.left {
		p = p[:b.left]
	}
	if r.Buffered() == 0 {
		if len(p) >= bufferSize && r.err == nil {
			n, err := r.src.Read(p)
			if n == 0 && err != nil {
				r.err = err
				return 0, err
			}
			return n, nil
		}
		if err := r.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.buf[r.r:r.w])
	r.r += n
	return n, nil
}

// readChunks reads as much of a chunked body as has come and fits, and waits
// only while it has nothing.
func (b *body) readChunks(p []byte) (int, error) {
	n := 0
	for {
		switch b.state {
		case atSize:
			line, ok, err := b.line(n == 0, maxChunkDigits+2)
			if !ok || err != nil {
				return n, err
			}
			if b.left, err = chunkSize(line); err != nil {
				return n, err
			}
			b.state = inChunk
			if b.left == 0 {
				b.state = atTail
			}
		case inChunk:
			if n == len(p) || n > 0 && b.r.Buffered() == 0 {
				return n, nil
			}
			k, err := b.some(p[n:])
			n += k
			if b.left -= int64(k); b.left == 0 {
				b.state = atEnd
			}
			if err != nil {
				return n, unexpected(err)
			}
		case atEnd:
			line, ok, err := b.line(n == 0, 2)
			if !ok || err != nil {
				return n, err
			}
			if len(line) != 0 {
				return n, message.Bad("chunk: longer than its size")
			}
			b.state = atSize
		case atTail:
			done, err := b.trailer(n == 0)
			if !done || err != nil {
				return n, err
			}
			b.done = true
			return n, io.EOF
		}
	}
}

// line returns the next line without its end, at most so many bytes with it. ok
// is false when it has not come and wait is false.
func (b *body) line(wait bool, most int) (line []byte, ok bool, err error) {
	r := b.r
	for {
		p := r.buf[r.r:r.w]
		if i := bytes.IndexByte(p, '\n'); i >= 0 {
			if i == 0 || p[i-1] != '\r' || i >= most {
				return nil, false, message.Bad("chunk: bad line end, or an extension")
			}
			r.r += i + 1
			return p[:i-1], true, nil
		}
		if len(p) >= most {
			return nil, false, message.Bad("chunk: line too long")
		}
		if !wait {
			return nil, false, nil
		}
		if err := b.more(); err != nil {
			return nil, false, err
		}
	}
}

// more reads once more into the buffer.
func (b *body) more() error {
	if b.r.buf != nil {
		b.r.room()
	}
	return unexpected(b.r.fill())
}

// chunkSize reads hexadecimal digits and nothing else: an extension is of no use
// to anybody, and programs differ about where it ends.
func chunkSize(line []byte) (int64, error) {
	if len(line) == 0 || len(line) > maxChunkDigits {
		return 0, message.Bad("chunk: no size, or too large")
	}
	var n int64
	for _, c := range line {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, message.Bad("chunk: size is no hexadecimal number, or has an extension")
		}
		n = n<<4 | int64(c)
	}
	return n, nil
}

// trailer reads the fields behind the last chunk. done is false when they have
// not come and wait is false.
func (b *body) trailer(wait bool) (done bool, err error) {
	r := b.r
	for {
		p := r.buf[r.r:r.w]
		if len(p) >= 2 && p[0] == '\r' && p[1] == '\n' {
			r.r += 2
			return true, nil
		}
		if i := bytes.Index(p, headEnd); i >= 0 && i <= maxTrailer {
			r.r += i + len(headEnd)
			return true, b.keepTrailer(string(p[:i+len(headEnd)]))
		}
		if len(p) > maxTrailer {
			return false, message.Bad("trailer too large")
		}
		if bareEnd(p) {
			return false, message.Bad("trailer: line end without a carriage return")
		}
		if !wait {
			return false, nil
		}
		if err := b.more(); err != nil {
			return false, err
		}
	}
}

// keepTrailer reads the lines of a trailer.
func (b *body) keepTrailer(text string) error {
	b.tail = nil
	for text != "\r\n" {
		if len(b.tail) == maxFields {
			return errHeadSize
		}
		end := strings.Index(text, "\r\n")
		name, value, err := fieldLine(text[:end])
		if err != nil {
			return err
		}
		if !message.AllowedTrailer(name) {
			return message.Bad("trailer: field that belongs into the head")
		}
		b.tail.Add(name, value)
		text = text[end+2:]
	}
	return nil
}
