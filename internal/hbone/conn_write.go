package hbone

import (
	"encoding/binary"
	"runtime"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

const (
	// sendLeast and sendMost bound what a connection may hold for its peer, in
	// bytes. It starts at the least, so that 100 peers that do not read cost
	// little, and doubles while the socket takes all at once.
	sendLeast = 64 << 10
	sendMost  = 2 << 20
	// sendSpare is room beyond that for streams with small buffers, so that
	// bulk does not keep them waiting.
	sendSpare = 64 << 10
	// sendPiece is the least room worth reading an application for, in bytes.
	sendPiece = 4 << 10
	// slowSocket is how long a flush may wait for the socket before the
	// connection is given less to hold.
	slowSocket = 100 * time.Millisecond
	// handOver is how much a goroutine writes for others before it lets a
	// helper go on, in bytes.
	handOver = 1 << 20
	// defaultPeerFrame is what a peer accepts before it has said otherwise.
	// Source: RFC 9113, section 6.5.2.
	defaultPeerFrame = 16 << 10
	// defaultPeerWindow is the same for windows.
	defaultPeerWindow = 64<<10 - 1
	// maxWindow is the largest window. Source: RFC 9113, section 6.9.1.
	maxWindow = 1<<31 - 1
)

// sendState is the sending half of a connection: the queue of frames and the
// peer's windows. Guarded by conn.mu.
type sendState struct {
	window      int // the peer's, for the connection
	initWindow  int // the peer's, for a new stream; may go down
	frame       int // the largest payload the peer takes
	peerStreams int // client: how many streams the peer allows

	queue    []*buffer // frames in the order they go out
	spare    []*buffer // an empty slice for the next queue
	last     time.Time // when the writer began; the writer's
	queued   int       // bytes in queue and on their way to the socket
	reserved int       // bytes that streams are about to queue
	limit    int       // of queued plus reserved
	answers  int       // bytes of answers among queued
	busy     bool      // somebody writes
	seized   bool      // and nobody else ever will
	err      error     // why nothing can be sent any more
	free     sync.Cond // somebody has stopped writing
	waiting  []*Stream // streams that wait for the connection's window or queue

	soon      bool        // soonTimer runs
	soonTimer *time.Timer // of kickSoonLocked; nil before the first
}

// init prepares the state before the peer's SETTINGS.
func (w *sendState) init() {
	w.window, w.initWindow, w.frame = defaultPeerWindow, defaultPeerWindow, defaultPeerFrame
	w.peerStreams = 1<<31 - 1
	w.limit = sendLeast
}

// stop throws the queue away; nothing can be sent any more.
func (w *sendState) stop(err error) {
	w.err = err
	if w.soonTimer != nil {
		w.soonTimer.Stop()
	}
	for _, b := range w.queue {
		b.free()
	}
	w.queue, w.spare = nil, nil
	if w.free.L != nil {
		w.free.Broadcast()
	}
	for _, s := range w.waiting {
		s.canSend.Signal()
	}
	w.waiting = nil
}

// enqueue adds a frame. The caller holds c.mu and calls push or kick after.
func (c *conn) enqueue(b *buffer) {
	w := &c.send
	if w.err != nil || w.seized {
		b.free()
		return
	}
	w.queue = append(w.queue, b)
	w.queued += b.len()
}

// enqueueFrame adds a small frame, together with others where there is room.
// The caller holds c.mu.
func (c *conn) enqueueFrame(t http2.FrameType, flags http2.Flags, stream uint32, payload []byte) {
	w := &c.send
	if w.err != nil || w.seized {
		return
	}
	need := frameHead + len(payload)
	var b *buffer
	if n := len(w.queue); n > 0 && w.queue[n-1].shared && len(w.queue[n-1].room()) >= need {
		b = w.queue[n-1]
	} else {
		b = grab(c.cfg.budget, classFor(need-classSlack[tiny]))
		b.shared = true
		w.queue = append(w.queue, b)
	}
	putFrameHead(b.room(), len(payload), t, flags, stream)
	copy(b.room()[frameHead:], payload)
	b.w += need
	w.queued += need
}

// putFrameHead writes a frame header. Source: RFC 9113, section 4.1.
func putFrameHead(p []byte, length int, t http2.FrameType, flags http2.Flags, stream uint32) {
	_ = p[frameHead-1]
	p[0], p[1], p[2] = byte(length>>16), byte(length>>8), byte(length)
	p[3], p[4] = byte(t), byte(flags)
	binary.BigEndian.PutUint32(p[5:], stream)
}

// enqueueHello queues what comes first. Source: RFC 9113, section 3.4.
func (c *conn) enqueueHello() {
	settings := []http2.Setting{
		{ID: http2.SettingInitialWindowSize, Val: uint32(c.cfg.StreamWindow)},
		{ID: http2.SettingMaxFrameSize, Val: uint32(c.cfg.FrameSize)},
		{ID: http2.SettingMaxHeaderListSize, Val: uint32(c.cfg.headerBytes)},
	}
	if c.cfg.server {
		settings = append(settings, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: uint32(c.cfg.streams)})
	} else {
		settings = append(settings, http2.Setting{ID: http2.SettingEnablePush, Val: 0})
		b := grab(c.cfg.budget, tiny)
		b.add([]byte(http2.ClientPreface))
		b.shared = true
		c.enqueue(b)
	}
	payload := make([]byte, 0, 6*len(settings))
	for _, s := range settings {
		payload = binary.BigEndian.AppendUint16(payload, uint16(s.ID))
		payload = binary.BigEndian.AppendUint32(payload, s.Val)
	}
	c.enqueueFrame(http2.FrameSettings, 0, 0, payload)
	if grow := c.cfg.ConnWindow - defaultPeerWindow; grow > 0 {
		c.enqueueWindow(0, grow)
	}
}

// enqueueWindow queues a WINDOW_UPDATE.
func (c *conn) enqueueWindow(stream uint32, n int) {
	var p [4]byte
	binary.BigEndian.PutUint32(p[:], uint32(n))
	c.enqueueFrame(http2.FrameWindowUpdate, 0, stream, p[:])
}

// enqueueReset queues a RST_STREAM.
func (c *conn) enqueueReset(stream uint32, code http2.ErrCode) {
	var p [4]byte
	binary.BigEndian.PutUint32(p[:], uint32(code))
	c.enqueueFrame(http2.FrameRSTStream, 0, stream, p[:])
}

// enqueueGoAway queues a GOAWAY with at most 200 bytes of text.
func (c *conn) enqueueGoAway(last uint32, code http2.ErrCode, text string) {
	p := make([]byte, 0, 208)
	p = binary.BigEndian.AppendUint32(p, last)
	p = binary.BigEndian.AppendUint32(p, uint32(code))
	p = append(p, text[:min(len(text), 200)]...)
	c.enqueueFrame(http2.FrameGoAway, 0, 0, p)
}

// enqueueHeaders queues a header block, in CONTINUATION frames if it must.
func (c *conn) enqueueHeaders(stream uint32, block []byte, endStream bool) {
	flags := http2.Flags(0)
	if endStream {
		flags = http2.FlagHeadersEndStream
	}
	t := http2.FrameHeaders
	for {
		n := min(len(block), c.send.frame)
		if n == len(block) {
			flags |= http2.FlagHeadersEndHeaders
		}
		c.enqueueFrame(t, flags, stream, block[:n])
		block = block[n:]
		if len(block) == 0 {
			return
		}
		t, flags = http2.FrameContinuation, 0
	}
}

// enqueueAnswer counts n bytes of an answer that the peer makes us give.
func (c *conn) enqueueAnswer(n int) error {
	if c.send.answers += frameHead + n; c.send.answers > maxAnswers {
		return calm(LimitAnswers, "the peer asks for answers that it does not read")
	}
	return nil
}

// crowded is how close to each other writes are that are worth combining: 5,000
// a second. Measured: perf/README.md, across/most and across/rate/1000.
const crowded = 200 * time.Microsecond

// push writes what is queued, unless somebody else is writing, who then does.
func (c *conn) push() {
	if c.seizeFree() {
		c.letOthersQueue()
		c.drainQueue(true)
	}
}

// letOthersQueue gives way to goroutines that are about to queue frames, so that
// one write takes all, when writes follow each other closely. At a low rate
// nobody is about to: giving way then only makes the runtime wake a thread that
// finds nothing. The caller is the writer.
func (c *conn) letOthersQueue() {
	now := time.Now()
	if now.Sub(c.send.last) < crowded {
		runtime.Gosched()
	}
	c.send.last = now
}

// kick writes what is queued as far as the socket takes it at once; a helper
// writes the rest. It is for goroutines that must not wait for the peer.
func (c *conn) kick() {
	if !c.seizeFree() {
		return
	}
	c.letOthersQueue()
	c.mu.Lock()
	small := c.send.queued <= sendPiece
	c.mu.Unlock()
	if !small || c.drainNow() {
		c.handQueue()
	}
}

// soonTime is how long what nobody waits for may lie in the queue: our choice, so
// that at a thousand connections a second the end of one goes with the beginning of
// another. Measured: perf/README.md, new connections.
const soonTime = time.Millisecond

// kickSoonLocked is kick for what nobody waits for: whoever writes next takes it
// along, else it is written in a moment. The caller holds c.mu.
func (c *conn) kickSoonLocked() {
	w := &c.send
	switch {
	case w.soon:
	case w.soonTimer == nil:
		w.soon, w.soonTimer = true, time.AfterFunc(soonTime, c.soonNow)
	default:
		w.soon = true
		w.soonTimer.Reset(soonTime)
	}
}

// soonNow writes what kickSoonLocked has left, if it is still there.
func (c *conn) soonNow() {
	c.mu.Lock()
	c.send.soon = false
	c.mu.Unlock()
	c.kick()
}

// drainNow writes the queue without waiting. The caller is the writer, and
// still is when more is true.
func (c *conn) drainNow() (more bool) {
	w := &c.send
	c.mu.Lock()
	frames, n := w.queue, w.queued
	w.queue, w.spare = w.spare, nil
	c.mu.Unlock()
	err := c.encrypt(frames, n)
	done := false
	if err == nil {
		done, err = c.rec.flushNow()
	}
	if err != nil {
		c.writeFailed(err)
		return false
	}
	c.bytesSent.Add(uint64(n))
	c.mu.Lock()
	defer c.mu.Unlock()
	w.spare = frames[:0]
	if !done {
		w.queued -= n // the rest is no longer counted: it is small
		return true
	}
	c.written(n, false)
	if len(w.queue) > 0 {
		return true
	}
	c.release()
	return false
}

// handQueue lets a helper write the queue. The caller is the writer.
func (c *conn) handQueue() {
	if c.cfg.group.runDeep(c.drainFn) {
		return
	}
	c.mu.Lock()
	c.release()
	c.mu.Unlock()
}

// seizeFree makes the caller the writer if there is none and there is work.
func (c *conn) seizeFree() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := &c.send
	if w.busy || w.err != nil || len(w.queue) == 0 {
		return false
	}
	w.busy = true
	return true
}

// seize waits until the queue is written and makes the caller the last writer.
func (c *conn) seize() {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := &c.send
	if w.free.L == nil {
		w.free.L = &c.mu
	}
	for w.busy && !w.seized {
		w.free.Wait()
	}
	w.busy, w.seized = true, true
}

// release ends being the writer. The caller holds c.mu.
func (c *conn) release() {
	c.send.busy = false
	if c.send.free.L != nil {
		c.send.free.Broadcast()
	}
}

// drainQueue writes until the queue is empty. The caller is the writer. Frames
// that are queued while others are being encrypted go out in the same system
// call. With mayHand, a helper goes on after a while.
func (c *conn) drainQueue(mayHand bool) {
	w := &c.send
	batch, total := 0, 0 // bytes since the last flush, and in all
	for {
		c.mu.Lock()
		frames, n := w.queue, w.queued-batch
		w.queue, w.spare = w.spare, nil
		c.mu.Unlock()
		if len(frames) > 0 {
			err := c.encrypt(frames, n)
			batch += n
			c.mu.Lock()
			w.spare = frames[:0]
			c.mu.Unlock()
			if err != nil {
				c.writeFailed(err)
				return
			}
			if batch < sendMost/2 {
				continue
			}
		}
		slow, err := c.flushBatch(batch)
		if err != nil {
			c.writeFailed(err)
			return
		}
		total += batch
		c.mu.Lock()
		c.written(batch, slow)
		batch = 0
		if len(w.queue) == 0 {
			c.release()
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		if mayHand && total >= handOver {
			c.handQueue()
			return
		}
	}
}

// encrypt hands frames of n bytes to TLS, which gathers their records, and
// frees them.
func (c *conn) encrypt(frames []*buffer, n int) error {
	var err error
	for i, b := range frames {
		if err == nil {
			err = c.tls.seal(b.bytes(), n)
			n -= b.len()
		}
		b.free()
		frames[i] = nil
	}
	return err
}

// flushBatch writes the gathered records of n bytes and reports whether the
// socket is slow.
func (c *conn) flushBatch(n int) (slow bool, err error) {
	err = c.rec.flush()
	c.bytesSent.Add(uint64(n))
	c.noteBatch(n)
	return c.rec.waited > slowSocket, err
}

// written accounts for n bytes that the socket has taken and wakes who waits
// for room. The caller holds c.mu.
func (c *conn) written(n int, slow bool) {
	w := &c.send
	w.queued -= n
	w.answers = 0
	if slow {
		w.limit = max(w.limit/2, sendLeast)
	} else if n >= w.limit/4 {
		w.limit = min(2*w.limit, sendMost)
	}
	c.wakeSenders(4)
}

// writeFailed ends the connection because its socket failed.
func (c *conn) writeFailed(err error) {
	c.fail(err)
	c.mu.Lock()
	c.send.stop(c.err) // which says more where it is why the socket was closed
	c.release()
	c.mu.Unlock()
}

// wakeSenders wakes up to n streams that wait for the connection. The caller
// holds c.mu.
func (c *conn) wakeSenders(n int) {
	w := &c.send
	n = min(n, len(w.waiting))
	for _, s := range w.waiting[:n] {
		s.sending.waiting = false
		s.canSend.Signal()
	}
	w.waiting = append(w.waiting[:0], w.waiting[n:]...)
}
