package telemetry

import (
	"context"
	"sync"
	"time"
)

const (
	// gatherTime is how long the lines of connections that end one after the other
	// are gathered before they are written together. It is our choice: nobody who
	// reads a log notices, and at some thousand connections a second a batch is worth
	// a dozen wake-ups. Measured: perf/README.md, new connections.
	gatherTime = 5 * time.Millisecond
	// maxEndings is how many connections wait at most for their lines. Whoever ends
	// one more writes its line alone: lines are never dropped here.
	maxEndings = 1024
)

// endings are connections that have ended and whose lines are still to be
// written: by one goroutine, which has its stack and buffers at hand, instead of
// by each connection's own.
type endings struct {
	wake chan struct{} // holds one: there are some

	mu      sync.Mutex
	running bool // Run writes
	waiting []ending
	spare   []ending // what Run has written, to be filled again
}

// ending is how one connection ended.
type ending struct {
	record *Record
	at     time.Time
	err    error
}

// put lets Run write the line of e; false means that the caller has to.
func (q *endings) put(e ending) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.running || len(q.waiting) >= maxEndings {
		return false
	}
	q.waiting = append(q.waiting, e)
	if len(q.waiting) == 1 {
		select {
		case q.wake <- struct{}{}:
		default: // Run has not looked yet
		}
	}
	return true
}

// flush writes what waits.
func (q *endings) flush() {
	q.mu.Lock()
	list := q.waiting
	q.waiting, q.spare = q.spare[:0], nil
	q.mu.Unlock()
	for i, e := range list {
		e.record.writeClosed(e.at, e.err)
		list[i] = ending{} // keeps nothing alive
	}
	q.mu.Lock()
	q.spare = list[:0]
	q.mu.Unlock()
}

// Run writes the access log's lines of connections that end, behind their backs
// and some milliseconds later, until ctx ends and none is left. Before and after
// it each line is written as its connection ends. It may be called once; ctx
// should end after the last connection.
func (r *Records) Run(ctx context.Context) error {
	q := &r.endings
	q.mu.Lock()
	q.running = true
	q.mu.Unlock()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var last time.Time
	for {
		select {
		case <-q.wake:
		case <-ctx.Done():
			q.mu.Lock()
			q.running = false
			q.mu.Unlock()
			q.flush()
			return nil
		}
		if wait := gatherTime - time.Since(last); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
			}
		}
		q.flush()
		last = time.Now()
	}
}
