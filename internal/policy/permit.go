package policy

import (
	"context"
	"time"
)

// A Permit is what a connection holds while it may live. All methods may be
// called from many goroutines.
type Permit struct {
	// Set by register, then only read.
	gate    *Gate
	subject Subject
	request Request // zero when not inbound
	inbound bool    // policy decides about it

	// Guarded by gate.mu.
	done      chan struct{} // closed when cause is set; nil until somebody asks for it
	live      bool          // decided; only reviews can end it now
	released  bool          // the connection has ended
	objection *objection    // a refusal that came while it was being decided
	cause     error         // why it was taken back; nil while it holds
	review    review
	watchers  []context.CancelCauseFunc
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

// Watch calls cancel with the reason when the permit is taken back, at once if it
// has been. After Release it is not called any more.
func (p *Permit) Watch(cancel context.CancelCauseFunc) {
	p.gate.mu.Lock()
	cause := p.cause
	if cause == nil && !p.released {
		p.watchers = append(p.watchers, cancel)
	}
	p.gate.mu.Unlock()
	if cause != nil {
		cancel(cause)
	}
}

// Done returns a channel that is closed when the permit is taken back.
func (p *Permit) Done() <-chan struct{} {
	p.gate.mu.Lock()
	defer p.gate.mu.Unlock()
	if p.done == nil {
		p.done = make(chan struct{})
		if p.cause != nil {
			close(p.done)
		}
	}
	return p.done
}

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
	p.released, p.watchers = true, nil
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
func (p *Permit) revokeLocked(cause error) (tell []context.CancelCauseFunc, ok bool) {
	if p.cause != nil || p.released {
		return nil, false
	}
	p.cause = cause
	if p.done != nil {
		close(p.done)
	}
	tell, p.watchers = p.watchers, nil
	return tell, true
}
