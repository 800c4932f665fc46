package http1

import (
	"io"
	"strconv"
	"sync"

	"github.com/ambit-mesh/ambit/waypoint/message"
)

// Writer writes messages to a connection. What it is given is gathered until
// Flush, or until much has come together. One goroutine uses it.
type Writer struct {
	dst     io.Writer
	buf     *[]byte
	chunked bool
	err     error // of dst; sticky
}

// NewWriter returns a writer to dst.
func NewWriter(dst io.Writer) *Writer { return &Writer{dst: dst} }

// outputs are the buffers of writers that have something to write.
var outputs = sync.Pool{New: func() any { p := make([]byte, 0, bufferSize); return &p }}

// flushSize is from how many bytes on nothing is gathered any more.
const flushSize = 8 << 10

// Request writes the head of a request.
func (w *Writer) Request(req *message.Request) error {
	p := w.begin()
	p = append(p, req.Method...)
	p = append(p, ' ')
	p = append(p, req.Path...)
	if req.HasQuery {
		p = append(append(p, '?'), req.Query...)
	}
	p = append(p, " HTTP/1.1\r\nHost: "...)
	p = append(p, req.Authority...)
	p = append(p, "\r\n"...)
	p = appendFields(p, req.Fields)
	if req.Upgrade != "" {
		p = appendField(p, "Connection", "Upgrade")
		p = appendField(p, "Upgrade", req.Upgrade)
	} else if req.Trailers {
		p = append(p, "Connection: TE\r\nTE: trailers\r\n"...)
	}
	p = w.frame(p, req.Length, req.Body != nil || wantsLength(req.Method))
	*w.buf = append(p, "\r\n"...)
	return w.err
}

// wantsLength reports whether a request of the method says that it has no body.
// Source: RFC 9110, section 8.6.
func wantsLength(method string) bool {
	return method == "POST" || method == "PUT" || method == "PATCH"
}

// Response writes the head of an answer to a request of that method and version.
// With last, the connection ends after it.
func (w *Writer) Response(method string, to message.Version, resp *message.Response, last bool) error {
	p := append(w.begin(), "HTTP/1.1 "...)
	p = strconv.AppendInt(p, int64(resp.Status), 10)
	p = append(p, ' ')
	p = append(p, resp.Reason...)
	p = append(p, "\r\n"...)
	p = appendFields(p, resp.Fields)
	w.chunked = false
	switch {
	case resp.Status == 101:
		p = appendField(p, "Connection", "Upgrade")
		p = appendField(p, "Upgrade", resp.Upgrade)
	case resp.Status < 200 || resp.Status == 204:
	case method == "HEAD" || resp.Status == 304:
		if resp.Length >= 0 {
			p = appendLength(p, resp.Length)
		}
	case to == message.HTTP10 && resp.Length < 0:
		last = true // the end of the connection is that of the body
	default:
		p = w.frame(p, resp.Length, true)
	}
	switch {
	case resp.Status < 200:
	case last:
		p = append(p, "Connection: close\r\n"...)
	case to == message.HTTP10:
		p = append(p, "Connection: keep-alive\r\n"...)
	}
	*w.buf = append(p, "\r\n"...)
	return w.err
}

// frame says how the body ends.
func (w *Writer) frame(p []byte, length int64, has bool) []byte {
	w.chunked = has && length < 0
	switch {
	case w.chunked:
		return append(p, "Transfer-Encoding: chunked\r\n"...)
	case has:
		return appendLength(p, length)
	}
	return p
}

// appendLength appends a Content-Length.
func appendLength(p []byte, n int64) []byte {
	p = append(p, "Content-Length: "...)
	p = strconv.AppendInt(p, n, 10)
	return append(p, "\r\n"...)
}

// appendFields appends fields as they came.
func appendFields(p []byte, fields message.Fields) []byte {
	for i := range fields {
		p = appendField(p, fields[i].Name, fields[i].Value)
	}
	return p
}

// appendField appends one line.
func appendField(p []byte, name, value string) []byte {
	p = append(p, name...)
	p = append(p, ": "...)
	p = append(p, value...)
	return append(p, "\r\n"...)
}

// Body writes a part of the body.
func (w *Writer) Body(part []byte) error {
	if len(part) == 0 || w.err != nil {
		return w.err
	}
	p := w.begin()
	if w.chunked {
		p = strconv.AppendInt(p, int64(len(part)), 16)
		p = append(p, "\r\n"...)
	}
	if len(p)+len(part) <= flushSize {
		p = append(p, part...)
		part = nil
	}
	*w.buf = p
	if part != nil {
		if w.Flush(); w.err == nil {
			_, w.err = w.dst.Write(part)
		}
	}
	if w.chunked {
		*w.grab() = append(*w.grab(), "\r\n"...)
	}
	return w.err
}

// End ends the body, with a trailer when it is sent in chunks.
func (w *Writer) End(trailer message.Fields) error {
	if w.chunked && w.err == nil {
		p := append(w.begin(), "0\r\n"...)
		p = appendFields(p, trailer)
		*w.buf = append(p, "\r\n"...)
	}
	w.chunked = false
	return w.err
}

// begin returns the gathered bytes to append to.
func (w *Writer) begin() []byte {
	if p := w.grab(); len(*p) >= flushSize {
		w.Flush()
	}
	return *w.grab()
}

// grab returns the buffer.
func (w *Writer) grab() *[]byte {
	if w.buf == nil {
		w.buf = outputs.Get().(*[]byte)
	}
	return w.buf
}

// Flush writes what was gathered and gives the buffer back.
func (w *Writer) Flush() error {
	if w.buf == nil {
		return w.err
	}
	if w.err == nil && len(*w.buf) > 0 {
		_, w.err = w.dst.Write(*w.buf)
	}
	if cap(*w.buf) <= 2*bufferSize {
		*w.buf = (*w.buf)[:0]
		outputs.Put(w.buf)
	}
	w.buf = nil
	return w.err
}
