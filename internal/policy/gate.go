package policy

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"
)

// Subject names the local pod whose policies apply. It is comparable.
type Subject struct{ Name, Namespace, ServiceAccount string }

// String returns "namespace/name".
func (s Subject) String() string { return s.Namespace + "/" + s.Name }

// Source says what applies to a subject now. *workload.Store is the real one.
// An answer never goes back behind an earlier one.
type Source interface{ PoliciesFor(s Subject) Applicable }

// GateConfig tunes a [Gate]. The zero GateConfig is ready for use.
type GateConfig struct {
	// MissingWait is how long a new connection waits for a policy that is named
	// but absent, and how long a live one may go on without it. Zero means 1 s.
	MissingWait time.Duration
	// Trace is told what happens.
	Trace GateTrace
}

// GateTrace holds optional hooks. They are called without a lock held, from the
// goroutine that met the event, and must not block.
type GateTrace struct {
	// Denied: a new connection was refused.
	Denied func(Subject, Request, Verdict)
	// MissingRefused: a new connection was refused because of a policy that did
	// not arrive in time, or a workload that did not. Denied is called as well.
	MissingRefused func(Subject, Verdict)
	// Revoked: a live connection was cut.
	Revoked func(Subject, Request, error)
}

// A Gate holds a [Permit] for each connection of the local pods and takes it
// back when the connection may no longer be. All methods may be called from
// many goroutines.
//
// Lock order: changing, then mu.
type Gate struct {
	source Source
	wait   time.Duration
	trace  GateTrace

	changing sync.Mutex // one Changed at a time

	// mu guards the fields below and the mutable fields of every Permit. Nothing
	// is evaluated while it is held.
	mu      sync.Mutex
	permits map[Subject]map[*Permit]struct{}
	count   int
	changed chan struct{} // closed by the next call of Changed
	timer   *time.Timer   // runs while a live permit misses a policy
}

// NewGate makes a gate over source. It starts nothing.
func NewGate(source Source, cfg GateConfig) *Gate {
	return &Gate{
		source:  source,
		wait:    cmp.Or(cfg.MissingWait, time.Second),
		trace:   cfg.Trace,
		permits: make(map[Subject]map[*Permit]struct{}),
		changed: make(chan struct{}),
	}
}

// DeniedError is why a new connection got no permit.
type DeniedError struct{ Verdict Verdict }

// Error says which policy refused, or what is missing.
func (e *DeniedError) Error() string { return e.Verdict.Reason }

// RevokedError is why a live connection lost its permit to a change of policy
// or workload.
type RevokedError struct{ Verdict Verdict }

// Error names the policy that refuses now.
func (e *RevokedError) Error() string { return "connection no longer allowed: " + e.Verdict.Reason }

// Admit decides about a connection that wants to come in to s, and gives it a
// permit that the caller must release when the connection has ended.
//
// The connection is registered before it is evaluated. While a policy that
// applies is missing, or the workload is not known, Admit waits up to
// MissingWait. Errors: a [*DeniedError]; the cause of a revocation that came
// while waiting; the cause of ctx when it ended.
func (g *Gate) Admit(ctx context.Context, s Subject, r Request) (*Permit, error) {
	p := g.register(s, r, true)
	verdict, err := g.settle(ctx, p)
	if err != nil {
		p.Release()
		return nil, err
	}
	if verdict.Allowed {
		return p, nil
	}
	p.Release()
	if g.trace.Denied != nil {
		g.trace.Denied(s, r, verdict)
	}
	return nil, &DeniedError{Verdict: verdict}
}

// AdmitOutbound registers a connection that leaves s, so that [Gate.Revoke]
// finds it. No policy is asked: the destination decides.
func (g *Gate) AdmitOutbound(s Subject) *Permit {
	return g.register(s, Request{}, false)
}

// register makes a permit and puts it where Changed and Revoke find it.
func (g *Gate) register(s Subject, r Request, inbound bool) *Permit {
	p := &Permit{gate: g, subject: s, request: r, inbound: inbound}
	p.review.verdict.Rule = -1
	g.mu.Lock()
	defer g.mu.Unlock()
	set := g.permits[s]
	if set == nil {
		set = make(map[*Permit]struct{})
		g.permits[s] = set
	}
	set[p] = struct{}{}
	g.count++
	return p
}

// settle evaluates p until the outcome is final.
//
// The permit was registered before the first look at the source. A change after
// a look is followed by Changed, which finds the permit and objects if need be;
// a change before it was seen by the look itself.
func (g *Gate) settle(ctx context.Context, p *Permit) (Verdict, error) {
	var timeout <-chan time.Time
	for late := false; ; {
		changed := g.beginLook(p)
		ap := g.source.PoliciesFor(p.subject)
		v := Evaluate(ap, p.request)
		if !v.undecided(ap.Known) || late {
			v, err := g.endLook(p, ap, v)
			if err == nil && v.undecided(ap.Known) && g.trace.MissingRefused != nil {
				g.trace.MissingRefused(p.subject, v)
			}
			return v, err
		}
		if timeout == nil {
			t := time.NewTimer(g.wait)
			defer t.Stop()
			timeout = t.C
		}
		select {
		case <-changed:
		case <-timeout:
			late = true
		case <-p.Done():
			return Verdict{}, p.Cause()
		case <-ctx.Done():
			return Verdict{}, context.Cause(ctx)
		}
	}
}

// beginLook forgets what was said against p so far: the look that follows sees
// at least that. It returns a channel that the next change closes.
func (g *Gate) beginLook(p *Permit) <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	p.objection = nil
	return g.changed
}

// endLook makes v the verdict of p, unless Changed objected meanwhile. When it
// only misses something now, p goes live as one that misses it.
func (g *Gate) endLook(p *Permit, ap Applicable, v Verdict) (Verdict, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if p.cause != nil {
		return Verdict{}, p.cause
	}
	if !v.Allowed {
		return v, nil
	}
	next := review{applicable: ap, verdict: v}
	if o := p.objection; o != nil {
		if !o.verdict.undecided(o.applicable.Known) {
			return o.verdict, nil
		}
		next.miss(*o, time.Now())
		g.armLocked(g.wait)
	}
	p.review, p.live = next, true
	return v, nil
}

// Changed decides again about every live inbound connection, against what its
// source says now. Call it after each change of workloads or policies. It cuts
// with a [*RevokedError].
func (g *Gate) Changed() {
	g.mu.Lock()
	close(g.changed)
	g.changed = make(chan struct{})
	g.mu.Unlock()
	g.reviewAll()
}

// reviewAll visits each subject that has permits.
func (g *Gate) reviewAll() {
	g.changing.Lock()
	defer g.changing.Unlock()
	for _, s := range g.subjects() {
		// The list comes before the look at the source: what is older than the
		// verdict of a permit must not speak against it.
		list := g.inbound(s)
		if len(list) == 0 {
			continue
		}
		ap := g.source.PoliciesFor(s)
		for _, p := range list {
			g.decideAgain(p, ap)
		}
	}
}

// subjects returns those that have permits.
func (g *Gate) subjects() []Subject {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]Subject, 0, len(g.permits))
	for s := range g.permits {
		out = append(out, s)
	}
	return out
}

// inbound returns the inbound permits of s, those still being decided included.
func (g *Gate) inbound(s Subject) []*Permit {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]*Permit, 0, len(g.permits[s]))
	for p := range g.permits[s] {
		if p.inbound && p.cause == nil {
			out = append(out, p)
		}
	}
	return out
}

// decideAgain decides again about one permit. The caller holds g.changing.
func (g *Gate) decideAgain(p *Permit, ap Applicable) {
	g.mu.Lock()
	live, now := p.live, p.review
	g.mu.Unlock()
	if live && now.missingSince.IsZero() && now.applicable.equal(ap) {
		return
	}
	v := Evaluate(ap, p.request)
	if end := g.record(p, objection{applicable: ap, verdict: v}, time.Now()); end {
		g.cut(p, &RevokedError{Verdict: v})
	}
}

// record writes the outcome of a review into p and reports whether p has to end.
// While p is being decided, a refusal is left for the goroutine that does so.
func (g *Gate) record(p *Permit, o objection, now time.Time) (end bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case p.released:
	case o.verdict.Allowed && p.live:
		p.review = review{applicable: o.applicable, verdict: o.verdict}
	case o.verdict.Allowed:
	case !p.live:
		p.objection = &o
	case !o.verdict.undecided(o.applicable.Known):
		return true
	default:
		p.review.miss(o, now)
		if now.Sub(p.review.missingSince) >= g.wait {
			return true
		}
		g.armLocked(g.wait - now.Sub(p.review.missingSince))
	}
	return false
}

// missingNames returns what v waits for; an unknown workload counts as one name
// that no policy can have.
func (v Verdict) missingNames(known bool) []string {
	if !known {
		return []string{""}
	}
	return v.Missing
}

// intersect reports whether a and b share an element.
func intersect(a, b []string) bool {
	return slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}

// armLocked sees to it that live permits are reviewed after d at the latest.
// The caller holds g.mu.
func (g *Gate) armLocked(d time.Duration) {
	if g.timer == nil {
		g.timer = time.AfterFunc(d, g.expire)
	}
}

// expire reviews again; permits that still miss their policy end there, and
// others arm the timer anew.
func (g *Gate) expire() {
	g.mu.Lock()
	g.timer = nil
	g.mu.Unlock()
	g.reviewAll()
}

// Revoke cuts every permit that match selects and reports how many. Outbound
// permits have the zero Request. Permits still being decided are included.
func (g *Gate) Revoke(match func(Subject, Request) bool, cause error) int {
	cut := 0
	for _, p := range g.all() {
		if match(p.subject, p.request) && g.cut(p, cause) {
			cut++
		}
	}
	return cut
}

// all returns every permit.
func (g *Gate) all() []*Permit {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]*Permit, 0, g.count)
	for _, set := range g.permits {
		for p := range set {
			out = append(out, p)
		}
	}
	return out
}

// cut takes p back, once. It reports whether it did.
func (g *Gate) cut(p *Permit, cause error) bool {
	g.mu.Lock()
	tell, ok := p.revokeLocked(cause)
	g.mu.Unlock()
	if !ok {
		return false
	}
	for _, cancel := range tell {
		cancel(cause)
	}
	if g.trace.Revoked != nil {
		g.trace.Revoked(p.subject, p.request, cause)
	}
	return true
}

// Len returns how many permits are held now, inbound and outbound.
func (g *Gate) Len() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.count
}
