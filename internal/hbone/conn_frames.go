package hbone

import (
	"encoding/binary"
	"time"

	"golang.org/x/net/http2"
)

// handleFrame handles a frame that is complete and not DATA.
func (c *conn) handleFrame(h frameHeader, p []byte) error {
	switch h.kind {
	case http2.FrameHeaders:
		return c.onHeaders(h, p)
	case http2.FrameContinuation:
		return c.onContinuation(h, p)
	case http2.FrameSettings:
		return c.onSettings(h, p)
	case http2.FramePing:
		return c.onPing(h, p)
	case http2.FrameGoAway:
		return c.onGoAway(p)
	case http2.FrameRSTStream:
		return c.onReset(h, p)
	default:
		return c.onWindowUpdate(h, p)
	}
}

// onHeaders begins a header block. Source: RFC 9113, section 6.2.
func (c *conn) onHeaders(h frameHeader, p []byte) error {
	pad := 0
	if h.flags.Has(http2.FlagHeadersPadded) {
		if len(p) == 0 {
			return protocolError(http2.ErrCodeFrameSize, "padded HEADERS without a pad length")
		}
		pad, p = int(p[0]), p[1:]
	}
	if h.flags.Has(http2.FlagHeadersPriority) {
		if len(p) < 5 {
			return protocolError(http2.ErrCodeFrameSize, "HEADERS of %d bytes with a priority", len(p))
		}
		p = p[5:]
	}
	if h.stream == 0 || pad > len(p) {
		return protocolError(http2.ErrCodeProtocol, "HEADERS on stream 0 or with too much padding")
	}
	p = p[:len(p)-pad]
	b := &c.in.block
	*b = block{stream: h.stream, endStream: h.flags.Has(http2.FlagHeadersEndStream), fragments: b.fragments[:0]}
	if h.flags.Has(http2.FlagHeadersEndHeaders) {
		return c.blockDone(p)
	}
	b.fragments = append(b.fragments, p...)
	return nil
}

// onContinuation takes one more piece of a header block.
func (c *conn) onContinuation(h frameHeader, p []byte) error {
	b := &c.in.block
	if b.stream == 0 {
		return protocolError(http2.ErrCodeProtocol, "CONTINUATION without HEADERS")
	}
	if b.pieces++; b.pieces > maxContinuation {
		return calm(LimitContinuation, "a header in more than %d pieces", maxContinuation)
	}
	b.fragments = append(b.fragments, p...)
	if h.flags.Has(http2.FlagContinuationEndHeaders) {
		return c.blockDone(b.fragments)
	}
	return nil
}

// blockDone decodes a header block and gives it to its stream.
func (c *conn) blockDone(p []byte) error {
	b := &c.in.block
	id, end := b.stream, b.endStream
	b.stream, b.pieces = 0, 0
	f, err := c.in.dec.decode(p)
	if cap(b.fragments) > 0 {
		b.fragments = nil // seldom needed: do not keep it
	}
	if err != nil {
		return err
	}
	if err := c.deliverPiece(); err != nil {
		return err
	}
	if c.cfg.server {
		return c.onRequest(id, f, end)
	}
	return c.onAnswer(id, f, end)
}

// onSettings takes the peer's SETTINGS. Source: RFC 9113, section 6.5.
func (c *conn) onSettings(h frameHeader, p []byte) error {
	if h.stream != 0 || len(p)%6 != 0 || h.flags.Has(http2.FlagSettingsAck) && len(p) > 0 {
		return protocolError(http2.ErrCodeFrameSize, "SETTINGS of %d bytes on stream %d", len(p), h.stream)
	}
	if !c.in.abuse.settings.take(settingsRate, 1, c.in.now()) {
		return calm(LimitSettings, "too many SETTINGS")
	}
	if h.flags.Has(http2.FlagSettingsAck) {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for ; len(p) > 0; p = p[6:] {
		id, v := http2.SettingID(binary.BigEndian.Uint16(p)), binary.BigEndian.Uint32(p[2:])
		if err := c.applySetting(id, v); err != nil {
			return err
		}
	}
	if !c.in.begun {
		c.in.begun = true
		c.life.heard = time.Now()
		close(c.up)
		if c.cfg.server {
			c.rec.Conn.SetReadDeadline(time.Time{})
			c.cfg.begun()
		}
		c.cfg.trace.connOpened(c.info)
	}
	c.in.changed = true
	c.enqueueFrame(http2.FrameSettings, http2.FlagSettingsAck, 0, nil)
	return c.enqueueAnswer(0)
}

// applySetting applies one setting of the peer. The caller holds c.mu.
func (c *conn) applySetting(id http2.SettingID, v uint32) error {
	w := &c.send
	switch id {
	case http2.SettingInitialWindowSize:
		if v > maxWindow {
			return &ConnError{Code: http2.ErrCodeFlowControl, Limit: LimitWindow, Why: "an initial window beyond 2^31-1"}
		}
		diff := int(v) - w.initWindow
		w.initWindow = int(v)
		for _, s := range c.streams {
			if s.sending.window += diff; s.sending.window > maxWindow {
				return &ConnError{Code: http2.ErrCodeFlowControl, Limit: LimitWindow, Why: "a window beyond 2^31-1"}
			}
			s.canSend.Signal()
		}
	case http2.SettingMaxFrameSize:
		if v < defaultPeerFrame || v > 1<<24-1 {
			return protocolError(http2.ErrCodeProtocol, "a frame size of %d", v)
		}
		w.frame = int(v)
	case http2.SettingMaxConcurrentStreams:
		w.peerStreams = int(min(v, 1<<31-1))
	case http2.SettingEnablePush:
		if v > 1 {
			return protocolError(http2.ErrCodeProtocol, "ENABLE_PUSH of %d", v)
		}
	}
	return nil
}

// onPing answers a PING, or takes the answer to ours.
func (c *conn) onPing(h frameHeader, p []byte) error {
	if h.stream != 0 {
		return protocolError(http2.ErrCodeProtocol, "PING on stream %d", h.stream)
	}
	if !c.in.abuse.ping.take(pingRate, 1, c.in.now()) {
		return calm(LimitPing, "too many PINGs")
	}
	if h.flags.Has(http2.FlagPingAck) {
		c.pingAnswered(p)
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.in.changed = true
	c.enqueueFrame(http2.FramePing, http2.FlagPingAck, 0, p)
	return c.enqueueAnswer(len(p))
}

// onGoAway: the peer takes no new streams. Those it has not looked at may be
// tried elsewhere. Source: RFC 9113, section 6.8.
func (c *conn) onGoAway(p []byte) error {
	if len(p) < 8 {
		return protocolError(http2.ErrCodeFrameSize, "GOAWAY of %d bytes", len(p))
	}
	if err := c.countControl(); err != nil {
		return err
	}
	last := binary.BigEndian.Uint32(p) &^ (1 << 31)
	debug := p[8:min(len(p), 8+256)]
	c.mu.Lock()
	first := c.life.goAway == nil
	ga := &GoAwayError{Code: http2.ErrCode(binary.BigEndian.Uint32(p[4:])), Debug: string(debug)}
	c.life.goAway = ga
	if first {
		close(c.away)
	}
	var lost []*Stream
	if !c.cfg.server {
		for id, s := range c.streams {
			if id > last {
				lost = append(lost, s)
			}
		}
	}
	c.mu.Unlock()
	for _, s := range lost {
		s.lose(&GoAwayError{Code: ga.Code, Debug: ga.Debug, Unprocessed: true})
	}
	c.leaveIfUnused()
	return nil
}

// onReset takes a RST_STREAM.
func (c *conn) onReset(h frameHeader, p []byte) error {
	s, err := c.lookup(h)
	if err != nil {
		return err
	}
	if s == nil {
		return c.countControl()
	}
	if err := c.deliverPiece(); err != nil {
		return err
	}
	c.mu.Lock()
	answered, ended := s.answered, s.recving.ended || s.sending.ended
	c.mu.Unlock()
	if !answered || !ended { // a request may end at once, and then be reset
		if err := c.countReset(answered); err != nil {
			return err
		}
	}
	s.resetByPeer(http2.ErrCode(binary.BigEndian.Uint32(p)))
	return nil
}

// onWindowUpdate takes credit. Source: RFC 9113, section 6.9.
func (c *conn) onWindowUpdate(h frameHeader, p []byte) error {
	if err := c.countControl(); err != nil {
		return err
	}
	n := int(binary.BigEndian.Uint32(p) &^ (1 << 31))
	if h.stream == 0 {
		if n == 0 {
			return protocolError(http2.ErrCodeProtocol, "WINDOW_UPDATE of 0")
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.send.window += n; c.send.window > maxWindow {
			return &ConnError{Code: http2.ErrCodeFlowControl, Limit: LimitWindow, Why: "a window beyond 2^31-1"}
		}
		c.wakeSenders(4)
		return nil
	}
	s, err := c.lookup(h)
	if s == nil || err != nil {
		return err
	}
	c.mu.Lock()
	s.sending.window += n
	over := s.sending.window > maxWindow
	s.canSend.Signal()
	c.mu.Unlock()
	switch {
	case over:
		return &ConnError{Code: http2.ErrCodeFlowControl, Limit: LimitWindow, Why: "a stream's window beyond 2^31-1"}
	case n == 0:
		s.abort(http2.ErrCodeProtocol, &ResetError{Code: http2.ErrCodeProtocol, Local: true})
	}
	return nil
}

// lookup finds the stream of a frame; nil when it is over. A stream that never
// was is an error of the peer.
func (c *conn) lookup(h frameHeader) (*Stream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lookupLocked(h.stream)
}

// lookupLocked is lookup for a caller that holds c.mu.
func (c *conn) lookupLocked(id uint32) (*Stream, error) {
	if s := c.streams[id]; s != nil {
		return s, nil
	}
	known := id%2 == 1 && id <= c.life.lastPeer
	if !c.cfg.server {
		known = id%2 == 1 && c.life.lastLocal != ^uint32(0) && id <= c.life.lastLocal
	}
	if !known {
		return nil, protocolError(http2.ErrCodeProtocol, "a frame for stream %d, which does not exist", id)
	}
	return nil, nil
}

// admitData checks size bytes of DATA against the windows and finds the stream;
// nil when the payload is to be thrown away.
func (c *conn) admitData(id uint32, size int, end bool) (*Stream, error) {
	c.mu.Lock()
	if size > c.recv.window {
		c.mu.Unlock()
		return nil, &ConnError{Code: http2.ErrCodeFlowControl, Limit: LimitWindow, Why: "more DATA than the connection's window"}
	}
	c.recv.window -= size
	s, err := c.lookupLocked(id)
	if err != nil {
		c.mu.Unlock()
		return nil, err
	}
	if s == nil {
		c.in.changed = c.creditConn(size) || c.in.changed
		c.mu.Unlock()
		if !c.in.abuse.stray.take(strayRate, size+frameHead, c.in.now()) {
			return nil, calm(LimitStray, "DATA on closed streams")
		}
		return nil, nil
	}
	r := &s.recving
	early, ended, over := !s.answered, r.ended, size > r.window
	switch {
	case early || ended:
		c.in.changed = c.creditConn(size) || c.in.changed
	case !over:
		r.window -= size
		r.ended = end
		c.recv.company.note(id, size, c.in.now())
	}
	c.mu.Unlock()
	switch {
	case early:
		s.abort(http2.ErrCodeProtocol, &ResetError{Code: http2.ErrCodeProtocol, Local: true})
		if !c.in.abuse.earlyData.take(earlyDataRate, 1, c.in.now()) {
			return nil, calm(LimitEarlyData, "DATA before the CONNECT was answered")
		}
		c.cfg.trace.limitHit(LimitEarlyData)
		return nil, nil
	case ended:
		s.abort(http2.ErrCodeStreamClosed, &ResetError{Code: http2.ErrCodeStreamClosed, Local: true})
		return nil, nil
	case over:
		return nil, &ConnError{Code: http2.ErrCodeFlowControl, Limit: LimitWindow, Why: "more DATA than the stream's window"}
	}
	return s, nil
}

// credit gives back n bytes of window that s has used. Call kick, or set
// parser.changed, when it returns true.
func (c *conn) credit(s *Stream, n int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed := c.creditConn(n)
	if !s.recving.ended && !s.over && c.creditStream(s, n) {
		changed = true
	}
	return changed
}

// creditConn gives n bytes back to the connection. The caller holds c.mu.
func (c *conn) creditConn(n int) bool {
	if c.recv.unacked += n; c.recv.unacked < c.cfg.ConnWindow/creditParts {
		return false
	}
	c.enqueueWindow(0, c.recv.unacked)
	c.recv.window += c.recv.unacked
	c.recv.unacked = 0
	return true
}
