package http1

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ambit-mesh/ambit/waypoint/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pieces is a source that gives its text in pieces of so many bytes.
type pieces struct {
	text string
	size int
	read int // how often it was read
}

func (p *pieces) SetReadDeadline(time.Time) error { return nil }

func (p *pieces) Read(b []byte) (int, error) {
	p.read++
	if p.text == "" {
		return 0, io.EOF
	}
	n := copy(b, p.text[:min(p.size, len(p.text))])
	p.text = p.text[n:]
	return n, nil
}

// forward reads all requests of text and writes them as they would go on. The
// error is why it stopped, nil at a clean end.
func forward(text string, size int) (out string, count int, err error) {
	src := &pieces{text: text, size: size}
	r := NewReader(src)
	var sent bytes.Buffer
	w := NewWriter(&sent)
	buf := make([]byte, 37)
	for {
		var req message.Request
		err := r.ReadRequest(&req)
		if err == io.EOF {
			err = nil
		}
		if err != nil || req.Method == "" {
			w.Flush()
			return sent.String(), count, err
		}
		w.Request(&req)
		if req.Body != nil {
			for err == nil {
				var n int
				ready, before := req.Body.Buffered(), src.read
				if n, err = req.Body.Read(buf); ready > 0 && src.read > before {
					return "", count, errWaited
				}
				w.Body(buf[:n])
			}
			if err != io.EOF {
				return sent.String(), count, err
			}
			w.End(req.Body.Trailer())
		}
		count++
		if !r.KeepsAlive() || req.Upgrade != "" {
			w.Flush()
			return sent.String(), count, nil
		}
	}
}

// errWaited is a body that says it has something and then waits for it: who relies on
// that keeps back what it should send on.
var errWaited = errors.New("a body of which something was there has waited")

// lines joins lines as HTTP wants them.
func lines(l ...string) string { return strings.Join(l, "\r\n") }

// statusOf is the status that err is answered with.
func statusOf(err error) int {
	if e, ok := errors.AsType[*message.Error](err); ok {
		return e.Status
	}
	return 0
}
