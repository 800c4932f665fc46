package waypoint

import (
	"context"
	"net/netip"
	"sync"

	"github.com/ambit-mesh/ambit/internal/workload"
	"github.com/ambit-mesh/ambit/waypoint/config"
)

// live are the requests under way, so that a change of policy finds those that
// may no longer be.
type live struct {
	mu  sync.Mutex
	all map[*flight]*life
}

// life is what is needed to decide about a request again.
type life struct {
	cancel context.CancelCauseFunc
	to     *workload.Workload // nil: it goes nowhere yet
	dest   netip.AddrPort
	proof  proof
}

// add lists a request. The context ends when it may no longer be.
func (l *live) add(ctx context.Context, f *flight) context.Context {
	ctx, cancel := context.WithCancelCause(ctx)
	l.mu.Lock()
	l.all[f] = &life{cancel: cancel}
	l.mu.Unlock()
	return ctx
}

// toward notes where it goes.
func (l *live) toward(f *flight, w *workload.Workload, dest netip.AddrPort) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if x := l.all[f]; x != nil {
		x.to, x.dest, x.proof = w, dest, f.proof()
	}
}

// remove forgets it.
func (l *live) remove(f *flight) {
	l.mu.Lock()
	x := l.all[f]
	delete(l.all, f)
	l.mu.Unlock()
	x.cancel(nil)
}

// review decides again about all.
func (l *live) review(p *config.Picture) {
	type one struct {
		f *flight
		life
	}
	l.mu.Lock()
	list := make([]one, 0, len(l.all))
	for f, x := range l.all {
		list = append(list, one{f, *x})
	}
	l.mu.Unlock()
	for _, x := range list {
		if x.to == nil {
			continue // it looks again when it knows
		}
		if err := x.f.stillAllowed(p, &x.life); err != nil {
			x.cancel(err)
		}
	}
}

// reviewOne decides again about one that goes somewhere now.
func (l *live) reviewOne(p *config.Picture, f *flight) {
	l.mu.Lock()
	x := *l.all[f]
	l.mu.Unlock()
	if err := f.stillAllowed(p, &x); err != nil {
		x.cancel(err)
	}
}
