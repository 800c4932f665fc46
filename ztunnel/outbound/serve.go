package outbound

import (
	"context"
	"errors"
	"time"

	"github.com/ambit-mesh/ambit/internal/about"
	"github.com/ambit-mesh/ambit/internal/hbone"
	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/internal/telemetry"
	"github.com/ambit-mesh/ambit/internal/tracing"
	"github.com/ambit-mesh/ambit/internal/workload"
	"github.com/ambit-mesh/ambit/ztunnel/capture"
	"github.com/ambit-mesh/ambit/ztunnel/route"
)

// flight is one connection on its way out.
type flight struct {
	*capture.Conn
	out    *Outbound
	source *workload.Workload
	start  time.Time
	trace  tracing.Link
	permit *policy.Permit

	// Guarded by Outbound.mu.
	key    hbone.Key // of its tunnel; zero without one
	cancel context.CancelCauseFunc
}

// Serve carries one connection of the pod to where it was going. It is the
// whole path out.
func (o *Outbound) Serve(ctx context.Context, c *capture.Conn) {
	ctx, f := o.begin(ctx, c)
	flies := false
	defer func() {
		if !flies {
			f.end()
		}
	}()

	// Who is calling: the control plane's word, or the agent's.
	source, err := o.known(ctx)
	if err != nil {
		c.Abort()
		o.records.Refuse(telemetry.Outbound, c.Client, c.Target, explainSource(o.pod.Subject, err))
		return
	}
	f.source = source

	// The way: a tunnel, a neighbour, or plain TCP, with tries on others.
	way, plan, err := o.open(ctx, f)
	if plan == nil {
		c.Abort()
		o.records.Refuse(telemetry.Outbound, c.Client, c.Target, explainRoute(err))
		return
	}
	rec := o.records.OpenSince(f.start, o.describe(f, plan, way))
	if err != nil {
		c.Abort() // a reset: an end would mean that all was said
		rec.Close(explainOpen(*plan, err))
		return
	}

	// The pipe, until both sides have said all, one breaks, or ctx ends.
	flies = true
	c.Later(func() {
		defer f.end()
		o.records.SocketOpened(telemetry.Outbound)
		defer o.records.SocketClosed(telemetry.Outbound)
		rec.Close(explainCopy(way.pipe(ctx, c.TCP, rec)))
	})
}

// begin takes c in. The returned context ends when the connection may no longer
// be; the caller must call end.
func (o *Outbound) begin(ctx context.Context, c *capture.Conn) (context.Context, *flight) {
	o.records.SocketOpened(telemetry.Outbound)
	f := &flight{Conn: c, out: o, start: time.Now(), trace: o.records.Spans().Root()}

	// A permit, so that whatever ends the pod, its identity or the process
	// finds the connection. What may be reached is decided at the other end.
	f.permit = o.gate.AdmitOutbound(o.pod.Subject)
	ctx = o.list(ctx, f)
	f.permit.Watch(f.cancel)
	return ctx, f
}

// end forgets f and closes the client's socket.
func (f *flight) end() {
	o := f.out
	f.cancel(nil)
	o.mu.Lock()
	delete(o.flights, f)
	o.mu.Unlock()
	f.permit.Release()
	f.TCP.Close()
	o.records.SocketClosed(telemetry.Outbound)
}

// list makes f one of the connections that Renewed can end.
func (o *Outbound) list(ctx context.Context, f *flight) context.Context {
	ctx, f.cancel = context.WithCancelCause(ctx)
	o.mu.Lock()
	o.flights[f] = struct{}{}
	o.mu.Unlock()
	return ctx
}

// errUnknownSource is why a connection of a pod that nobody has told of ends.
var errUnknownSource = errors.New("nobody has told of this pod")

// known waits until the control plane or the agent has told of the pod.
func (o *Outbound) known(ctx context.Context) (*workload.Workload, error) {
	if w, ok := o.state.Snapshot().LookupSource(o.pod.Subject); ok {
		return w, nil // nearly always: no timer is made
	}
	timer := time.NewTimer(o.cfg.KnownWait)
	defer timer.Stop()
	for {
		snap := o.state.Snapshot()
		if w, ok := snap.LookupSource(o.pod.Subject); ok {
			return w, nil
		}
		select {
		case <-o.state.Changed(snap.Version()):
		case <-timer.C:
			return nil, errUnknownSource
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// describe says who talks to whom, for the record. way is nil when none was
// found.
func (o *Outbound) describe(f *flight, p *route.Plan, way way) telemetry.Conn {
	c := telemetry.Conn{
		Direction:   telemetry.Outbound,
		Source:      telemetry.Peer{Addr: f.Client, Workload: about.Workload(f.source)},
		Destination: telemetry.Peer{Addr: p.Hop, Workload: about.Workload(p.Destination)},
		Service:     about.Service(p.Service),
		Pod:         o.pod.UID,
		OriginalDst: f.Target,
		ActualDst:   p.Hop,
		Trace:       f.trace,
	}
	if p.Mode == route.Tunnel {
		c.Hop, c.Authority = telemetry.HopTunnel, p.Authority.String()
		c.Source.Identity = f.source.Identity
		if len(p.Accept) > 0 {
			c.Destination.Identity = p.Accept[len(p.Accept)-1]
		}
	}
	if way != nil {
		hop, peer := way.learned()
		if c.Hop = hop; !peer.IsZero() {
			c.Destination.Identity = peer
		}
	}
	return c
}
