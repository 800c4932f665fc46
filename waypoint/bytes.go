package waypoint

import (
	"context"
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
	ctx = f.enlist(ctx)
	defer f.end()
	if !f.carry(ctx, raw) {
		entry.Break(raw)
		return
	}
	raw.Close()
}

// carry decides about the connection and joins it with the endpoint. It returns
// false when the client must not take what it got for all.
func (f *flight) carry(ctx context.Context, raw entry.Raw) bool {
	refused := func(a *filter.Answer) bool {
		f.rec.Flags, f.rec.Details = a.Flag, a.Details
		return false
	}
	e, a := f.pickBytes()
	if a != nil {
		return refused(a)
	}
	status := 0
	defer func() { e.Done(status) }()
	f.toward(e)
	conn, release, err := e.OpenBytes(ctx)
	if err != nil {
		return refused(f.explain(ctx, err))
	}
	defer release()
	defer conn.Close()
	f.w.reports.Opened(f.rec)
	var counts byteCounts
	err = entry.Join(ctx, raw, conn.(entry.Raw), &counts.received, &counts.sent)
	f.rec.Received, f.rec.Sent = counts.received.Load(), counts.sent.Load()
	status = 200
	if err != nil {
		f.rec.Details = err.Error()
		if ctx.Err() != nil {
			return refused(f.explain(ctx, err))
		}
	}
	return err == nil
}

// pickBytes asks the policies and chooses the endpoint.
func (f *flight) pickBytes() (*endpoint, *filter.Answer) {
	if f.c.target.uid == "" && f.rules == nil {
		return nil, unbound()
	}
	e, a := f.pick()
	if a != nil {
		return nil, a
	}
	if a := f.authorize(e); a != nil {
		e.Drop()
		return nil, a
	}
	return e, nil
}
