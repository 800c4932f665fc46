package http2

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/ambit-mesh/ambit/internal/h2"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// Errors of streams and connections.
var (
	// ErrUnprocessed: the peer has not looked at the request, which may be tried
	// on another connection. Source: RFC 9113, section 8.7.
	ErrUnprocessed = errors.New("the peer has not processed the request")
	// ErrClosed: the connection has ended.
	ErrClosed = errors.New("the HTTP/2 connection has ended")
)

// ConnError is a peer that broke a rule or went over a limit. It ends the
// connection.
type ConnError struct {
	Code http2.ErrCode
	Why  string
}

func (e *ConnError) Error() string { return fmt.Sprintf("HTTP/2 %v: %s", e.Code, e.Why) }

// broken is a ConnError.
func broken(code http2.ErrCode, format string, args ...any) *ConnError {
	return &ConnError{Code: code, Why: fmt.Sprintf(format, args...)}
}

// StreamError is why a stream ended before its time.
type StreamError struct {
	Code http2.ErrCode
	// Remote is set when the peer said so.
	Remote bool
	// Unprocessed is set when the peer has not looked at the request.
	Unprocessed bool
}

func (e *StreamError) Error() string {
	if e.Remote {
		return fmt.Sprintf("reset by the peer: %v", e.Code)
	}
	return fmt.Sprintf("reset: %v", e.Code)
}

// Is makes a request that was not looked at known as such.
func (e *StreamError) Is(target error) bool { return target == ErrUnprocessed && e.Unprocessed }

// Conn is one connection.
type Conn struct {
	// Set when it is made, then only read.
	conn   net.Conn
	handle func(*Stream) // of requests; nil for a client
	done   chan struct{} // closed when Serve has ended the streams

	// Owned by the reader.
	in reader

	// mu guards all below.
	mu       sync.Mutex
	streams  map[uint32]*Stream
	workers  *lifecycle.Workers // handlers; nil for a client
	tasks    sync.WaitGroup     // who writes to a peer that is slow
	out      output
	err      error // why it ended
	lastPeer uint32
	nextID   uint32 // client: of the next request
	slots    int    // client: requests that are open or about to be
	peer     peerSettings
	credit   int  // bytes that were read and not yet given back
	goAway   bool // the peer takes no more
	leaving  bool // we take no more; GOAWAY is out
	upTo     uint32
	idle     time.Time // since when there is no stream
	farewell *time.Timer
}

// peerSettings are what the peer allows.
type peerSettings struct {
	known   bool
	window  int // of new streams
	frame   int
	streams int
	send    int // the connection's window
}

// newConn makes a connection.
func newConn(c net.Conn, handle func(*Stream)) *Conn {
	x := &Conn{
		conn: c, handle: handle, done: make(chan struct{}), streams: map[uint32]*Stream{},
		nextID: 1, upTo: 1<<31 - 1, idle: time.Now(),
		peer: peerSettings{window: 1<<16 - 1, frame: 16 << 10, streams: 100, send: 1<<16 - 1},
	}
	if handle != nil {
		x.workers = lifecycle.NewWorkers("http2")
	}
	x.out.room.L = &x.mu
	x.in.init(x)
	x.hello()
	return x
}

// NewServer makes the side of c that answers. handle is called for each request
// in a goroutine of its own; the stream ends when it returns.
func NewServer(c net.Conn, handle func(*Stream)) *Conn { return newConn(c, handle) }

// Serve reads from the connection until it ends, and returns when all streams
// and handlers have. initial is what has been read of it already. The error is
// nil at an end that was agreed on.
func (c *Conn) Serve(initial []byte) error {
	c.flush()
	c.conn.SetReadDeadline(time.Now().Add(helloTime))
	err := c.in.run(initial)
	c.end(err)
	if c.workers != nil {
		c.workers.Wait()
	}
	c.tasks.Wait()
	c.conn.Close()
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// hello queues what comes first, before anybody else can queue something. Source: RFC 9113, section 3.4.
func (c *Conn) hello() {
	if c.handle == nil {
		c.out.frames = append(c.out.frames, http2.ClientPreface...)
	}
	var p []byte
	for _, s := range []http2.Setting{
		{ID: http2.SettingEnablePush, Val: 0},
		{ID: http2.SettingMaxConcurrentStreams, Val: maxStreams},
		{ID: http2.SettingInitialWindowSize, Val: streamWindow},
		{ID: http2.SettingMaxHeaderListSize, Val: maxHeaderList},
	} {
		if c.handle != nil && s.ID == http2.SettingEnablePush {
			continue // only clients may speak of it
		}
		p = append(p, byte(s.ID>>8), byte(s.ID), byte(s.Val>>24), byte(s.Val>>16), byte(s.Val>>8), byte(s.Val))
	}
	c.out.add(http2.FrameSettings, 0, 0, p)
	window := connWindow
	if c.handle == nil {
		window = answerWindow
	}
	c.out.addWindow(0, window-(1<<16-1))
}

// end ends all streams for err and says why to the peer.
func (c *Conn) end(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	var ce *ConnError
	if errors.As(err, &ce) {
		c.out.addGoAway(c.lastPeer, ce.Code, ce.Why)
	}
	for _, s := range c.streams {
		s.fail(fmt.Errorf("%w: %w", ErrClosed, unexpected(err)))
	}
	clear(c.streams)
	c.noteQuiet()
	if c.farewell != nil {
		c.farewell.Stop()
	}
	c.mu.Unlock()
	c.conn.SetWriteDeadline(time.Now().Add(time.Second)) // somebody may be writing
	if ce != nil {
		c.flush()
	}
	c.mu.Lock()
	for ce != nil && c.out.writing {
		c.out.room.Wait() // until it is said, or the deadline
	}
	if c.out.err == nil {
		c.out.err = ErrClosed
	}
	c.out.room.Broadcast()
	c.mu.Unlock()
	close(c.done)
}

// unexpected is what an end of the connection is to a stream.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Done is closed when the connection has ended and its streams know.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Close ends the connection at once. Serve returns then.
func (c *Conn) Close() { c.conn.Close() }

// Drain lets no new request begin: the peer is told, those that cross the word
// are still taken for a moment, and the connection ends with its last stream. It
// does not wait.
func (c *Conn) Drain() {
	c.mu.Lock()
	if c.leaving || c.err != nil {
		c.mu.Unlock()
		return
	}
	c.leaving = true
	c.out.addGoAway(1<<31-1, http2.ErrCodeNo, "")
	c.mu.Unlock()
	c.flush()
	farewell := time.AfterFunc(goAwayTime, func() {
		c.mu.Lock()
		if c.err == nil {
			c.upTo = c.lastPeer
			c.out.addGoAway(c.lastPeer, http2.ErrCodeNo, "")
		}
		c.mu.Unlock()
		c.flush()
		c.closeIfOver()
	})
	c.mu.Lock()
	c.farewell = farewell
	over := c.err != nil
	c.mu.Unlock()
	if over {
		farewell.Stop()
	}
}

// closeIfOver ends a connection that takes no more and has nothing left, neither a
// stream nor the last words of one: flush calls it when these are out.
func (c *Conn) closeIfOver() {
	c.mu.Lock()
	over := len(c.streams) == 0 && len(c.out.frames) == 0 && !c.out.writing && c.slots == 0 && (c.leaving && c.upTo < 1<<31-1 || c.handle == nil && (c.goAway || c.leaving))
	c.mu.Unlock()
	if over {
		c.conn.Close()
	}
}

// remove forgets a stream that both sides are done with. The caller holds c.mu.
func (c *Conn) remove(s *Stream) {
	if c.streams[s.id] != s {
		return
	}
	delete(c.streams, s.id)
	if c.handle == nil {
		c.slots--
	}
	c.noteQuiet()
}

// noteQuiet notes when the last stream has gone. The caller holds c.mu.
func (c *Conn) noteQuiet() {
	if len(c.streams) == 0 {
		c.idle = time.Now()
	}
}

// reader is what only the reading goroutine knows.
type reader struct {
	c    *Conn
	buf  []byte
	r, w int

	hello int // bytes of the client's preface that are still to come
	begun bool
	dec   *hpack.Decoder
	block block

	control, ping, reset, refused, empty h2.Bucket
	pinged                               int // what output.carried was at the last PING
	clock                                time.Time
	answered                             bool // something was queued for the peer
}
