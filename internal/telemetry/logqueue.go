package telemetry

import (
	"cmp"
	"context"
	"io"
	"sync"
	"time"
)

// defaultQueue is how many bytes of lines wait for a slow reader: some ten
// thousand connections. It is our choice.
const defaultQueue = 4 << 20

const (
	// lineTime is how long lines that follow others are gathered before they are written
	// together: our choice. Nobody who reads a log notices, and a proxy that writes a line
	// for each request would make a system call for each.
	lineTime = 10 * time.Millisecond
	// fullLines is how many bytes of lines are written sooner: what one system call takes
	// with ease, and less than keepQueue.
	fullLines = 32 << 10
)

// LogQueue stands between a [Logger] and a file or pipe that may be slow. A
// line is put into memory and written by Run: the first one after a pause at once,
// and those that follow within 10 ms of the last write together. When the reader falls
// behind by more than the queue holds, lines are dropped and counted: a stuck log reader
// must not hold up connections.
//
// Before Run, lines wait; after it, each is written at once, so that the last
// words of a process are not lost. Any goroutine may write.
type LogQueue struct {
	// Set by NewLogQueue, then only read.
	out   io.Writer
	limit int
	wake  chan struct{} // holds one: there are lines
	full  chan struct{} // holds one: there are many

	mu      sync.Mutex
	lines   []byte // to be written
	spare   []byte // what Run has written, to be filled again
	ended   bool   // Run has returned
	dropped uint64
}

// NewLogQueue makes a queue of limit bytes before out. Zero means 4 MiB.
func NewLogQueue(out io.Writer, limit int) *LogQueue {
	return &LogQueue{out: out, limit: cmp.Or(limit, defaultQueue), wake: make(chan struct{}, 1), full: make(chan struct{}, 1)}
}

// Write takes one line. It keeps no reference to it.
func (q *LogQueue) Write(line []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended {
		return q.out.Write(line)
	}
	if len(q.lines)+len(line) > q.limit {
		q.dropped++
		return len(line), nil
	}
	if len(q.lines) == 0 {
		remind(q.wake)
	}
	if q.lines = append(q.lines, line...); len(q.lines) >= fullLines {
		remind(q.full)
	}
	return len(line), nil
}

// remind tells Run something, unless it knows already.
func remind(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Dropped returns how many lines found no room.
func (q *LogQueue) Dropped() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.dropped
}

// Run writes lines until ctx ends, and then those that are left. It may be
// called once.
func (q *LogQueue) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var last time.Time
	for {
		select {
		case <-q.wake:
		case <-ctx.Done():
			return q.end(q.flush())
		}
		if wait := lineTime - time.Since(last); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-q.full: // perhaps of lines that are written already: then this goes early
			case <-ctx.Done():
			}
		}
		if err := q.flush(); err != nil {
			return q.end(err)
		}
		last = time.Now()
	}
}

// flush writes what waits with one Write.
func (q *LogQueue) flush() error {
	q.mu.Lock()
	lines := q.lines
	q.lines, q.spare = q.spare[:0], nil
	q.mu.Unlock()
	if len(lines) == 0 {
		return nil
	}
	_, err := q.out.Write(lines)
	q.mu.Lock()
	defer q.mu.Unlock()
	if cap(lines) <= keepQueue {
		q.spare = lines
	}
	return err
}

// keepQueue is the largest buffer that is kept for the next lines, in bytes; a
// burst must not cost memory for ever.
const keepQueue = 64 << 10

// end makes Write write by itself from now on, the lines that came last first.
func (q *LogQueue) end(err error) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended = true
	if len(q.lines) > 0 && err == nil {
		_, err = q.out.Write(q.lines)
	}
	q.lines, q.spare = nil, nil
	return err
}
