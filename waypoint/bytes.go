package waypoint

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/ambit-mesh/ambit/waypoint/entry"
	"github.com/ambit-mesh/ambit/waypoint/filter"
	"github.com/ambit-mesh/ambit/waypoint/report"
)

// byteCounts are those of one connection.
type byteCounts struct{ received, sent atomic.Uint64 }

// serveBytes serves a connection that is not HTTP: the same policies, as far as
// they ask for connections, and one endpoint.
func (w *Waypoint) serveBytes(ctx context.Context, c *caller, raw entry.Raw) {
	f := &flight{w: w, c: c, rec: w.record(c, time.Now())}
	f.rec.Protocol = report.TCP
	f.rec.Trace = w.spans.Child(c.trace)
	ctx = f.enlist(ctx)
	defer f.end()
	raw, answer := f.findStream(ctx, raw)
	if answer != nil {
		f.rec.Flags, f.rec.Details = answer.Flag, answer.Details
	}
	if answer != nil || !f.carry(ctx, raw) {
		entry.Break(raw)
		return
	}
	raw.Close()
}

// findStream finds the route of a connection and chooses one of its backends. The
// stream that it returns has all bytes, those that were looked at as well.
func (f *flight) findStream(ctx context.Context, raw entry.Raw) (entry.Raw, *filter.Answer) {
	routes := f.rules.Streams(f.c.target.port, f.c.id.Namespace)
	if routes == nil {
		return raw, nil
	}
	name := ""
	if routes.AsksForName() {
		var err error
		if name, raw, err = entry.ServerName(ctx, raw); err != nil && !errors.Is(err, entry.ErrNoHello) {
			return raw, &filter.Answer{Flag: "DPE", Details: err.Error()}
		}
		f.rec.Host = name
	}
	route := routes.Lookup(name)
	if route == nil {
		return raw, &filter.Answer{Flag: "NR", Details: "no route matches"}
	}
	f.rec.Route = route.Name
	backend, ok := route.Pick(rand.Uint64N)
	switch {
	case !ok:
		return raw, &filter.Answer{Flag: "NR", Details: "all backends have weight 0"}
	case backend.Broken != "":
		return raw, &filter.Answer{Flag: "NR", Details: backend.Broken}
	}
	f.backend = backend
	return raw, nil
}

// carry decides about the connection and joins it with the endpoint. It returns
// false when the client must not take what it got for all.
func (f *flight) carry(ctx context.Context, raw entry.Raw) bool {
	refused := func(a *filter.Answer) bool {
		f.rec.Flags, f.rec.Details = a.Flag, a.Details
		return false
	}
	e, a := f.pickBytes(ctx)
	if a != nil {
		return refused(a)
	}
	f.toward(e)
	conn, release, err := e.OpenBytes(ctx)
	if err != nil {
		if f.ofClient(ctx, err) {
			e.Drop()
		} else {
			e.Failed(err)
		}
		return refused(f.explain(ctx, err))
	}
	defer release()
	defer conn.Close()
	f.w.reports.Opened(f.rec)
	if most := e.Traffic.MaxDuration; most > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, most, errTooOld)
		defer cancel()
	}
	var counts byteCounts
	err = entry.Join(ctx, raw, conn.(entry.Raw), &counts.received, &counts.sent)
	f.rec.Received, f.rec.Sent = counts.received.Load(), counts.sent.Load()
	e.Done(200)
	if err != nil {
		f.rec.Details = err.Error()
		if errors.Is(err, errTooOld) {
			return refused(&filter.Answer{Flag: "DT", Details: err.Error()})
		}
		if ctx.Err() != nil {
			return refused(f.explain(ctx, err))
		}
	}
	return err == nil
}

// pickBytes asks the policies and chooses the endpoint.
func (f *flight) pickBytes(ctx context.Context) (*endpoint, *filter.Answer) {
	if f.c.target.uid == "" && f.rules == nil {
		return nil, unbound()
	}
	e, a := f.pick(ctx)
	if a != nil {
		return nil, a
	}
	if a := f.authorize(ctx, e); a != nil {
		e.Drop()
		return nil, a
	}
	return e, nil
}
