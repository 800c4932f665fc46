package http2

import (
	"encoding/binary"
	"runtime"
	"sync"
	"time"

	"golang.org/x/net/http2"

	"github.com/ambit-mesh/ambit/internal/h2"
)

// output is what waits to be written. Conn.mu guards it.
type output struct {
	frames  []byte
	spare   []byte
	writing bool
	answers int // bytes of answers to control frames since the last write
	carried int // frames of requests and answers that were ever queued
	err     error
	room    sync.Cond // of Conn.mu: there is room, or an error
	last    time.Time // when the last write began
}

// add queues a frame.
func (o *output) add(kind http2.FrameType, flags http2.Flags, stream uint32, payload []byte) {
	o.frames = h2.AppendHead(o.frames, h2.FrameHead{Length: len(payload), Kind: kind, Flags: flags, Stream: stream})
	o.frames = append(o.frames, payload...)
	if kind == http2.FrameData || kind == http2.FrameHeaders {
		o.carried++
	}
}

// addWindow queues credit.
func (o *output) addWindow(stream uint32, n int) {
	o.add(http2.FrameWindowUpdate, 0, stream, binary.BigEndian.AppendUint32(nil, uint32(n)))
}

// addReset queues the end of a stream.
func (o *output) addReset(stream uint32, code http2.ErrCode) {
	o.add(http2.FrameRSTStream, 0, stream, binary.BigEndian.AppendUint32(nil, uint32(code)))
}

// addGoAway queues a goodbye.
func (o *output) addGoAway(last uint32, code http2.ErrCode, why string) {
	p := binary.BigEndian.AppendUint32(nil, last)
	p = binary.BigEndian.AppendUint32(p, uint32(code))
	o.add(http2.FrameGoAway, 0, 0, append(p, why[:min(len(why), 200)]...))
}

// checkAnswers bounds what a peer that does not read can make us queue.
func (o *output) checkAnswers() error {
	if o.answers += 17; o.answers > maxAnswers {
		return broken(http2.ErrCodeEnhanceYourCalm, "the peer asks for answers that it does not read")
	}
	return nil
}

// addHeaders queues a header block. The caller holds mu.
func (c *Conn) addHeaders(stream uint32, block []byte, end bool) {
	kind, flags := http2.FrameHeaders, http2.Flags(0)
	if end {
		flags = http2.FlagHeadersEndStream
	}
	for {
		n := min(len(block), c.peer.frame)
		if n == len(block) {
			flags |= http2.FlagHeadersEndHeaders
		}
		c.out.add(kind, flags, stream, block[:n])
		if block = block[n:]; len(block) == 0 {
			return
		}
		kind, flags = http2.FrameContinuation, 0
	}
}

// crowded is how close to each other writes are that are worth combining.
// Measured for the tunnels: internal/hbone.
const crowded = 200 * time.Microsecond

// flush writes what is queued, unless somebody is writing, who then does.
func (c *Conn) flush() {
	c.mu.Lock()
	o := &c.out
	if o.writing || len(o.frames) == 0 || o.err != nil {
		c.mu.Unlock()
		return
	}
	o.writing = true
	now := time.Now()
	busy := now.Sub(o.last) < crowded
	o.last = now
	if busy {
		c.mu.Unlock()
		runtime.Gosched() // others are about to queue something
		c.mu.Lock()
	}
	for len(o.frames) > 0 && o.err == nil {
		p := o.frames
		o.frames, o.spare, o.answers = o.spare[:0], nil, 0
		c.mu.Unlock()
		_, err := c.conn.Write(p)
		c.mu.Lock()
		if err != nil && o.err == nil {
			o.err = err
			c.conn.Close() // the reader ends, and all streams with it
		}
		if cap(p) <= maxQueued {
			o.spare = p[:0]
		}
		o.room.Broadcast()
	}
	if o.writing = false; cap(o.frames) > 4<<10 {
		o.frames, o.spare = nil, nil // an idle connection holds no buffer
	}
	c.mu.Unlock()
	c.closeIfOver()
}

// addCredit gives credit of the connection back and reports whether something
// was queued. The caller holds mu.
func (c *Conn) addCredit(n int) bool {
	if c.credit += n; c.credit < connWindow/4 {
		return false
	}
	c.out.addWindow(0, c.credit)
	c.credit = 0
	return true
}
