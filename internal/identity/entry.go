package identity

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

const (
	// firstRetry is when a request is tried again for the first time while a
	// connection waits: the CA may just not have heard of the pod yet.
	// Our choice: a CA answers in milliseconds.
	firstRetry = 50 * time.Millisecond

	// urgentRetry is the longest back-off while connections want the identity.
	// Our choice: a pod without a certificate is down, so it must not wait out a
	// back-off of minutes after the CA has come back.
	urgentRetry = 5 * time.Second

	// patience is how far away the next try may be for a Get to go on waiting.
	// Our choice: with the defaults the CA is asked at 0, 0.05, 0.55 and about
	// 2.6 s, and then a Get fails: well within what clients wait for a connect.
	patience = 3 * time.Second

	// minRefresh is the shortest time between two certificates of an identity.
	// Our choice: it keeps a CA that hands out very short ones from being asked
	// in a loop.
	minRefresh = time.Second

	// idleCheck is how often Run looks when nothing is due. Changes wake it, so
	// this is only for the clock of the machine being set.
	idleCheck = time.Minute
)

// priority orders requests that are due. Smaller goes first.
type priority uint8

const (
	realTime   priority = iota // a connection waits
	warmup                     // prefetch for a workload that has come
	background                 // renewal
)

// entry is what a Manager knows of one identity. Manager.mu guards all fields.
type entry struct {
	id      ID
	arrival uint64 // orders entries of one priority

	// Who needs it.
	waiters  int  // Get calls that wait
	retained int  // Retain calls that have not been released
	released bool // the last Retain was released: forget as soon as nobody waits
	urgent   bool // a connection wants it since the last answer

	// What came of it.
	cert *Certificate // newest; nil until the first success
	err  error        // of the last request; nil after a success
	due  time.Time    // when to ask (again), leaving urgent aside

	// The request.
	fetching bool
	stale    bool               // ask again at once: the running request may have been too early
	cancel   context.CancelFunc // of the running request
	answered chan struct{}      // closed, and replaced, at the end of each request
	asked    time.Time          // when the last request ended
	failures int                // since the last success
	backoff  lifecycle.Backoff
}

// entryLocked returns the entry of id, making one that is due at once. The
// caller holds m.mu.
func (m *Manager) entryLocked(id ID) *entry {
	e := m.entries[id]
	if e == nil {
		m.arrivals++
		e = &entry{
			id:       id,
			arrival:  m.arrivals,
			due:      time.Now(),
			answered: make(chan struct{}),
			backoff:  lifecycle.Backoff{Initial: m.cfg.RetryInitial, Max: m.cfg.RetryMax},
		}
		m.entries[id] = e
	}
	return e
}

// startDue starts the requests that are due, the most urgent first, as far as
// MaxInFlight allows, and returns how long nothing else will be due.
func (m *Manager) startDue(ctx context.Context, fetches *lifecycle.Group) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	for m.inFlight < m.cfg.MaxInFlight {
		e, wait := m.nextLocked(now)
		if e == nil {
			return wait
		}
		m.startLocked(ctx, fetches, e)
	}
	return idleCheck // the end of a request wakes Run
}

// nextLocked returns the entry to ask for at now, or how long there is none. It
// forgets entries that nobody wants any more. The caller holds m.mu.
func (m *Manager) nextLocked(now time.Time) (next *entry, wait time.Duration) {
	wait = idleCheck
	for _, e := range m.entries {
		if e.fetching {
			continue
		}
		at := e.retryAt()
		if at.After(now) {
			wait = min(wait, at.Sub(now))
			continue
		}
		if e.retained == 0 && e.waiters == 0 {
			m.forgetLocked(e) // its half life has come, or its only waiter has gone
			continue
		}
		if next == nil || e.before(next) {
			next = e
		}
	}
	return next, wait
}

// startLocked asks the CA for e. The caller holds m.mu.
func (m *Manager) startLocked(ctx context.Context, fetches *lifecycle.Group, e *entry) {
	m.inFlight++
	ctx, e.cancel = context.WithTimeout(ctx, m.cfg.FetchTimeout)
	e.fetching = true
	fetches.Go(ctx, "certificate", func(ctx context.Context) {
		cert, err := m.fetcher.Fetch(ctx, e.id)
		m.finish(e, cert, err)
		m.poke()
	})
}

// finish takes the CA's answer and plans the next request.
func (m *Manager) finish(e *entry, cert *Certificate, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.inFlight--
	e.cancel()
	e.fetching, e.asked = false, now
	if err == nil {
		err = checkAnswer(e.id, cert, now)
	}
	if e.err = err; err != nil {
		e.failures++
		e.urgent = e.waiters > 0
		e.due = now.Add(e.backoff.Next())
	} else {
		e.failures = 0
		e.backoff.Reset()
		e.cert, e.due, e.urgent = cert, refreshTime(cert, now), false
		if e.stale {
			e.due = now
		}
	}
	e.stale = false
	close(e.answered)
	e.answered = make(chan struct{})
	if m.entries[e.id] != e {
		return // forgotten meanwhile
	}
	if err == nil {
		m.events = append(m.events, change{e.id, cert})
	}
	m.forgetUnusedLocked(e)
}

// checkAnswer refuses a certificate that cannot be used.
func checkAnswer(id ID, cert *Certificate, now time.Time) error {
	switch {
	case cert == nil:
		return errors.New("the CA answered without a certificate")
	case cert.ID != id:
		return errors.New("the CA answered with a certificate for " + cert.ID.String())
	case !cert.ValidAt(now):
		return errors.New("the CA answered with a certificate that is not valid now: valid from " +
			cert.NotBefore().UTC().Format(time.RFC3339) + " to " + cert.NotAfter().UTC().Format(time.RFC3339) +
			"; are the clocks of both sides right?")
	}
	return nil
}

// refreshTime is half of a certificate's life; half of what is left of it when
// that has passed already, as with a short one that is backdated.
func refreshTime(c *Certificate, now time.Time) time.Time {
	half := c.NotBefore().Add(c.NotAfter().Sub(c.NotBefore()) / 2)
	if !half.After(now) {
		half = now.Add(c.NotAfter().Sub(now) / 2)
	}
	if soonest := now.Add(minRefresh); half.Before(soonest) {
		return soonest
	}
	return half
}

// retryAt is when the CA is to be asked, with regard to who waits.
func (e *entry) retryAt() time.Time {
	if !e.urgent || e.cert != nil && e.err == nil && e.cert.ValidAt(time.Now()) {
		return e.due
	}
	switch e.failures {
	case 0:
		return e.earliest(time.Now())
	case 1:
		return e.earliest(e.asked.Add(firstRetry))
	case 2:
		return e.earliest(e.asked.Add(e.backoff.Initial))
	}
	return e.earliest(e.asked.Add(urgentRetry))
}

// earliest returns at, or e.due when that is before it.
func (e *entry) earliest(at time.Time) time.Time {
	if e.due.Before(at) {
		return e.due
	}
	return at
}

// priority says how urgent the request for e is.
func (e *entry) priority() priority {
	switch {
	case e.urgent:
		return realTime
	case e.cert == nil:
		return warmup
	}
	return background
}

// before reports whether e is asked for before other.
func (e *entry) before(other *entry) bool {
	return cmp.Or(
		cmp.Compare(e.priority(), other.priority()),
		e.due.Compare(other.due),
		cmp.Compare(e.arrival, other.arrival),
	) < 0
}

// status describes e at now.
func (e *entry) status(now time.Time) Status {
	s := Status{ID: e.id, State: Initializing, Err: e.err, Certificate: e.cert}
	switch {
	case e.cert != nil && e.cert.ValidAt(now):
		s.State = Available
	case e.err != nil || e.cert != nil:
		s.State = Unavailable
	}
	if !e.fetching {
		s.Next = e.retryAt()
	}
	return s
}

// forgetUnusedLocked forgets e when the last who retained it has released it and
// nobody waits. The caller holds m.mu.
func (m *Manager) forgetUnusedLocked(e *entry) {
	if e.released && e.retained == 0 && e.waiters == 0 {
		m.forgetLocked(e)
	}
}

// forgetLocked drops e and what it has learned of the CA. The caller holds m.mu.
func (m *Manager) forgetLocked(e *entry) {
	if m.entries[e.id] != e {
		return
	}
	delete(m.entries, e.id)
	if e.fetching {
		e.cancel()
	}
	if e.cert != nil {
		m.events = append(m.events, change{e.id, nil})
	}
	m.poke()
}
