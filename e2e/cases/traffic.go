package cases

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/ambit-mesh/ambit/internal/lab/labapp"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// rate is how many requests a load sends per second.
const rate = 200

// Load is a load at work.
type Load struct {
	What    string
	start   time.Time
	session *labapp.Session
	reader  lifecycle.Group

	mu   sync.Mutex
	last labapp.Load
	err  error // why it ended before it was stopped
	done bool
}

// Load begins to send requests from a pod to an address, with the case's marker, once
// the address has answered: a service that was made a moment ago is not yet known to
// every node.
func (e *Env) Load(ctx context.Context, from Pod, to string) (*Load, error) {
	if err := e.Reachable(ctx, from, to); err != nil {
		return nil, err
	}
	return e.LoadAtOnce(ctx, from, to)
}

// settled is how many answers in a row show that an address works.
const settled = 5

// Reachable waits until an HTTP server answers a pod several times in a row.
func (e *Env) Reachable(ctx context.Context, from Pod, to string) error {
	return e.reachable(ctx, from, to, settled)
}

// reachable is Reachable with so many answers in a row.
func (e *Env) reachable(ctx context.Context, from Pod, to string, times int) error {
	return e.Until(ctx, time.Minute, fmt.Sprintf("%d answers from %s to %v", times, to, from), func(ctx context.Context) (bool, error) {
		for range times {
			if _, err := from.Hello(ctx, to); err != nil {
				return false, err
			}
		}
		return true, nil
	})
}

// LoadAtOnce is Load for an address that must work from the first request on.
func (e *Env) LoadAtOnce(ctx context.Context, from Pod, to string) (*Load, error) {
	l, err := e.begin(ctx, from, labapp.Request{Do: labapp.DoLoad, Address: to, Rate: rate, Text: e.Marker})
	if err != nil {
		return nil, err
	}
	return l, l.Flowing(ctx, 20)
}

// begin starts any load.
func (e *Env) begin(ctx context.Context, from Pod, req labapp.Request) (*Load, error) {
	session, err := from.Begin(ctx, req)
	if err != nil {
		return nil, err
	}
	l := &Load{What: fmt.Sprintf("%v to %s", from, req.Address), start: time.Now(), session: session}
	e.loads = append(e.loads, l)
	l.reader.Go(ctx, "load", l.read)
	return l, nil
}

// read keeps the newest numbers until the load has ended.
func (l *Load) read(ctx context.Context) {
	for {
		r, err := l.session.Next(ctx)
		l.mu.Lock()
		if r.Load != nil {
			l.last = *r.Load
		}
		l.err = err
		l.done = err != nil || r.Done
		done := l.done
		l.mu.Unlock()
		if done {
			return
		}
	}
}

// Now is what came of the load so far.
func (l *Load) Now() (labapp.Load, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last, l.err
}

// Flowing waits until so many more requests have been answered. A failed request is
// not an error here: see [Load.Clean].
func (l *Load) Flowing(ctx context.Context, more int) error {
	before, _ := l.Now()
	deadline := time.Now().Add(20 * time.Second)
	for {
		now, err := l.Now()
		if err != nil {
			return fmt.Errorf("load %s: %w", l.What, err)
		}
		if now.OK >= before.OK+more {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("load %s: %d more answers in 20 s, want %d; %s", l.What, now.OK-before.OK, more, firstFailure(now))
		}
		if err := lifecycle.Sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// Stop ends the load in good order and returns its numbers.
func (l *Load) Stop() (labapp.Load, error) {
	l.mu.Lock()
	done := l.done
	l.mu.Unlock()
	var err error
	if !done {
		err = l.session.Stop()
	}
	l.reader.Wait()
	l.session.Close()
	now, rerr := l.Now()
	return now, errors.Join(err, rerr)
}

// Clean stops the load and makes sure that every request was answered, and that there
// were as many as there should be.
func (l *Load) Clean() (labapp.Load, error) {
	// A busy machine sends less than it was asked to; half would prove nothing.
	return l.clean(rate / 2)
}

// clean is Clean for a load that should have sent so many a second at least.
func (l *Load) clean(perSecond float64) (labapp.Load, error) {
	took := time.Since(l.start)
	now, err := l.Stop()
	if err != nil {
		return now, fmt.Errorf("load %s: %w", l.What, err)
	}
	if now.Failed > 0 {
		return now, fmt.Errorf("load %s: %d of %d requests failed; %s", l.What, now.Failed, now.Sent, firstFailure(now))
	}
	if want := int(took.Seconds() * perSecond); now.Sent < want {
		return now, fmt.Errorf("load %s: only %d requests in %.1f s, want at least %d: the machine is too busy for this to mean something", l.What, now.Sent, took.Seconds(), want)
	}
	return now, nil
}

// talks is how many gRPC conversations are held at once; each lasts three seconds.
const talks = 20

// Talks begins to hold conversations from a pod with a gRPC server, until the load is
// stopped.
func (e *Env) Talks(ctx context.Context, from Pod, to string) (*Load, error) {
	l, err := e.begin(ctx, from, labapp.Request{Do: labapp.DoTalk, Address: to, Count: talks, Text: e.Marker})
	if err != nil {
		return nil, err
	}
	return l, l.Flowing(ctx, 1)
}

// CleanTalks is [Load.Clean] for conversations.
func (l *Load) CleanTalks() (labapp.Load, error) { return l.clean(talks / 3. / 2) }

// newOnesFine makes sure that no request on a connection of its own has failed.
func newOnesFine(l labapp.Load) error {
	if l.Failed > len(l.Failures) {
		return fmt.Errorf("%d of %d requests failed, too many to tell on what connections; %s", l.Failed, l.Sent, firstFailure(l))
	}
	for _, f := range l.Failures {
		if f.New {
			return fmt.Errorf("%d of %d requests failed, and not only on connections that stood before: %s", l.Failed, l.Sent, describe(f))
		}
	}
	return nil
}

// firstFailure describes what went wrong first.
func firstFailure(l labapp.Load) string {
	if len(l.Failures) == 0 {
		return "none failed"
	}
	return "the first " + describe(l.Failures[0])
}

// describe says when a request failed, on what, and why.
func describe(f labapp.Failure) string {
	kind := "kept"
	if f.New {
		kind = "new"
	}
	return fmt.Sprintf("at %s on a %s connection after %v: %s", f.At.Format("15:04:05.000"), kind, f.After.Round(time.Millisecond), f.Error)
}

// Stream is a connection that carries bytes for long.
type Stream struct {
	What    string
	session *labapp.Session
}

// streamRate is how many bytes a stream sends per second.
const streamRate = 1 << 20

// Stream begins to send bytes from a pod to the summing server at an address.
func (e *Env) Stream(ctx context.Context, from Pod, to string) (*Stream, error) {
	session, err := from.Begin(ctx, labapp.Request{Do: labapp.DoUpload, Address: to, Rate: streamRate, Timeout: 20 * time.Second})
	if err != nil {
		return nil, err
	}
	e.Undo(func(context.Context) error {
		if err := session.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil // it ended in good order
	})
	return &Stream{What: fmt.Sprintf("%v to %s", from, to), session: session}, nil
}

// Clean ends the stream and makes sure that what was sent is what arrived.
func (s *Stream) Clean(ctx context.Context) (bytes int64, err error) {
	defer s.session.Close()
	serr := s.session.Stop() // fails when the stream has ended: its last word says why
	r, err := s.session.Wait(ctx)
	if err != nil {
		err = errors.Join(err, serr)
	}
	if err == nil && r.Error != "" {
		err = errors.New(r.Error)
	}
	if err != nil {
		return 0, fmt.Errorf("stream %s: %w", s.What, err)
	}
	if r.Got == nil || r.Sent == nil || *r.Got != *r.Sent {
		return 0, fmt.Errorf("stream %s: sent %+v, arrived %+v", s.What, r.Sent, r.Got)
	}
	return r.Sent.Bytes, nil
}

// summary is the evidence of a clean load.
func summary(loads ...labapp.Load) string {
	var sent, failed, fresh int
	var p99 time.Duration
	for _, l := range loads {
		sent, failed, fresh = sent+l.Sent, failed+l.Failed, fresh+l.New
		p99 = max(p99, l.P99)
	}
	return fmt.Sprintf("%d requests, %d on new connections, %d failed, p99 %v", sent, fresh, failed, cmp.Or(p99.Round(100*time.Microsecond), p99))
}
