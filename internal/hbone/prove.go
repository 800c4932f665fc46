package hbone

import (
	"context"
	"errors"
	"slices"
	"syscall"
	"time"
)

// A connection that stands says nothing about whether a new one would come
// about: what filters packets between two pods lets go on what it has once let
// begin. So streams that begin on an old connection would pass by a network
// policy that is newer. A pool therefore asks anew, from time to time, while
// streams begin: it makes another connection and lets it go. When that cannot be
// made, the old ones take no new streams, and whoever wants one has to dial.

// proveTime bounds the making of the other connection. A mistake does no harm:
// the next stream makes a connection of its own.
const proveTime = 5 * time.Second

// Prove sees to it that the peer at t is asked anew whether it can be reached, if
// connections to it stand and that was long ago. It does not wait.
func (p *Pool) Prove(ctx context.Context, t Target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if pr := p.peers[t.Key]; pr != nil {
		p.proveLocked(ctx, t, pr)
	}
}

// proveLocked does what Prove says. The caller holds p.mu.
func (p *Pool) proveLocked(ctx context.Context, t Target, pr *peer) {
	if p.closed || p.cfg.ProveAfter < 0 || len(pr.conns) == 0 || pr.proof != nil || time.Since(pr.proved) < p.cfg.ProveAfter {
		return
	}
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	pr.proof = cancel
	old := slices.Clone(pr.conns)
	started := p.group.run(func() {
		defer cancel(ErrDraining)
		limited, stop := context.WithTimeoutCause(ctx, proveTime, ErrHandshakeTimeout)
		defer stop()
		c, err := p.dial(limited, t)
		if c != nil {
			c.leave(ErrDraining)
		}
		p.provenBy(t.Key, old, err)
		if c != nil {
			<-c.done // or the end of ctx would cut its last words off
		}
	})
	if !started {
		pr.proof = nil
	}
}

// provenBy ends a proof: err is why no other connection came about while old
// ones stood.
func (p *Pool) provenBy(key Key, old []*conn, err error) {
	var dial *DialError
	unreachable := errors.As(err, &dial) && dial.Stage == StageDial && !short(err)
	p.mu.Lock()
	if pr := p.peers[key]; pr != nil {
		pr.proof, pr.proved = nil, time.Now()
		if unreachable { // those that came meanwhile have come all the same
			pr.conns = slices.DeleteFunc(pr.conns, func(c *conn) bool { return slices.Contains(old, c) })
		}
		p.forget(key)
	}
	p.mu.Unlock()
	if unreachable {
		for _, c := range old {
			c.retire()
		}
	}
}

// short reports whether err is about what we have run out of ourselves, which
// says nothing about the peer.
func short(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL, context.Canceled, ErrDraining} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
