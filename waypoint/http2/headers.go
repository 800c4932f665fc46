package http2

import (
	"errors"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/ambit-mesh/ambit/internal/h2"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

// block is a header while its pieces come in, and what it says once they have.
type block struct {
	stream uint32 // 0: none is under way
	ends   bool   // the stream ends with it
	bytes  []byte

	method, scheme, authority, path, status string
	fields                                  message.Fields
	size                                    int
	cookies                                 int
	bad                                     bool
}

// initHeaders prepares the decoder.
func (in *reader) initHeaders() {
	in.dec = hpack.NewDecoder(4096, in.emit)
	in.dec.SetMaxStringLength(maxHeaderList)
}

// onHeaders takes the first piece of a header.
func (in *reader) onHeaders(h h2.FrameHead, p []byte) error {
	if h.Stream == 0 {
		return broken(http2.ErrCodeProtocol, "HEADERS on stream 0")
	}
	p, err := unpad(h, p)
	if err != nil {
		return err
	}
	if h.Flags.Has(http2.FlagHeadersPriority) {
		if len(p) < 5 {
			return broken(http2.ErrCodeFrameSize, "bad HEADERS")
		}
		p = p[5:]
	}
	in.block.ends = h.Flags.Has(http2.FlagHeadersEndStream)
	if h.Flags.Has(http2.FlagHeadersEndHeaders) {
		return in.complete(h.Stream, p)
	}
	in.block.stream = h.Stream
	in.block.bytes = append(in.block.bytes[:0], p...)
	return nil
}

// onContinuation takes a further piece.
func (in *reader) onContinuation(h h2.FrameHead, p []byte) error {
	if in.block.stream == 0 {
		return broken(http2.ErrCodeProtocol, "CONTINUATION of nothing")
	}
	if len(p) == 0 {
		if err := in.spend(&in.empty, emptyRate, "too many empty CONTINUATIONs"); err != nil {
			return err
		}
	}
	if in.block.bytes = append(in.block.bytes, p...); len(in.block.bytes) > maxBlock {
		return broken(http2.ErrCodeEnhanceYourCalm, "header block too large")
	}
	if !h.Flags.Has(http2.FlagHeadersEndHeaders) {
		return nil
	}
	in.block.stream = 0
	err := in.complete(h.Stream, in.block.bytes)
	in.block.bytes = nil
	return err
}

// complete decodes a whole header and hands it on.
func (in *reader) complete(stream uint32, p []byte) error {
	b := &in.block
	b.method, b.scheme, b.authority, b.path, b.status = "", "", "", "", ""
	b.fields, b.size, b.cookies, b.bad = nil, 0, 0, false
	err := in.decode(p)
	if b.size > maxHeaderList || len(b.fields) > maxFields || errors.Is(err, hpack.ErrStringLength) {
		return broken(http2.ErrCodeEnhanceYourCalm, "header too large")
	}
	if err != nil {
		return broken(http2.ErrCodeCompression, "header block: %v", err)
	}
	if in.c.handle != nil {
		return in.onRequest(stream)
	}
	return in.onAnswer(stream)
}

// aField is a header of one field of the static table. Source: RFC 7541, section 6.1
// and appendix A.
var aField = []byte{0x82}

// decode has the fields of a whole header emitted. Then the decoder looks at another
// one: it would hold on to p, and so to a buffer that this connection has given back.
func (in *reader) decode(p []byte) error {
	in.dec.SetEmitEnabled(true)
	_, err := in.dec.Write(p)
	if err == nil {
		err = in.dec.Close()
	}
	in.dec.SetEmitEnabled(false)
	// Errors would be those of p.
	_, _ = in.dec.Write(aField)
	_ = in.dec.Close()
	return err
}

// emit takes one field of a header. Source: RFC 9113, section 8.2.
func (in *reader) emit(f hpack.HeaderField) {
	b := &in.block
	if b.size += int(f.Size()); b.size > maxHeaderList || len(b.fields) > maxFields {
		in.dec.SetEmitEnabled(false)
		return
	}
	if f.IsPseudo() {
		in.pseudo(f)
		return
	}
	switch {
	case !message.ValidName(f.Name) || strings.ToLower(f.Name) != f.Name || !message.ValidValue(f.Value):
		b.bad = true
	case f.Name == "te":
		b.bad = b.bad || f.Value != "trailers"
	case message.HopByHop(f.Name):
		b.bad = true // no field of a connection has a place here
		return
	case f.Name == "cookie" && b.cookies > 0:
		// Cookies come in crumbs and mean one field. Source: section 8.2.3.
		b.fields[b.cookies-1].Value += "; " + f.Value
		return
	}
	b.fields = append(b.fields, message.Field{Name: f.Name, Value: f.Value})
	if f.Name == "cookie" {
		b.cookies = len(b.fields)
	}
}

// pseudo takes a field of the first line: once, and before all others.
func (in *reader) pseudo(f hpack.HeaderField) {
	b := &in.block
	var into *string
	switch f.Name {
	case ":method":
		into = &b.method
	case ":scheme":
		into = &b.scheme
	case ":authority":
		into = &b.authority
	case ":path":
		into = &b.path
	case ":status":
		into = &b.status
	default:
		b.bad = true
		return
	}
	b.bad = b.bad || *into != "" || len(b.fields) > 0 || f.Value == ""
	*into = f.Value
}

// trailers turns the header into trailers; ok is false when it is none.
func (b *block) trailers() (message.Fields, bool) {
	if b.bad || b.method != "" || b.scheme != "" || b.authority != "" || b.path != "" || b.status != "" {
		return nil, false
	}
	for _, f := range b.fields {
		if !message.AllowedTrailer(f.Name) {
			return nil, false
		}
	}
	return b.fields, true
}

// length takes Content-Length out of the fields. ok is false when it is none.
func (b *block) length() (n int64, ok bool) {
	n = message.Unknown
	kept := b.fields[:0]
	for _, f := range b.fields {
		if f.Name != "content-length" {
			kept = append(kept, f)
			continue
		}
		if n >= 0 || f.Value == "" || len(f.Value) > 18 {
			return 0, false
		}
		n = 0
		for i := range len(f.Value) {
			d := f.Value[i] - '0'
			if d > 9 {
				return 0, false
			}
			n = n*10 + int64(d)
		}
	}
	b.fields = kept
	return n, true
}

// request makes a request of the header. Source: RFC 9113, section 8.3.1.
func (b *block) request() (*message.Request, error) {
	if b.bad || b.status != "" || b.method == "" || b.scheme == "" || b.path == "" || !message.ValidName(b.method) {
		return nil, message.Bad("malformed header")
	}
	if b.method == "CONNECT" {
		return nil, &message.Error{Status: 405, Text: "CONNECT inside a tunnel"}
	}
	if b.scheme != "http" && b.scheme != "https" {
		return nil, message.Bad("scheme is neither http nor https")
	}
	if b.path == "*" && b.method != "OPTIONS" {
		return nil, message.Bad("target: a star is for OPTIONS only")
	}
	length, ok := b.length()
	if !ok {
		return nil, message.Bad("bad Content-Length")
	}
	req := &message.Request{Version: message.HTTP2, Method: b.method, Scheme: b.scheme, Authority: b.authority, Length: length}
	for host := range b.fields.Values("host") {
		if req.Authority == "" {
			req.Authority = host
		}
		if host != req.Authority {
			return nil, message.Bad(":authority and host differ")
		}
	}
	b.fields.Del("host")
	req.Trailers = b.fields.Get("te") != ""
	b.fields.Del("te")
	req.Fields = b.fields
	var err error
	if req.Host, _, err = message.CanonicalHost(req.Authority); err != nil {
		return nil, err
	}
	req.Target, err = message.ParseTarget(b.path)
	return req, err
}

// onRequest takes the header that a client sends: of a new request, or trailers.
func (in *reader) onRequest(id uint32) error {
	c := in.c
	if id%2 == 0 {
		return broken(http2.ErrCodeProtocol, "HEADERS on stream %d", id)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if id <= c.lastPeer {
		return in.onTrailers(c.streams[id])
	}
	c.lastPeer = id
	if id > c.upTo || len(c.streams) >= maxStreams {
		in.answered = true
		c.out.addReset(id, http2.ErrCodeRefusedStream)
		return in.spend(&in.refused, refusedRate, "more streams than allowed")
	}
	req, err := in.block.request()
	if err != nil {
		in.answered = true
		var refused *message.Error
		if !errors.As(err, &refused) {
			refused = message.Bad("malformed")
		}
		c.addHeaders(id, h2.AppendStatus(nil, refused.Status), true)
		if !in.block.ends {
			c.out.addReset(id, http2.ErrCodeNo)
		}
		return in.spend(&in.refused, refusedRate, "too many malformed requests")
	}
	s := c.newStream(id)
	s.recv.gotHead, s.recv.length = true, req.Length
	if in.block.ends {
		if req.Length > 0 {
			c.out.addReset(id, http2.ErrCodeProtocol)
			in.answered = true
			return in.spend(&in.refused, refusedRate, "too many malformed requests")
		}
		s.recv.ended, req.Length = true, 0
	} else {
		req.Body = s
	}
	s.req = req
	s.begun = time.Now()
	c.streams[id] = s
	c.workers.Run(func() { c.serve(s) })
	return nil
}

// onTrailers takes a second header of a stream. The caller holds mu.
func (in *reader) onTrailers(s *Stream) error {
	if s == nil {
		return in.spend(&in.control, controlRate, "too many headers of streams that are over")
	}
	tail, ok := in.block.trailers()
	if !ok || !in.block.ends || s.recv.ended {
		return in.resetStream(s, http2.ErrCodeProtocol)
	}
	s.recv.tail = tail
	return in.endOfStream(s)
}

// onAnswer takes the header that a server sends: of an answer, or trailers.
func (in *reader) onAnswer(id uint32) error {
	c := in.c
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[id]
	if s == nil {
		if c.isIdle(id) {
			return broken(http2.ErrCodeProtocol, "HEADERS on a stream that never was")
		}
		return in.spend(&in.control, controlRate, "too many headers of streams that are over")
	}
	if s.recv.gotHead {
		return in.onTrailers(s)
	}
	b := &in.block
	length, ok := b.length()
	if b.bad || !ok || len(b.status) != 3 || b.method != "" || b.path != "" || b.scheme != "" || b.authority != "" {
		return in.resetStream(s, http2.ErrCodeProtocol)
	}
	status := 0
	for i := range 3 {
		d := b.status[i] - '0'
		if d > 9 {
			return in.resetStream(s, http2.ErrCodeProtocol)
		}
		status = status*10 + int(d)
	}
	resp := &message.Response{Version: message.HTTP2, Status: status, Fields: b.fields, Length: length}
	if status < 200 {
		if status < 100 || status == 101 || b.ends || len(s.answers) >= maxInformational {
			return in.resetStream(s, http2.ErrCodeProtocol)
		}
		resp.Length = 0
		s.answers = append(s.answers, resp)
		s.recv.ready.Signal()
		return nil
	}
	s.recv.gotHead = true
	noBody := s.method == "HEAD" || status == 204 || status == 304
	if s.recv.length = length; noBody {
		s.recv.length = min(length, 0)
	}
	if b.ends {
		if resp.Length < 0 && !noBody {
			resp.Length = 0
		}
		if s.recv.length > 0 {
			return in.resetStream(s, http2.ErrCodeProtocol)
		}
	} else {
		resp.Body = s
	}
	s.answers = append(s.answers, resp)
	if b.ends {
		s.recv.length = message.Unknown
		return in.endOfStream(s)
	}
	s.recv.ready.Signal()
	return nil
}

// maxInformational is how many answers before the final one wait to be read.
const maxInformational = 8
