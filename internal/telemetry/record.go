package telemetry

import (
	"net/netip"
	"sync"
	"time"

	"github.com/ambit-mesh/ambit/internal/streamio"
)

// Record is one connection from its opening to its close. Any goroutine may
// use it.
type Record struct {
	// Set by Open, then only read.
	records *Records
	series  *series
	id      uint64
	opened  time.Time

	// Guarded by the lock of the list that holds the record.
	prev, next *Record

	// mu guards the fields below. It is taken after the lock of the list.
	mu     sync.Mutex
	conn   Conn
	closed bool
	bytes  *streamio.Counters // move while the connection lives

	// told is how much of bytes the series has got.
	toldSent, toldReceived uint64
}

// Counters returns the byte counters of the connection: Sent is from the client
// to the server, Received from the server to the client, whatever the
// direction of the record.
func (r *Record) Counters() *streamio.Counters {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bytes
}

// CountWith makes the record count what c counts, before any byte has moved:
// between two pods of one node a single pipe has two reporters.
func (r *Record) CountWith(c *streamio.Counters) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bytes = c
}

// ID returns the number of the connection. Numbers are not used again while
// the process lives.
func (r *Record) ID() uint64 { return r.id }

// SetHop notes how the bytes travel, when that is decided after Open.
func (r *Record) SetHop(h Hop) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conn.Hop = h
}

// SetPolicy notes which rule decided, when that is known after Open.
func (r *Record) SetPolicy(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conn.Policy = name
}

// SetActualDst notes what is dialed, when that is decided after Open.
func (r *Record) SetActualDst(addr netip.AddrPort) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conn.ActualDst = addr
}

// Close ends the record. err is why the connection ended; nil means that both
// sides had said all they wanted. Only the first call counts.
func (r *Record) Close(err error) {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return
	}
	r.closed = true
	r.mu.Unlock()

	rs := r.records
	rs.live[r.id%liveShards].remove(r)
	end := rs.now()

	r.collect() // the last bytes
	flag := FlagOf(err)
	r.series.closed[flag].Add(1)
	rs.series.release(r.series, end)

	r.logClosed(end, err)
	ended := rs.recent
	if err != nil {
		ended = rs.failed
	}
	ended.add(func(e *Entry) { r.fillClosed(e, end, flag, err) })
	if r.conn.Trace.Sampled() {
		rs.spans.Add(r.span(end, flag, err))
	}
}

// collect moves what the byte counters have gained into the series.
func (r *Record) collect() {
	r.mu.Lock()
	defer r.mu.Unlock()
	sent, received := r.bytes.Sent.Load(), r.bytes.Received.Load()
	r.series.sent.Add(sent - r.toldSent)
	r.series.received.Add(received - r.toldReceived)
	r.toldSent, r.toldReceived = sent, received
}
