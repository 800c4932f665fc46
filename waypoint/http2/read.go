package http2

import (
	"encoding/binary"
	"io"
	"sync"
	"time"

	"golang.org/x/net/http2"

	"github.com/ambit-mesh/ambit/internal/h2"
)

// readSize holds one frame of the largest size, and more when they are small.
const readSize = 2 * (h2.HeadSize + maxFrame)

// buffers are those of readers that have something to parse.
var buffers = sync.Pool{New: func() any { return new([readSize]byte) }}

// waiter is a connection that can wait without a buffer.
type waiter interface{ WaitReadable() error }

// init prepares the reader of c.
func (in *reader) init(c *Conn) {
	in.c = c
	in.initHeaders()
	if c.handle != nil {
		in.hello = len(http2.ClientPreface)
	}
}

// run reads until the connection ends.
func (in *reader) run(initial []byte) error {
	in.buf = buffers.Get().(*[readSize]byte)[:]
	defer in.release()
	in.w = copy(in.buf, initial)
	rest := initial[in.w:]
	for {
		in.clock = time.Time{}
		err := in.parse()
		if in.answered {
			in.answered = false
			in.c.flush()
		}
		if err != nil {
			return err
		}
		if in.r == in.w {
			in.r, in.w = 0, 0
		} else if in.r > 0 {
			in.w = copy(in.buf, in.buf[in.r:in.w])
			in.r = 0
		}
		if len(rest) > 0 {
			n := copy(in.buf[in.w:], rest)
			in.w, rest = in.w+n, rest[n:]
			continue
		}
		if err := in.fill(); err != nil {
			return err
		}
	}
}

// release gives the buffer back.
func (in *reader) release() {
	if in.buf != nil {
		buffers.Put((*[readSize]byte)(in.buf))
		in.buf = nil
	}
}

// fill reads once, and waits without a buffer when it can.
func (in *reader) fill() error {
	if w, ok := in.c.conn.(waiter); ok && in.w == 0 {
		in.release()
		if err := w.WaitReadable(); err != nil {
			return err
		}
	}
	if in.buf == nil {
		in.buf = buffers.Get().(*[readSize]byte)[:]
	}
	n, err := in.c.conn.Read(in.buf[in.w:])
	if in.w += n; n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// now is the time of the current batch.
func (in *reader) now() time.Time {
	if in.clock.IsZero() {
		in.clock = time.Now()
	}
	return in.clock
}

// parse handles the frames that are there.
func (in *reader) parse() error {
	for {
		p := in.buf[in.r:in.w]
		if in.hello > 0 {
			n := min(in.hello, len(p))
			want := http2.ClientPreface[len(http2.ClientPreface)-in.hello:]
			if string(p[:n]) != want[:n] {
				return broken(http2.ErrCodeProtocol, "no preface")
			}
			in.hello -= n
			in.r += n
			if in.hello > 0 {
				return nil
			}
			continue
		}
		if len(p) < h2.HeadSize {
			return nil
		}
		h := h2.ParseHead(p)
		if err := in.check(h); err != nil {
			return err
		}
		if len(p) < h2.HeadSize+h.Length {
			return nil
		}
		in.r += h2.HeadSize + h.Length
		if err := in.frame(h, p[h2.HeadSize:h2.HeadSize+h.Length]); err != nil {
			return err
		}
	}
}

// check refuses a frame by its head.
func (in *reader) check(h h2.FrameHead) error {
	switch {
	case h.Length > maxFrame:
		return broken(http2.ErrCodeFrameSize, "frame of %d bytes", h.Length)
	case !in.begun && h.Kind != http2.FrameSettings:
		return broken(http2.ErrCodeProtocol, "no SETTINGS at the beginning")
	case in.block.stream != 0 && (h.Kind != http2.FrameContinuation || h.Stream != in.block.stream):
		return broken(http2.ErrCodeProtocol, "a header is interrupted")
	}
	return nil
}

// frame handles one frame.
func (in *reader) frame(h h2.FrameHead, p []byte) error {
	switch h.Kind {
	case http2.FrameData:
		return in.onData(h, p)
	case http2.FrameHeaders:
		return in.onHeaders(h, p)
	case http2.FrameContinuation:
		return in.onContinuation(h, p)
	case http2.FrameRSTStream:
		return in.onReset(h, p)
	case http2.FrameSettings:
		return in.onSettings(h, p)
	case http2.FramePing:
		return in.onPing(h, p)
	case http2.FrameGoAway:
		return in.onGoAway(h, p)
	case http2.FrameWindowUpdate:
		return in.onWindowUpdate(h, p)
	case http2.FramePushPromise:
		return broken(http2.ErrCodeProtocol, "PUSH_PROMISE")
	}
	return in.spend(&in.control, controlRate, "too many frames that say nothing")
}

// spend counts something that costs us more than it carries.
func (in *reader) spend(b *h2.Bucket, r h2.Rate, why string) error {
	if b.Take(r, 1, in.now()) {
		return nil
	}
	return broken(http2.ErrCodeEnhanceYourCalm, "%s", why)
}

// unpad removes padding. Source: RFC 9113, section 6.1.
func unpad(h h2.FrameHead, p []byte) ([]byte, error) {
	if !h.Flags.Has(http2.FlagDataPadded) { // the same bit for HEADERS
		return p, nil
	}
	if len(p) == 0 || int(p[0]) >= len(p) {
		return nil, broken(http2.ErrCodeProtocol, "padding longer than its frame")
	}
	return p[1 : len(p)-int(p[0])], nil
}

// onData takes a part of a body.
func (in *reader) onData(h h2.FrameHead, p []byte) error {
	if h.Stream == 0 {
		return broken(http2.ErrCodeProtocol, "DATA on stream 0")
	}
	body, err := unpad(h, p)
	if err != nil {
		return err
	}
	ends := h.Flags.Has(http2.FlagDataEndStream)
	if len(body) == 0 && !ends {
		if err := in.spend(&in.empty, emptyRate, "too much empty DATA"); err != nil {
			return err
		}
	}
	c := in.c
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[h.Stream]
	if s == nil {
		if c.isIdle(h.Stream) {
			return broken(http2.ErrCodeProtocol, "DATA on a stream that never was")
		}
		in.giveBack(len(p)) // of a stream that we have reset
		return nil
	}
	if s.recv.window -= len(p); s.recv.window < 0 {
		return broken(http2.ErrCodeFlowControl, "more DATA than the window allows")
	}
	in.giveBack(len(p) - len(body)) // padding
	s.recv.unread += len(p) - len(body)
	if s.recv.ended {
		return in.resetStream(s, http2.ErrCodeStreamClosed)
	}
	if !s.recv.gotHead {
		return in.resetStream(s, http2.ErrCodeProtocol)
	}
	if s.recv.got += int64(len(body)); s.recv.length >= 0 && s.recv.got > s.recv.length {
		in.giveBack(len(body))
		return in.resetStream(s, http2.ErrCodeProtocol) // a body longer than it said is how requests are smuggled
	}
	if s.recv.dropped {
		in.giveBack(len(body))
	} else {
		s.recv.data = append(s.recv.data, body...)
	}
	if ends {
		return in.endOfStream(s)
	}
	s.recv.ready.Signal()
	return nil
}

// endOfStream takes the peer's last word. The caller holds mu.
func (in *reader) endOfStream(s *Stream) error {
	if s.recv.length >= 0 && s.recv.got != s.recv.length {
		return in.resetStream(s, http2.ErrCodeProtocol)
	}
	s.recv.ended = true
	s.recv.ready.Signal()
	if s.send.ended {
		in.c.remove(s)
	}
	return nil
}

// giveBack returns credit of the connection for n bytes. The caller holds mu.
func (in *reader) giveBack(n int) {
	if in.c.addCredit(n) {
		in.answered = true
	}
}

// resetStream ends a stream because of what the peer did. The caller holds mu.
func (in *reader) resetStream(s *Stream, code http2.ErrCode) error {
	in.answered = true
	s.resetLocked(code)
	return in.spend(&in.refused, refusedRate, "too many streams that break rules")
}

// isIdle reports whether a stream was never opened. The caller holds mu.
func (c *Conn) isIdle(id uint32) bool {
	if c.handle != nil {
		return id%2 == 0 || id > c.lastPeer
	}
	return id%2 == 0 || id >= c.nextID
}

// onReset takes the end of a stream before its time.
func (in *reader) onReset(h h2.FrameHead, p []byte) error {
	if len(p) != 4 || h.Stream == 0 {
		return broken(http2.ErrCodeFrameSize, "bad RST_STREAM")
	}
	code := http2.ErrCode(binary.BigEndian.Uint32(p))
	c := in.c
	c.mu.Lock()
	s := c.streams[h.Stream]
	if s == nil {
		idle := c.isIdle(h.Stream)
		c.mu.Unlock()
		if idle {
			return broken(http2.ErrCodeProtocol, "RST_STREAM on a stream that never was")
		}
		return in.spend(&in.control, controlRate, "too many resets of streams that are over")
	}
	early := c.handle != nil && !s.send.headSent
	if code == http2.ErrCodeNo && s.recv.ended {
		s.send.err = &StreamError{Code: code, Remote: true} // it has said all and wants no more
		s.send.ready.Broadcast()
		c.out.room.Broadcast()
	} else {
		s.fail(&StreamError{Code: code, Remote: true, Unprocessed: code == http2.ErrCodeRefusedStream})
	}
	c.remove(s)
	c.mu.Unlock()
	c.closeIfOver()
	if early {
		return in.spend(&in.reset, resetRate, "requests are made only to be reset")
	}
	return nil
}

// onSettings takes what the peer allows. Source: RFC 9113, section 6.5.
func (in *reader) onSettings(h h2.FrameHead, p []byte) error {
	switch {
	case h.Stream != 0 || len(p)%6 != 0:
		return broken(http2.ErrCodeFrameSize, "bad SETTINGS")
	case h.Flags.Has(http2.FlagSettingsAck):
		if len(p) != 0 || !in.begun {
			return broken(http2.ErrCodeFrameSize, "bad SETTINGS ACK")
		}
		return nil
	}
	if err := in.spend(&in.ping, pingRate, "too many SETTINGS"); err != nil {
		return err
	}
	c := in.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for ; len(p) > 0; p = p[6:] {
		if err := c.setting(http2.SettingID(binary.BigEndian.Uint16(p)), binary.BigEndian.Uint32(p[2:])); err != nil {
			return err
		}
	}
	if !in.begun {
		in.begun = true
		c.peer.known = true
		c.conn.SetReadDeadline(time.Time{})
	}
	in.answered = true
	c.out.add(http2.FrameSettings, http2.FlagSettingsAck, 0, nil)
	return nil
}

// setting applies one. The caller holds mu.
func (c *Conn) setting(id http2.SettingID, v uint32) error {
	switch id {
	case http2.SettingInitialWindowSize:
		if v > 1<<31-1 {
			return broken(http2.ErrCodeFlowControl, "window beyond 2^31-1")
		}
		diff := int(v) - c.peer.window
		c.peer.window = int(v)
		for _, s := range c.streams {
			if s.send.window += diff; s.send.window > 1<<31-1 {
				return broken(http2.ErrCodeFlowControl, "window beyond 2^31-1")
			}
			s.send.ready.Signal()
		}
	case http2.SettingMaxFrameSize:
		if v < 16<<10 || v > 1<<24-1 {
			return broken(http2.ErrCodeProtocol, "frame size of %d", v)
		}
		c.peer.frame = int(v)
	case http2.SettingMaxConcurrentStreams:
		c.peer.streams = int(min(v, 1<<20))
	case http2.SettingEnablePush:
		if v > 1 {
			return broken(http2.ErrCodeProtocol, "ENABLE_PUSH of %d", v)
		}
	}
	return nil
}

// onPing answers. Peers that measure the path, as those of gRPC do, send one for what
// they have received, once a round trip: those cost little beside it.
func (in *reader) onPing(h h2.FrameHead, p []byte) error {
	if len(p) != 8 || h.Stream != 0 {
		return broken(http2.ErrCodeFrameSize, "bad PING")
	}
	in.c.mu.Lock()
	defer in.c.mu.Unlock()
	bucket, rate := &in.ping, pingRate
	if carried := in.c.out.carried; carried != in.pinged {
		bucket, rate, in.pinged = &in.control, controlRate, carried
	}
	if err := in.spend(bucket, rate, "too many PINGs"); err != nil || h.Flags.Has(http2.FlagPingAck) {
		return err
	}
	in.answered = true
	in.c.out.add(http2.FramePing, http2.FlagPingAck, 0, p)
	return in.c.out.checkAnswers()
}

// onGoAway: the peer takes no more. Source: RFC 9113, section 6.8.
func (in *reader) onGoAway(h h2.FrameHead, p []byte) error {
	if len(p) < 8 || h.Stream != 0 {
		return broken(http2.ErrCodeFrameSize, "bad GOAWAY")
	}
	last := binary.BigEndian.Uint32(p) &^ (1 << 31)
	c := in.c
	c.mu.Lock()
	c.goAway = true
	if c.handle == nil {
		for id, s := range c.streams {
			if id > last {
				s.fail(&StreamError{Code: http2.ErrCodeRefusedStream, Remote: true, Unprocessed: true})
				c.remove(s)
			}
		}
	}
	c.mu.Unlock()
	c.closeIfOver()
	return in.spend(&in.control, controlRate, "too many GOAWAYs")
}

// onWindowUpdate takes credit. Source: RFC 9113, section 6.9.
func (in *reader) onWindowUpdate(h h2.FrameHead, p []byte) error {
	if len(p) != 4 {
		return broken(http2.ErrCodeFrameSize, "bad WINDOW_UPDATE")
	}
	if err := in.spend(&in.control, controlRate, "too many WINDOW_UPDATEs"); err != nil {
		return err
	}
	n := int(binary.BigEndian.Uint32(p) &^ (1 << 31))
	c := in.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.Stream == 0 {
		if c.peer.send += n; n == 0 || c.peer.send > 1<<31-1 {
			return broken(http2.ErrCodeFlowControl, "bad window")
		}
		for _, s := range c.streams {
			s.send.ready.Signal()
		}
		return nil
	}
	s := c.streams[h.Stream]
	if s == nil {
		if c.isIdle(h.Stream) {
			return broken(http2.ErrCodeProtocol, "WINDOW_UPDATE on a stream that never was")
		}
		return nil
	}
	if s.send.window += n; n == 0 || s.send.window > 1<<31-1 {
		return in.resetStream(s, http2.ErrCodeFlowControl)
	}
	s.send.ready.Signal()
	return nil
}
