package hbone

import (
	"net"
	"time"
)

const (
	// companyWindow is how much a peer may have sent on a stream that we have not
	// delivered, in bytes, while other streams of the connection carry small messages
	// and the way is short: what lies before a small message in sockets and buffers is
	// what it waits for. Measured: perf/README.md, small requests during bulk.
	companyWindow = 512 << 10
	// companyRate is what such a stream shall still reach over a longer way, in bytes a
	// second: a window of this times the round trip comes on top. From 3.5 ms on the
	// windows are as large as ever.
	companyRate = 1 << 30
	// companyPiece is the largest DATA frame that is a small message, in bytes. Bulk
	// comes in frames of 16 KiB and more.
	companyPiece = 8 << 10
	// companyTime is how long a small message counts.
	companyTime = 250 * time.Millisecond
)

// company is who has sent small messages on a connection just now: the last two
// streams that did. Guarded by conn.mu.
type company [2]struct {
	stream uint32
	at     time.Time
}

// note remembers a DATA frame of size bytes on the stream.
func (y *company) note(stream uint32, size int, now time.Time) {
	if size == 0 || size > companyPiece {
		return
	}
	if y[0].stream != stream {
		y[1] = y[0]
	}
	y[0].stream, y[0].at = stream, now
}

// has reports whether another stream than this one has sent small messages.
func (y *company) has(stream uint32, now time.Time) bool {
	for _, e := range y {
		if e.stream != stream && e.stream != 0 && now.Sub(e.at) < companyTime {
			return true
		}
	}
	return false
}

// windowInCompany is how much of a stream's window of full bytes its peer gets when
// the stream has company, over a way that takes this long there and back.
func windowInCompany(full int, roundTrip time.Duration) int {
	longer := int64(roundTrip) * companyRate / int64(time.Second)
	return int(min(int64(full), companyWindow+longer))
}

// roundTrip asks how long the way to the peer and back is; without an answer windows
// are never held back.
func (t Tuning) roundTrip(conn net.Conn) time.Duration {
	if t.RoundTrip == nil {
		return time.Second
	}
	d, err := t.RoundTrip(conn)
	if err != nil || d <= 0 {
		return time.Second
	}
	return d
}

// creditStream gives back what s has used of its window and its application has
// taken, n bytes more than before, when it is worth a frame. In company it keeps so
// much back that no more than the smaller window is on its way. The caller holds c.mu.
func (c *conn) creditStream(s *Stream, n int) bool {
	r := &s.recving
	r.unacked += n
	full, small := c.cfg.StreamWindow, c.recv.small
	if r.unacked < small/creditParts {
		return false
	}
	keep, worth := 0, full/creditParts
	if small < full && c.recv.company.has(s.id, time.Now()) {
		keep, worth = full-small, small/creditParts
	}
	if r.unacked-keep < worth {
		return false
	}
	give := r.unacked - keep
	c.enqueueWindow(s.id, give)
	r.window += give
	r.unacked = keep
	return true
}
