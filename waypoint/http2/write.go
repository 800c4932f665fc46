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

// frameBuffer is how much a buffer for frames holds, in bytes: what many answers need
// that go out together.
const frameBuffer = 32 << 10

// frameBuffers are those of connections that have something to write.
var frameBuffers = sync.Pool{New: func() any { return new([frameBuffer]byte) }}

// freeFrames gives a buffer for frames back. One that has grown is left to the collector.
func freeFrames(p []byte) {
	if cap(p) == frameBuffer {
		frameBuffers.Put((*[frameBuffer]byte)(p[:frameBuffer]))
	}
}

// add queues a frame.
func (o *output) add(kind http2.FrameType, flags http2.Flags, stream uint32, payload []byte) {
	if o.frames == nil {
		o.frames = frameBuffers.Get().(*[frameBuffer]byte)[:0]
	}
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

// nowWriter is a connection that takes what it can without waiting.
type nowWriter interface {
	WriteNow(p []byte) (n int, err error)
}

// writeNow writes what the connection takes without waiting; of one that cannot say
// so that is nothing.
func (c *Conn) writeNow(p []byte) (n int, err error) {
	if w, ok := c.conn.(nowWriter); ok {
		return w.WriteNow(p)
	}
	return 0, nil
}

// flush writes what is queued, unless somebody is writing, who then does. It does not
// wait for the peer: who comes by has a request of its own to end in time, or reads
// what the peer needs us to read before it reads itself.
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
		p := o.take()
		c.mu.Unlock()
		n, err := c.writeNow(p)
		c.mu.Lock()
		if err == nil && n < len(p) && o.err == nil {
			c.tasks.Go(func() { c.writeRest(p, n) })
			c.mu.Unlock()
			return
		}
		c.wrote(p, err)
	}
	o.stop()
	c.mu.Unlock()
	c.closeIfOver()
}

// writeRest writes what flush could not, and what comes meanwhile.
func (c *Conn) writeRest(p []byte, from int) {
	o := &c.out
	for {
		_, err := c.conn.Write(p[from:])
		c.mu.Lock()
		c.wrote(p, err)
		if len(o.frames) == 0 || o.err != nil {
			break
		}
		p, from = o.take(), 0
		c.mu.Unlock()
	}
	o.stop()
	c.mu.Unlock()
	c.closeIfOver()
}

// take takes what is queued.
func (o *output) take() []byte {
	p := o.frames
	o.frames, o.spare, o.answers = o.spare, nil, 0
	return p
}

// wrote notes that p has been written, or why not. The caller holds mu.
func (c *Conn) wrote(p []byte, err error) {
	o := &c.out
	if err != nil && o.err == nil {
		o.err = err
		c.conn.Close() // the reader ends, and all streams with it
	}
	if cap(p) <= maxQueued {
		o.spare = p[:0]
	}
	o.room.Broadcast()
}

// stop ends being the writer. An idle connection holds no buffer.
func (o *output) stop() {
	o.writing = false
	freeFrames(o.frames)
	freeFrames(o.spare)
	o.frames, o.spare = nil, nil
	o.room.Broadcast()
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
