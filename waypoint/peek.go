package waypoint

import (
	"context"
	"io"
	"slices"

	"github.com/ambit-mesh/ambit/waypoint/filter"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

// firstPeek is how many bytes of a body are made room for before any has come. It
// is our choice: most bodies that a provider looks at are smaller.
const firstPeek = 4 << 10

// peeked is a body whose beginning was read ahead.
type peeked struct {
	message.Body
	data []byte
}

// Read implements [message.Body].
func (p *peeked) Read(to []byte) (int, error) {
	if len(p.data) == 0 {
		return p.Body.Read(to)
	}
	n := copy(to, p.data)
	p.data = p.data[n:]
	return n, nil
}

// Buffered implements [message.Body].
func (p *peeked) Buffered() int { return len(p.data) + p.Body.Buffered() }

// peek reads at most so many bytes of the request's body ahead. With more of them
// the request is refused, unless a part is enough. The body stays complete for the
// application.
func (f *flight) peek(ctx context.Context, most int, part bool) (body []byte, partial bool, answer *filter.Answer) {
	if f.req.Body == nil {
		return nil, false, nil
	}
	stop := context.AfterFunc(ctx, f.x.StopReading)
	defer stop()
	f.ask100()
	// It grows with what arrives: a client that only announces a body holds nothing.
	buf := make([]byte, 0, min(most+1, firstPeek))
	var err error
	for len(buf) <= most && err == nil { // one byte more says that there is more
		if len(buf) == cap(buf) {
			buf = slices.Grow(buf, min(len(buf), most+1-len(buf)))
		}
		var got int
		got, err = f.req.Body.Read(buf[len(buf):min(cap(buf), most+1)])
		buf = buf[:len(buf)+got]
	}
	n := len(buf)
	switch {
	case err == io.EOF:
		f.req.Body = &message.Replayed{Data: buf, Tail: f.req.Body.Trailer()}
	case err != nil:
		return nil, false, &filter.Answer{Status: 400, Flag: "DPE", Details: err.Error()}
	default:
		f.req.Body = &peeked{Body: f.req.Body, data: buf}
	}
	if n > most && !part {
		return nil, false, &filter.Answer{Status: 413, Body: "Payload Too Large", Flag: "UAEX", Details: "the body is larger than what the provider looks at"}
	}
	return buf[:min(n, most)], n > most, nil
}

// ask100 asks a client for the body that it keeps back until somebody wants it, which
// is us. Source: RFC 9110, section 10.1.1.
func (f *flight) ask100() {
	if !f.req.Fields.Has("expect") || f.req.Version == message.HTTP10 {
		return
	}
	if f.req.Body.Buffered() == 0 {
		f.x.Respond(&message.Response{Status: 100, Reason: "Continue"}, false) // who cannot hear it sends no body either
		f.x.Flush()
	}
	f.own()
	f.req.Fields.Del("expect")
}
