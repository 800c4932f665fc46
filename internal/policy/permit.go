package policy

import (
	"context"
	"maps"
	"slices"
	"time"
)

// A Permit is what a connection holds while it may live. All methods may be
// called from many goroutines.
type Permit struct {
	// Set by register, then only read.
	gate    *Gate
	subject Subject
	request Request       // zero when not inbound
	inbound bool          // policy decides about it
	done    chan struct{} // closed when cause is set

	// Guarded by gate.mu.
	live      bool       // decided; only reviews can end it now
	released  bool       // the connection has ended
	objection *objection // a refusal that came while it was being decided
	cause     error      // why it was taken back; nil while it holds
	review    review
	watchers  map[*context.CancelCauseFunc]struct{}
}

// review is what is known of a permit since it was last decided.
type review struct {
	applicable   Applicable // what the verdict came from
	verdict      Verdict    // the last one that allowed
	missing      []string   // what was missing then
	missingSince time.Time  // zero: nothing is missing
}

// objection is a verdict that refuses, and what it came from.
type objection struct {
	applicable Applicable
	verdict    Verdict
}

// miss notes that o lacks something. What was missing before and still is keeps
// its time.
func (r *review) miss(o objection, now time.Time) {
	names := o.verdict.missingNames(o.applicable.Known)
	if r.missingSince.IsZero() || !intersect(r.missing, names) {
		r.missingSince = now
	}
	r.applicable, r.missing = o.applicable, names
}

// Context returns a context that ends with parent, and when the permit is taken
// back; then its cause is the reason. The caller must call cancel.
func (p *Permit) Context(parent context.Context) (ctx context.Context, cancel context.CancelFunc) {
	ctx, cancelCause := context.WithCancelCause(parent)
	key := &cancelCause
	p.gate.mu.Lock()
	cause := p.cause
	if cause == nil {
		if p.watchers == nil {
			p.watchers = make(map[*context.CancelCauseFunc]struct{}, 1)
		}
		p.watchers[key] = struct{}{}
	}
	p.gate.mu.Unlock()
	if cause != nil {
		cancelCause(cause)
	}
	return ctx, func() {
		p.gate.mu.Lock()
		delete(p.watchers, key)
		p.gate.mu.Unlock()
		cancelCause(nil)
	}
}

// Done returns a channel that is closed when the permit is taken back.
func (p *Permit) Done() <-chan struct{} { return p.done }

// Cause is why the permit was taken back; nil while it holds.
func (p *Permit) Cause() error {
	p.gate.mu.Lock()
	defer p.gate.mu.Unlock()
	return p.cause
}

// Verdict is the newest decision that allowed the connection. An outbound
// permit has none: its Rule is -1 and all else is zero.
func (p *Permit) Verdict() Verdict {
	p.gate.mu.Lock()
	defer p.gate.mu.Unlock()
	return p.review.verdict
}

// Release forgets the connection. It may be called more than once.
func (p *Permit) Release() {
	g := p.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if p.released {
		return
	}
	p.released = true
	p.review = review{verdict: p.review.verdict}
	set := g.permits[p.subject]
	delete(set, p)
	if len(set) == 0 {
		delete(g.permits, p.subject)
	}
	g.count--
}

// revokeLocked records why p is taken back and returns whom to tell. The caller
// holds gate.mu; ok is false when there is nothing to take back any more.
func (p *Permit) revokeLocked(cause error) (tell []*context.CancelCauseFunc, ok bool) {
	if p.cause != nil || p.released {
		return nil, false
	}
	p.cause = cause
	close(p.done)
	tell = slices.Collect(maps.Keys(p.watchers))
	p.watchers = nil
	return tell, true
}
