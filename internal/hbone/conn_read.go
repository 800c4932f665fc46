package hbone

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"time"

	"golang.org/x/net/http2"
)

// frameHeader is the head of a frame. Source: RFC 9113, section 4.1.
type frameHeader struct {
	length int
	kind   http2.FrameType
	flags  http2.Flags
	stream uint32
}

// parseFrameHeader reads the first nine bytes of p.
func parseFrameHeader(p []byte) frameHeader {
	_ = p[frameHead-1]
	return frameHeader{
		length: int(p[0])<<16 | int(p[1])<<8 | int(p[2]),
		kind:   http2.FrameType(p[3]),
		flags:  http2.Flags(p[4]),
		stream: binary.BigEndian.Uint32(p[5:]) &^ (1 << 31),
	}
}

// parser is what the reader of a connection knows. Only the reader uses it.
type parser struct {
	buf   *buffer // plaintext that came and is not parsed; nil when none
	need  int     // how many bytes must be there before parsing goes on
	fate  error   // why nothing comes behind what is there
	hello int     // server: bytes of the preface still to come
	begun bool    // SETTINGS have come

	data  dataFrame
	skip  int // bytes to be thrown away
	piece piece

	dec     *decoder
	block   block
	abuse   abuse
	updates int       // of the peer's keys, counted
	clock   time.Time // of the current batch
	late    bool      // clock is to be read anew
	changed bool      // something was queued for the peer
	ctx     context.Context
}

// dataFrame is a DATA frame whose payload has not all come.
type dataFrame struct {
	stream *Stream // nil: the payload is thrown away
	left   int     // of payload without padding
	pad    int
	end    bool
	open   bool
}

// piece is payload of one stream, put together from frames that followed one
// another, and not yet delivered.
type piece struct {
	stream  *Stream
	at, end int // in parser.buf.b
}

// joinMost is the largest payload worth moving to the one before it, so that
// both take one system call, in bytes.
const joinMost = 64 << 10

// init prepares the parser of c.
func (p *parser) init(c *conn) {
	p.dec = newDecoder(c.cfg.headerBytes)
	if c.cfg.server {
		p.hello = len(http2.ClientPreface)
	}
}

// drop frees what the parser holds.
func (p *parser) drop() {
	p.buf.free()
	p.buf = nil
	p.block.fragments = nil
}

// now is the time of the current batch.
func (p *parser) now() time.Time {
	if p.late {
		p.clock, p.late = time.Now(), false
	}
	return p.clock
}

// read serves the peer's frames until the connection ends. It never returns
// nil.
func (c *conn) read(ctx context.Context) error {
	p := &c.in
	p.ctx = ctx
	for {
		if err := c.fill(); err != nil {
			return err
		}
		p.late = true
		err := c.parse()
		if derr := c.deliverPiece(); err == nil {
			err = derr
		}
		if p.changed {
			p.changed = false
			c.kick()
		}
		if err != nil {
			return err
		}
	}
}

// fill gets plaintext until parsing can go on: all that has come already, as
// far as there is room. It waits without a buffer.
func (c *conn) fill() error {
	p, got := &c.in, 0
	if p.fate != nil {
		return p.fate
	}
	for {
		if err := c.makeRoom(); err != nil {
			return err
		}
		n, full, err := c.tls.read(p.buf.room())
		p.buf.w += n
		got += n
		if err == error(errWouldBlock{}) {
			err = nil
		}
		if p.buf.len() >= p.need && got > 0 {
			p.fate = err
			c.noteBatch(got)
			return c.countUpdates()
		}
		if err != nil {
			return err
		}
		if full {
			continue
		}
		c.park()
		if err := c.tls.wait(); err != nil {
			return c.late(err)
		}
	}
}

// late turns the passed deadline for the preface into what it means.
func (c *conn) late(err error) error {
	if c.cfg.server && !c.in.begun && errors.Is(err, os.ErrDeadlineExceeded) {
		return &ConnError{Code: http2.ErrCodeProtocol, Limit: LimitPreface, Why: "no HTTP/2 preface in time"}
	}
	return err
}

// makeRoom moves what is not parsed to the front, and into a larger buffer when
// a frame does not fit.
func (c *conn) makeRoom() error {
	p := &c.in
	ready := c.tls.ready()
	if p.buf == nil {
		p.buf = grab(c.cfg.budget, max(record, classFor(ready)))
		return nil
	}
	p.buf.compact()
	class := max(record, classFor(p.buf.len()+ready))
	var bigger *buffer
	switch {
	case len(p.buf.b) < max(p.need, p.buf.len()+1):
		bigger = newLarger(c.cfg.budget, p.need)
	case p.buf.class < class && p.buf.len() <= classPayload[tiny]:
		bigger = grab(c.cfg.budget, class)
	default:
		return nil
	}
	if len(bigger.b) < p.need {
		bigger.free()
		return calm(LimitHeaderBytes, "a frame of %d bytes", p.need)
	}
	bigger.add(p.buf.bytes())
	p.buf.free()
	p.buf = bigger
	return nil
}

// newLarger returns a buffer for n bytes whatever the budget says: n is bounded
// by the limits on headers.
func newLarger(budget *Budget, n int) *buffer {
	class := max(large, classFor(n))
	budget.force(classPayload[class] + classSlack[class])
	return newBuffer(budget, class)
}

// countUpdates counts the peer's key updates.
func (c *conn) countUpdates() error {
	p := &c.in
	n := c.tls.updates() - p.updates
	if p.updates += n; n > 0 && !p.abuse.keyUpdate.take(keyUpdateRate, n, time.Now()) {
		return calm(LimitKeyUpdate, "too many key updates")
	}
	return nil
}

// park gives back what a waiting connection need not hold.
func (c *conn) park() {
	p := &c.in
	switch n := p.buf.len(); {
	case n == 0:
		p.buf.free()
		p.buf = nil
	case p.buf.class > record && max(n+1, p.need) <= classPayload[record]:
		small := grab(c.cfg.budget, record)
		small.add(p.buf.bytes())
		p.buf.free()
		p.buf = small
	}
}

// parse handles all frames that are there.
func (c *conn) parse() error {
	p := &c.in
	for {
		p.need = 0
		avail := p.buf.len()
		switch {
		case p.data.open:
			if avail == 0 && p.data.left+p.data.pad > 0 {
				return nil
			}
			if err := c.takeData(); err != nil {
				return err
			}
		case p.skip > 0:
			if avail == 0 {
				return nil
			}
			n := min(p.skip, avail)
			p.buf.r += n
			p.skip -= n
		case p.hello > 0:
			if avail == 0 {
				return nil
			}
			if err := c.takeHello(); err != nil {
				return err
			}
		default:
			more, err := c.nextFrame()
			if more || err != nil {
				return err
			}
		}
	}
}

// takeHello compares what came with the preface of a client.
func (c *conn) takeHello() error {
	p := &c.in
	n := min(p.hello, p.buf.len())
	want := http2.ClientPreface[len(http2.ClientPreface)-p.hello:]
	if string(p.buf.bytes()[:n]) != want[:n] {
		return &ConnError{Code: http2.ErrCodeProtocol, Limit: LimitPreface, Why: "no HTTP/2 preface"}
	}
	p.buf.r += n
	p.hello -= n
	return nil
}

// nextFrame handles one frame, of DATA only the head. More means that the frame
// is not there yet.
func (c *conn) nextFrame() (more bool, err error) {
	p := &c.in
	if p.buf.len() < frameHead {
		p.need = frameHead
		return true, nil
	}
	h := parseFrameHeader(p.buf.bytes())
	if err := c.checkFrame(h); err != nil {
		return false, err
	}
	size := frameHead + h.length
	switch h.kind {
	case http2.FrameData:
		size = frameHead
		if h.flags.Has(http2.FlagDataPadded) {
			size++
		}
	case http2.FrameHeaders, http2.FrameContinuation, http2.FrameSettings, http2.FramePing,
		http2.FrameGoAway, http2.FrameRSTStream, http2.FrameWindowUpdate:
	default: // PRIORITY and whatever we do not know
		p.buf.r += frameHead
		p.skip = h.length
		return false, c.countControl()
	}
	if p.buf.len() < size {
		p.need = size
		return true, nil
	}
	payload := p.buf.bytes()[frameHead:size]
	p.buf.r += size
	if h.kind == http2.FrameData {
		return false, c.beginData(h, payload)
	}
	return false, c.handleFrame(h, payload)
}

// checkFrame looks at what can be seen before the payload is there.
func (c *conn) checkFrame(h frameHeader) error {
	p := &c.in
	if h.length > c.cfg.FrameSize {
		return protocolError(http2.ErrCodeFrameSize, "a frame of %d bytes", h.length)
	}
	if !p.begun && (h.kind != http2.FrameSettings || h.flags.Has(http2.FlagSettingsAck)) {
		return &ConnError{Code: http2.ErrCodeProtocol, Limit: LimitPreface, Why: "no SETTINGS at first"}
	}
	if p.block.stream != 0 && (h.kind != http2.FrameContinuation || h.stream != p.block.stream) {
		return protocolError(http2.ErrCodeProtocol, "%v inside a header", h.kind)
	}
	switch h.kind {
	case http2.FrameHeaders, http2.FrameContinuation:
		// Padding and priority add at most 261 bytes.
		if len(p.block.fragments)+h.length > c.cfg.headerBytes+261 {
			return calm(LimitHeaderBytes, "header of more than %d bytes", c.cfg.headerBytes)
		}
	case http2.FrameData, http2.FramePriority:
	case http2.FramePushPromise:
		return protocolError(http2.ErrCodeProtocol, "PUSH_PROMISE, which nobody allowed")
	case http2.FrameSettings, http2.FrameGoAway:
		if h.length > 4<<10 {
			return calm(LimitControl, "%v of %d bytes", h.kind, h.length)
		}
	case http2.FramePing, http2.FrameRSTStream, http2.FrameWindowUpdate:
		if h.length != 8 && h.kind == http2.FramePing || h.length != 4 && h.kind != http2.FramePing {
			return protocolError(http2.ErrCodeFrameSize, "%v of %d bytes", h.kind, h.length)
		}
	}
	return nil
}

// beginData takes the head of a DATA frame and checks it against the windows.
// payload holds the length of the padding if there is any.
func (c *conn) beginData(h frameHeader, payload []byte) error {
	pad, extra := 0, 0
	if h.flags.Has(http2.FlagDataPadded) {
		if h.length == 0 {
			return protocolError(http2.ErrCodeFrameSize, "padded DATA without a pad length")
		}
		pad, extra = int(payload[0]), 1
	}
	left := h.length - extra - pad
	if h.stream == 0 || left < 0 {
		return protocolError(http2.ErrCodeProtocol, "DATA on stream 0 or with too much padding")
	}
	end := h.flags.Has(http2.FlagDataEndStream)
	if err := c.countData(left, end); err != nil {
		return err
	}
	s, err := c.admitData(h.stream, h.length, end)
	if err != nil {
		return err
	}
	if s == nil {
		c.in.skip = h.length - extra
		return nil
	}
	if pad+extra > 0 && c.credit(s, pad+extra) {
		c.in.changed = true
	}
	c.in.data = dataFrame{stream: s, left: left, pad: pad, end: end, open: true}
	return nil
}

// takeData takes what has come of a DATA frame. The payload joins what was
// there before of the same stream.
func (c *conn) takeData() error {
	p := &c.in
	d := &p.data
	if n := min(d.left, p.buf.len()); n > 0 {
		if p.piece.stream != nil && (p.piece.stream != d.stream || n > joinMost && p.piece.end != p.buf.r) {
			if err := c.deliverPiece(); err != nil {
				return err
			}
		}
		if p.piece.stream == nil {
			p.piece = piece{stream: d.stream, at: p.buf.r, end: p.buf.r + n}
		} else {
			copy(p.buf.b[p.piece.end:], p.buf.bytes()[:n])
			p.piece.end += n
		}
		p.buf.r += n
		d.left -= n
	}
	if d.left > 0 {
		return nil
	}
	n := min(d.pad, p.buf.len())
	p.buf.r += n
	d.pad -= n
	if d.pad > 0 {
		return nil
	}
	s, end := d.stream, d.end
	*d = dataFrame{}
	if !end {
		return nil
	}
	if err := c.deliverPiece(); err != nil {
		return err
	}
	s.receiveEnd()
	return nil
}

// deliverPiece gives what was put together to its stream.
func (c *conn) deliverPiece() error {
	pc := c.in.piece
	if pc.stream == nil {
		return nil
	}
	c.in.piece = piece{}
	return pc.stream.receive(c.in.buf.b[pc.at:pc.end])
}
