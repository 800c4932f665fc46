package waypoint

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/ambit-mesh/ambit/internal/about"
	"github.com/ambit-mesh/ambit/internal/hbone"
	"github.com/ambit-mesh/ambit/internal/telemetry"
	"github.com/ambit-mesh/ambit/waypoint/entry"
	"github.com/ambit-mesh/ambit/waypoint/message"
	"github.com/ambit-mesh/ambit/waypoint/report"
)

// handle serves one stream of a tunnel: who calls, what for, and then request by
// request.
func (w *Waypoint) handle(ctx context.Context, in *hbone.Incoming) {
	c, err := w.admit(ctx, in)
	if err != nil {
		status := statusUnavailable
		if r, ok := errors.AsType[*refusal](err); ok {
			status = r.status
		}
		w.refused(in, err)
		_ = in.Refuse(status) // a caller that is gone needs no answer
		return
	}
	what := w.carriedTo(c)
	in.Header = nil
	stream, err := in.Accept(nil)
	if err != nil {
		return
	}
	entry.Serve(ctx, stream, what, entry.Handlers{
		Request:  func(ctx context.Context, x entry.Exchange) bool { return w.serveRequest(ctx, c, x) },
		Refused:  func(_ context.Context, why *message.Error) { w.malformed(c, why) },
		Bytes:    func(ctx context.Context, raw entry.Raw) { w.serveBytes(ctx, c, raw) },
		Farewell: &w.farewell,
	})
}

// carriedTo is what a stream to a target carries: where there are routes of
// connections, nobody looks for requests in them.
func (w *Waypoint) carriedTo(c *caller) entry.Carries {
	rules := w.routes.Picture().Service(c.target.key)
	if rules.Streams(c.target.port, c.id.Namespace) != nil {
		return entry.Bytes
	}
	return carries(rules.Protocol(c.target.port))
}

// admit finds out who calls and for what. Whether they may is decided request by
// request.
func (w *Waypoint) admit(ctx context.Context, in *hbone.Incoming) (*caller, error) {
	p, ok := in.Peer.(*peer)
	if !ok {
		return nil, refuse(statusUnauthorized, "no proof of who calls")
	}
	if err := w.known(ctx); err != nil {
		return nil, err
	}
	now := time.Now()
	own, ok := w.certs.Peek(w.cfg.identity())
	switch {
	case !ok:
		return nil, refuse(statusUnavailable, "this waypoint has no valid certificate any more")
	case now.After(p.NotAfter):
		in.Retire() // it may have a new certificate to show
		return nil, refuse(statusUnauthorized, "the certificate of %v has expired", p.ID)
	}
	if err := p.vouched(own, now); err != nil {
		return nil, refuse(statusUnauthorized, "the certificate of %v leads to no root of ours any more: %v", p.ID, err)
	}
	t, err := w.resolve(in.Authority)
	if err != nil {
		return nil, err
	}
	return &caller{
		id: p.ID, addr: in.Remote, target: t, trace: w.traceOf(in),
		source: w.sourceOf(p, in),
	}, nil
}

// sourceOf is what records say of a caller: what it says of itself in its CONNECT,
// within the identity that it has proven. The control plane tells a waypoint who it
// serves, not who may call; what it does tell of an address comes first.
func (w *Waypoint) sourceOf(p *peer, in *hbone.Incoming) telemetry.Peer {
	return about.Source(w.state.Snapshot(), w.cfg.Node.Network, telemetry.Peer{Addr: in.Remote, Identity: p.ID}, about.ParseCaller(in.Header))
}

// knownWait is how long a caller waits until the control plane has told us what
// we serve. Source: what node proxies do.
const knownWait = 5 * time.Second

// known waits until everything has been sent once: before that a policy might be
// missing.
func (w *Waypoint) known(ctx context.Context) error {
	select {
	case <-w.xds.Ready():
		return nil
	default:
	}
	timer := time.NewTimer(knownWait)
	defer timer.Stop()
	select {
	case <-w.xds.Ready():
		return nil
	case <-timer.C:
		return refuse(statusUnavailable, "the control plane has not told this waypoint what it serves")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// refused notes a stream that did not come about.
func (w *Waypoint) refused(in *hbone.Incoming, err error) {
	w.counts.refused.Inc()
	if e := w.access.Check(zap.WarnLevel, "tunnel refused"); e != nil {
		id := ""
		if p, ok := in.Peer.(*peer); ok {
			id = p.ID.String()
		}
		e.Write(zap.Stringer("src.addr", in.Remote), zap.String("src.identity", id), zap.Stringer("dst.asked", in.Authority), zap.Error(err))
	}
}

// malformed notes a request that was refused before it was one.
func (w *Waypoint) malformed(c *caller, why *message.Error) {
	rec := w.record(c, time.Now())
	rec.Status, rec.Flags, rec.Details = why.Status, "DPE", why.Text
	w.reports.Close(rec)
}

// record begins the record of a request.
func (w *Waypoint) record(c *caller, start time.Time) *report.Record {
	rec := &report.Record{Start: start, Protocol: report.HTTP, Source: c.source}
	if svc := w.state.Snapshot().Service(c.target.key); svc != nil {
		rec.Service = about.Service(svc)
	}
	return rec
}
