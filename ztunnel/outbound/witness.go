package outbound

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/ambit-mesh/ambit/internal/hbone"
	"github.com/ambit-mesh/ambit/internal/telemetry"
)

// witnessTime bounds one try to bring a witness back. It is our choice: as long
// as a lost PING takes to be noticed, so that a local connection does not
// outlive by more than that what would have ended on the wire.
const witnessTime = 10 * time.Second

// standTries is how many tunnels are made for a local connection before it is given
// up: our choice. One that has just come about may be gone at once, when it came to a
// process that hands over to the next.
const standTries = 3

// witness is a tunnel to one neighbour, and the local connections it vouches
// for.
type witness struct {
	owner  *Outbound
	target hbone.Target

	// Guarded by witnesses.mu.
	alive   <-chan struct{} // closed when the tunnel is gone
	flights map[*flight]struct{}
	unwatch context.CancelFunc // set while there are flights
}

// witnesses are those of one pod.
type witnesses struct {
	mu  sync.Mutex
	all map[hbone.Key]*witness
}

// stand makes f one of those that the tunnel t vouches for, and makes the
// tunnel where there is none. The caller must call leave.
func (o *Outbound) stand(ctx context.Context, f *flight, t hbone.Target) (*witness, error) {
	if w := o.witnesses.join(ctx, f, t.Key); w != nil {
		o.pool.Prove(ctx, t) // what stands between may have changed since
		return w, nil
	}
	for range standTries {
		alive, err := o.pool.Ensure(ctx, t)
		if err != nil {
			return nil, err
		}
		o.witnesses.put(&witness{owner: o, target: t, alive: alive, flights: make(map[*flight]struct{})})
		if w := o.witnesses.join(ctx, f, t.Key); w != nil {
			return w, nil
		}
	}
	return nil, fmt.Errorf("tunnel to %v: %w", t.Key.Address, errWitnessLost)
}

// join adds f to the witness of key, or returns nil when none is alive.
func (ws *witnesses) join(ctx context.Context, f *flight, key hbone.Key) *witness {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	w := ws.all[key]
	if w == nil || gone(w.alive) {
		return nil
	}
	w.flights[f] = struct{}{}
	if w.unwatch == nil {
		// The watch outlives the flight that began it, and ends with the last.
		ctx, w.unwatch = context.WithCancel(context.WithoutCancel(ctx))
		w.owner.watchers.Go(ctx, "witness", w.watch)
	}
	return w
}

// put lists w, unless one is alive, and forgets those that nobody needs.
func (ws *witnesses) put(w *witness) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for key, old := range ws.all {
		if len(old.flights) == 0 && gone(old.alive) {
			delete(ws.all, key)
		}
	}
	if old := ws.all[w.target.Key]; old == nil {
		ws.all[w.target.Key] = w
	} else if gone(old.alive) {
		old.alive = w.alive
	}
}

// leave takes f out. Calling it again does nothing.
func (w *witness) leave(f *flight) {
	w.owner.witnesses.mu.Lock()
	defer w.owner.witnesses.mu.Unlock()
	delete(w.flights, f)
	if len(w.flights) == 0 && w.unwatch != nil {
		w.unwatch()
		w.unwatch = nil
	}
}

// watch keeps the tunnel alive while there are flights, and ends them when it
// cannot be brought back. A tunnel also ends when it is idle or when its
// certificate is renewed; then it comes back at once and nothing is felt.
func (w *witness) watch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.current():
		}
		try, cancel := context.WithTimeout(ctx, witnessTime)
		alive, err := w.owner.pool.Ensure(try, w.target)
		cancel()
		if ctx.Err() != nil || (err != nil && gone(w.owner.stopping)) {
			return // a process that stops closes its own tunnels: that says nothing
		}
		if err != nil {
			w.lose(explainWitness(w.target.Key.Address, err))
			return
		}
		w.owner.witnesses.mu.Lock()
		w.alive = alive
		w.owner.witnesses.mu.Unlock()
	}
}

// current is closed when the tunnel of now is gone.
func (w *witness) current() <-chan struct{} {
	w.owner.witnesses.mu.Lock()
	defer w.owner.witnesses.mu.Unlock()
	return w.alive
}

// lose ends all flights because of cause, and the watch with them: who joins before the
// last of them has left, when there is a tunnel again, begins another.
func (w *witness) lose(cause *telemetry.Error) {
	w.owner.witnesses.mu.Lock()
	defer w.owner.witnesses.mu.Unlock()
	for f := range w.flights {
		f.cancel(cause)
	}
	if w.unwatch != nil {
		w.unwatch()
		w.unwatch = nil
	}
}

// gone reports whether c is closed.
func gone(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
