package load

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// pipelined is how many requests may wait for their answer on one connection
// before the sender has to wait too, which shows as lateness.
const pipelined = 4096

// runRate sends requests at fixed times, the connections taking turns, whether
// answers have come or not, and times each from the moment at which it was due.
func (g *generator) runRate(ctx context.Context, conns []net.Conn) error {
	due := make([]chan time.Time, len(conns)) // per connection: when what was sent was due
	for i := range due {
		due[i] = make(chan time.Time, pipelined)
	}
	var senders lifecycle.Group
	sender, stop := context.WithCancel(ctx)
	var sendErr error
	start := time.Now()
	senders.Go(sender, "sender", func(ctx context.Context) {
		sendErr = g.sendAtRate(ctx, conns, due, start)
		for _, d := range due {
			close(d)
		}
	})
	count := g.countFrom(start)
	err := each(ctx, conns, func(ctx context.Context, c net.Conn) error {
		var in answerReader
		in.c = c
		i := indexOf(conns, c)
		for at := range due[i] {
			if err := in.next(); err != nil {
				return fmt.Errorf("request that was due %v after the start: %w", at.Sub(start), err)
			}
			g.programs.answers.Add(1)
			count.add(i, at, time.Now())
		}
		return nil
	})
	stop()
	senders.Wait()
	g.result.Latency = count.encode()
	if err == nil {
		err = sendErr
	}
	return err
}

// indexOf finds the place of c.
func indexOf(conns []net.Conn, c net.Conn) int {
	for i := range conns {
		if conns[i] == c {
			return i
		}
	}
	return -1
}

// sendAtRate is the sending side, on a thread of its own: a goroutine would be
// woken up to a millisecond late, because the runtime rounds its timers so.
func (g *generator) sendAtRate(ctx context.Context, conns []net.Conn, due []chan time.Time, start time.Time) error {
	runtime.LockOSThread() // for good: the thread ends with this goroutine
	punctual()
	late := newHistogram()
	gap := time.Second / time.Duration(g.order.PerSecond)
	total := int((g.order.Warm + g.order.Window) / gap)
	warm := start.Add(g.order.Warm)
	request := g.order.request()
	for i := range total {
		at := start.Add(time.Duration(i) * gap)
		if err := sleepUntil(at); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil // a reader has said why
		}
		if !at.Before(warm) {
			record(late, time.Since(at))
		}
		which := i % len(conns)
		select {
		case due[which] <- at:
		case <-ctx.Done():
			return nil
		}
		if _, err := conns[which].Write(request); err != nil {
			return err
		}
	}
	g.result.Lateness = encode(late)
	return nil
}
