package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
)

// bodySize is the body of an answer: 1 KiB, what small services say.
const bodySize = 1 << 10

// The requests that the generators send. Between them and a server of HTTP/1.1
// is no difference on the wire; a server made for anything would take most of
// the processor time of this machine for itself.
const (
	requestKeep  = "GET / HTTP/1.1\r\nHost: perf\r\nUser-Agent: ambit-perf\r\nAccept: */*\r\n\r\n"
	requestClose = "GET / HTTP/1.1\r\nHost: perf\r\nUser-Agent: ambit-perf\r\nConnection: close\r\n\r\n"
)

// headEnd is what a head ends with. Source: RFC 9112, section 2.1.
const headEnd = "\r\n\r\n"

// maxHead is the longest head that is taken, in bytes.
const maxHead = 4 << 10

var errHeadTooLong = errors.New("the head of a message is longer than 4 KiB")

// answer is the one answer that there is.
func answer() []byte {
	return []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: " + strconv.Itoa(bodySize) + headEnd +
		strings.Repeat("0123456789abcde\n", bodySize/16))
}

// serveWeb answers each request on c, several in a row, until the client ends or
// asks for the end.
func serveWeb(_ context.Context, c net.Conn) error {
	whole := answer()
	return eachRequest(c, func(head []byte) (last bool, err error) {
		_, err = c.Write(whole)
		return bytes.Contains(head, []byte("\r\nConnection: close\r\n")), err
	})
}

// eachRequest calls answer with the head of each request on c, until the client
// ends or answer says that this was the last.
func eachRequest(c net.Conn, answer func(head []byte) (last bool, err error)) error {
	buf := make([]byte, maxHead)
	have := 0
	for {
		n, err := c.Read(buf[have:])
		have += n
		for {
			end := bytes.Index(buf[:have], []byte(headEnd))
			if end < 0 {
				break
			}
			end += len(headEnd)
			if last, err := answer(buf[:end]); err != nil || last {
				return err
			}
			have = copy(buf, buf[end:have])
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case have == len(buf):
			return errHeadTooLong
		}
	}
}

// answerReader reads answers of one connection. It holds a fixed buffer; bodies
// are counted, not kept.
type answerReader struct {
	c    net.Conn
	buf  [maxHead]byte
	have int
}

// next reads one answer whole.
func (r *answerReader) next() error {
	end := -1
	for {
		if end = bytes.Index(r.buf[:r.have], []byte(headEnd)); end >= 0 {
			break
		}
		if r.have == len(r.buf) {
			return errHeadTooLong
		}
		n, err := r.c.Read(r.buf[r.have:])
		r.have += n
		if n == 0 && err != nil {
			return err
		}
	}
	length, err := bodyLength(r.buf[:end+len(headEnd)])
	if err != nil {
		return err
	}
	whole := end + len(headEnd) + length
	for whole > r.have {
		whole -= r.have
		n, err := r.c.Read(r.buf[:])
		r.have = n
		if n == 0 && err != nil {
			return err
		}
	}
	r.have = copy(r.buf[:], r.buf[whole:r.have])
	return nil
}

// bodyLength reads the length of the body out of the head of an answer.
func bodyLength(head []byte) (int, error) {
	const ok, field, lower = "HTTP/1.1 200 ", "\r\nContent-Length: ", "\r\ncontent-length: " // names in lower case are what Envoy writes
	if !bytes.HasPrefix(head, []byte(ok)) {
		first, _, _ := bytes.Cut(head, []byte("\r\n"))
		return 0, fmt.Errorf("answer %q", first)
	}
	at := bytes.Index(head, []byte(field))
	if at < 0 {
		at = bytes.Index(head, []byte(lower))
	}
	if at < 0 {
		return 0, errors.New("an answer without Content-Length")
	}
	rest := head[at+len(field):]
	digits, _, _ := bytes.Cut(rest, []byte("\r\n"))
	n, err := strconv.ParseUint(string(digits), 10, 31)
	if err != nil {
		return 0, fmt.Errorf("Content-Length %q: %w", digits, err)
	}
	return int(n), nil
}
