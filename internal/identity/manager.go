package identity

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// ErrStopped is what [Manager.Get] returns after Run has ended.
var ErrStopped = errors.New("certificate manager has stopped")

// Fetcher asks a CA for the certificate of one identity. Fetch may be called
// from many goroutines and obeys ctx.
type Fetcher interface {
	Fetch(ctx context.Context, id ID) (*Certificate, error)
}

// ManagerConfig tunes a [Manager]. The zero value is ready for use; a negative
// value is an error.
type ManagerConfig struct {
	// MaxInFlight is how many requests to the CA may run at a time. Zero means 8.
	MaxInFlight int
	// FetchTimeout bounds one request. Zero means 10 s.
	FetchTimeout time.Duration
	// RetryInitial and RetryMax bound the back-off of an identity whose requests
	// fail. Zero means 500 ms and 150 s.
	RetryInitial, RetryMax time.Duration
}

// withDefaults returns the configuration that is in force.
func (c ManagerConfig) withDefaults() (ManagerConfig, error) {
	if c.MaxInFlight < 0 || c.FetchTimeout < 0 || c.RetryInitial < 0 || c.RetryMax < 0 {
		return ManagerConfig{}, fmt.Errorf("certificate manager config %+v: want no negative value", c)
	}
	c.MaxInFlight = cmp.Or(c.MaxInFlight, 8)
	c.FetchTimeout = cmp.Or(c.FetchTimeout, 10*time.Second)
	c.RetryInitial = cmp.Or(c.RetryInitial, 500*time.Millisecond)
	c.RetryMax = cmp.Or(c.RetryMax, 150*time.Second)
	if c.RetryMax < c.RetryInitial {
		return ManagerConfig{}, fmt.Errorf("RetryMax is %v, want at least RetryInitial, %v", c.RetryMax, c.RetryInitial)
	}
	return c, nil
}

// Manager keeps one certificate per identity: fetched on demand and ahead of
// use, renewed at half life, served until it expires when the CA is away.
//
// All methods may be called from many goroutines. Requests are made only while
// [Manager.Run] runs.
type Manager struct {
	// Set by NewManager, then only read.
	cfg     ManagerConfig
	fetcher Fetcher
	wake    chan struct{} // one slot: the schedule or the events have changed
	stopped chan struct{} // closed when Run has returned

	// mu guards the fields below. It is never held while calling others' code.
	mu        sync.Mutex
	entries   map[ID]*entry
	inFlight  int
	arrivals  uint64 // orders entries of one priority
	listeners []func(ID, *Certificate)
	events    []change // for the listeners, oldest first
}

// change is a certificate that a listener has not heard of yet; nil when the
// identity was forgotten.
type change struct {
	id   ID
	cert *Certificate
}

// NewManager makes a Manager that asks f. It starts nothing.
func NewManager(cfg ManagerConfig, f Fetcher) (*Manager, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Manager{
		cfg:     cfg,
		fetcher: f,
		wake:    make(chan struct{}, 1),
		stopped: make(chan struct{}),
		entries: map[ID]*entry{},
	}, nil
}

// Get returns the certificate of id. When there is no valid one in memory it
// asks the CA, before all prefetches and renewals, together with all others that
// wait for id, and waits until ctx ends or until the CA has failed so often that
// the next try is more than a few seconds away.
//
// Errors hold the CA's last answer, or the cause of ctx; [ErrStopped] after Run.
func (m *Manager) Get(ctx context.Context, id ID) (*Certificate, error) {
	if id.IsZero() {
		return nil, errors.New("certificate for no identity")
	}
	m.mu.Lock()
	e := m.entryLocked(id)
	if e.cert != nil && e.cert.ValidAt(time.Now()) {
		defer m.mu.Unlock()
		return e.cert, nil
	}
	e.waiters++
	e.urgent = true
	defer m.leave(e)
	for {
		if e.err != nil && !e.fetching && time.Until(e.retryAt()) > patience {
			defer m.mu.Unlock()
			return nil, fmt.Errorf("certificate for %v: %w", id, e.err)
		}
		answered, lastErr := e.answered, e.err
		m.mu.Unlock()
		m.poke()
		select {
		case <-answered:
		case <-ctx.Done():
			return nil, waitError(id, context.Cause(ctx), lastErr)
		case <-m.stopped:
			return nil, waitError(id, ErrStopped, lastErr)
		}
		m.mu.Lock()
		if e.cert != nil && e.cert.ValidAt(time.Now()) {
			defer m.mu.Unlock()
			return e.cert, nil
		}
	}
}

// waitError says why a wait ended, and what the CA said last.
func waitError(id ID, cause, last error) error {
	if last != nil {
		return fmt.Errorf("certificate for %v: %w; last answer: %w", id, cause, last)
	}
	return fmt.Errorf("certificate for %v: %w", id, cause)
}

// leave ends a wait of Get.
func (m *Manager) leave(e *entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e.waiters--
	m.forgetUnusedLocked(e)
}

// Peek returns the certificate of id if there is a valid one. It only reads
// memory.
func (m *Manager) Peek(id ID) (*Certificate, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entries[id]
	if e == nil || e.cert == nil || !e.cert.ValidAt(time.Now()) {
		return nil, false
	}
	return e.cert, true
}

// Retain says that id is in use: its certificate is fetched ahead of need and
// renewed. When the last of those who retain id has called release, it is
// forgotten at once. Calling release again does nothing.
//
// An identity that nobody retains keeps the certificate that a Get has fetched
// until its half life.
func (m *Manager) Retain(id ID) (release func()) {
	m.mu.Lock()
	e := m.entryLocked(id)
	e.retained++
	e.released = false
	m.mu.Unlock()
	m.poke()
	return sync.OnceFunc(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if e.retained--; e.retained == 0 {
			e.released = true
		}
		m.forgetUnusedLocked(e)
	})
}

// Refresh makes the certificates of all identities that match due for renewal
// now, as when the roots of the mesh have changed. One that is being asked for is
// asked for again: its answer may be from before the change. It does not wait.
func (m *Manager) Refresh(match func(ID) bool) {
	m.mu.Lock()
	now := time.Now()
	for _, e := range m.entries {
		switch {
		case !match(e.id):
		case e.fetching:
			e.stale = true
		case e.cert != nil: // no back-off either: what failed may go well now
			e.due = now
		}
	}
	m.mu.Unlock()
	m.poke()
}

// OnChange registers fn for every certificate that comes, is renewed (c is the
// new one), or is forgotten (c is nil). The calls are made one after the other
// by Run, after the change can be seen by Get and Peek.
func (m *Manager) OnChange(fn func(id ID, c *Certificate)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.listeners = append(m.listeners, fn)
}

// State says how it stands with the certificate of an identity.
type State string

// The states, with the names that existing tools print.
const (
	Available    State = "Available"    // there is a valid certificate
	Initializing State = "Initializing" // the first request has no answer yet
	Unavailable  State = "Unavailable"  // requests fail, and nothing valid is left
)

// Status is what [Manager.Dump] says of one identity.
type Status struct {
	ID    ID
	State State
	// Err is the last answer of the CA when it was an error. An identity can be
	// Available and have one: its old certificate is served meanwhile.
	Err error
	// Certificate is the newest one, possibly expired; nil when there is none.
	Certificate *Certificate
	// Next is when the CA will be asked again; zero while a request runs.
	Next time.Time
}

// Dump returns the status of all identities, in the order of their names.
func (m *Manager) Dump() []Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	out := make([]Status, 0, len(m.entries))
	for _, e := range slices.SortedFunc(maps.Values(m.entries), func(a, b *entry) int {
		return cmp.Compare(a.id.String(), b.id.String())
	}) {
		out = append(out, e.status(now))
	}
	return out
}

// Run asks the CA for what is due, with at most MaxInFlight requests at a time,
// and tells the listeners, until ctx ends. When it has returned no request is
// left. It may be called once.
func (m *Manager) Run(ctx context.Context) error {
	defer close(m.stopped)
	var fetches lifecycle.Group
	defer fetches.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // before Wait: it ends the requests
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		m.notify()
		next := m.startDue(ctx, &fetches)
		timer.Reset(next)
		select {
		case <-m.wake:
		case <-timer.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// poke makes Run look again.
func (m *Manager) poke() {
	select {
	case m.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// notify tells the listeners what has changed, oldest first.
func (m *Manager) notify() {
	for {
		m.mu.Lock()
		events, listeners := m.events, m.listeners
		m.events = nil
		m.mu.Unlock()
		if len(events) == 0 {
			return
		}
		for _, ev := range events {
			for _, fn := range listeners {
				fn(ev.id, ev.cert)
			}
		}
	}
}
