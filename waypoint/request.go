package waypoint

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/ambit-mesh/ambit/internal/about"
	"github.com/ambit-mesh/ambit/internal/telemetry"
	"github.com/ambit-mesh/ambit/waypoint/config"
	"github.com/ambit-mesh/ambit/waypoint/entry"
	"github.com/ambit-mesh/ambit/waypoint/extauth"
	"github.com/ambit-mesh/ambit/waypoint/filter"
	"github.com/ambit-mesh/ambit/waypoint/jwt"
	"github.com/ambit-mesh/ambit/waypoint/message"
	"github.com/ambit-mesh/ambit/waypoint/report"
	"github.com/ambit-mesh/ambit/waypoint/upstream"
)

// flight is one request on its way.
type flight struct {
	w   *Waypoint
	c   *caller
	x   entry.Exchange
	req *message.Request
	// budget bounds the retries to the service that the request goes to; often nil.
	budget *filter.Budget
	rec    *report.Record

	// asked is the request as policies see it: as the client sent it, with what
	// providers have changed. Filters change req. Its fields are replaced, never
	// written to: others read them.
	asked    message.Request
	tokens   *jwt.Result // what the tokens of asked say
	approved []string    // providers that let it pass
	onAnswer []extauth.Changes
	picture  *config.Picture
	rules    *config.Service // nil: of a workload, or a service without rules
	route    *config.Route   // nil: none is needed
	backend  *config.Backend // nil: the service itself, or the workload
	pass     filter.Pass
	pin      filter.Pin // of the client's session; the zero Pin: none
	pump     *pump
	answers  grpcMessages
	tried    []string
	// retrying says that it was counted as one that is tried again; endRetry ends that,
	// and is nil when nobody counts.
	retrying bool
	endRetry func()
}

// serveRequest answers one request. It is the whole path of a request through
// the waypoint. It returns false when the client must not take what it got for
// complete.
func (w *Waypoint) serveRequest(ctx context.Context, c *caller, x entry.Exchange) (complete bool) {
	ctx, f := w.begin(ctx, c, x)
	defer f.end()
	answer := f.findRoute()
	if answer != nil {
		return f.answer(answer)
	}
	e, answer := f.pick(ctx)
	if answer == nil {
		answer = f.authorize(ctx, e)
	}
	if answer == nil {
		answer = f.applyFilters(ctx)
	}
	if answer != nil {
		if e != nil {
			e.Drop()
		}
		return f.answer(answer)
	}
	if e == nil {
		return f.answer(noBackend("the route names no backend"))
	}
	f.tellClient(e)
	return f.exchange(ctx, e)
}

// begin opens the record of a request and lists it among those that live.
func (w *Waypoint) begin(ctx context.Context, c *caller, x entry.Exchange) (context.Context, *flight) {
	req := x.Request()
	req.Fields.Del("x-forwarded-client-cert") // whoever wrote it was not asked
	f := &flight{w: w, c: c, x: x, req: req, rec: w.record(c, time.Now())}
	ctx = f.enlist(ctx)
	rec := f.rec
	rec.Method, rec.Host, rec.Path, rec.Version = req.Method, req.Authority, req.Path, req.Version.String()
	rec.RequestID = req.Fields.Get("x-request-id")
	f.joinTrace()
	if filter.IsGRPC(req) {
		rec.Protocol = report.GRPC
	}
	return ctx, f
}

// enlist makes the request one that a change of policy finds, and only then
// looks at policies: what changes in between is noticed by one of the two.
func (f *flight) enlist(ctx context.Context) context.Context {
	ctx = f.w.live.add(ctx, f)
	f.picture = f.w.routes.Picture()
	if f.c.target.uid == "" {
		f.rules = f.picture.Service(f.c.target.key)
	}
	return ctx
}

// end closes the record.
func (f *flight) end() {
	f.w.live.remove(f)
	if f.endRetry != nil {
		f.endRetry()
	}
	if f.pump != nil {
		f.rec.Received, _, _ = f.pump.state()
		f.rec.RequestMessages = f.pump.messages()
	}
	f.rec.ResponseMessages = f.answers.count
	f.w.reports.Close(f.rec)
}

// findRoute finds the route and chooses one of its backends.
func (f *flight) findRoute() *filter.Answer {
	f.pass = filter.Pass{
		Request: f.req, Port: f.c.target.port, Caller: f.c.id.String(), Now: f.rec.Start,
		Rand: func(n uint32) uint32 { return rand.Uint32N(n) },
	}
	f.asked = *f.req
	switch {
	case f.c.target.uid != "":
		return nil
	case f.rules == nil || f.rules.Waypoint != config.Name(f.w.cfg.Gateway):
		return unbound()
	}
	route, prefix, none := f.rules.Lookup(f.req, f.c.target.port, f.c.id.Namespace)
	switch {
	case none:
		return nil
	case route == nil:
		return &filter.Answer{Status: 404, Flag: "NR", Details: "no route matches"}
	}
	f.route, f.pass.Prefix, f.rec.Route = route, prefix, route.Name
	if !route.Chain.Empty() {
		f.asked.Fields = append(message.Fields(nil), f.req.Fields...)
	}
	if len(route.Backends) == 0 {
		return nil
	}
	backend, ok := f.choose(rand.Uint64N)
	switch {
	case !ok:
		return noBackend("all backends have weight 0")
	case backend.Broken != "":
		return noBackend(backend.Broken)
	}
	f.backend = backend
	if !backend.Chain.Empty() {
		f.asked.Fields = append(message.Fields(nil), f.req.Fields...)
	}
	return nil
}

// noBackend is the answer where a route leads nowhere; gRPC calls it unavailable.
// Source: Gateway API, backendRefs of HTTPRouteRule and of GRPCRouteRule.
func noBackend(why string) *filter.Answer {
	return &filter.Answer{Status: 500, Grpc: 14, Body: "no backend", Flag: "NR", Details: why}
}

// unbound is the answer for a service that has left this waypoint since the client
// connected.
func unbound() *filter.Answer {
	return &filter.Answer{Status: 503, Body: "service is not served here", Flag: "NC", Details: "the service is no longer bound to this waypoint"}
}

// pick chooses an endpoint. It is nil when the route goes to none.
func (f *flight) pick(ctx context.Context) (*upstream.Endpoint, *filter.Answer) {
	if f.route != nil && f.backend == nil {
		return nil, f.authorizeService(ctx)
	}
	if a := f.authorizeService(ctx); a != nil {
		return nil, a
	}
	e, err := f.pickOne()
	if err == nil {
		return e, nil
	}
	a := &filter.Answer{Status: 503, Body: "no healthy upstream", Flag: "UH", Details: err.Error()}
	if errors.Is(err, upstream.ErrNoService) || errors.Is(err, upstream.ErrNoSubset) {
		a.Status, a.Flag = 500, "NC"
	}
	return nil, a
}

// pickOne chooses an endpoint that was not tried, if there is one.
func (f *flight) pickOne() (*upstream.Endpoint, error) {
	t := f.c.target
	if t.uid != "" {
		return f.w.upstreams.Direct(t.uid, netip.AddrPortFrom(t.near, t.port))
	}
	want := upstream.Want{Key: f.destination(), Near: t.near, Tried: f.tried, Client: f.c.addr}
	f.recall(want.Key)
	want.Hash, want.HasHash = f.hash(want.Key)
	want.Pin = f.pin.Endpoint
	return f.w.upstreams.Pick(want)
}

// applyFilters has the filters of the route and of the backend change the
// request, and waits as long as they want.
func (f *flight) applyFilters(ctx context.Context) *filter.Answer {
	if f.route == nil {
		return nil
	}
	a := f.route.Chain.Apply(&f.pass)
	if a == nil && f.backend != nil {
		a = f.backend.Chain.Apply(&f.pass)
	}
	if f.pass.Delay > 0 {
		timer := time.NewTimer(f.pass.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return &filter.Answer{Status: 499, Flag: "DC", Details: context.Cause(ctx).Error()}
		}
	}
	return a
}

// respond lets the filters change the fields of an answer.
func (f *flight) respond(fields *message.Fields) {
	for i := range f.onAnswer {
		f.onAnswer[i].Apply(fields)
	}
	if f.route == nil {
		return
	}
	if f.backend != nil {
		f.backend.Chain.Respond(&f.pass, fields)
	}
	f.route.Chain.Respond(&f.pass, fields)
}

// answer answers by ourselves.
func (f *flight) answer(a *filter.Answer) (complete bool) {
	resp, body := a.Response(f.req)
	f.respond(&resp.Fields)
	f.rec.Status, f.rec.Flags, f.rec.Details = resp.Status, a.Flag, a.Details
	f.rec.GRPCStatus = resp.Fields.Get("grpc-status")
	f.rec.Sent = uint64(len(body))
	none := body == "" || f.req.Method == "HEAD"
	err := f.x.Respond(resp, none)
	if err == nil && !none {
		if err = f.x.Body([]byte(body)); err == nil {
			err = f.x.End(nil)
		}
	}
	return err == nil && f.x.Flush() == nil
}

// toward notes where the request goes.
func (f *flight) toward(e *upstream.Endpoint) {
	f.rec.Upstream, f.rec.Tries = e.App, f.rec.Tries+1
	e.Trace = f.rec.Trace.Context
	f.rec.Destination = telemetry.Peer{Workload: about.Workload(e.Workload)}
	if e.Tunnel.IsValid() {
		f.rec.Destination.Identity = e.Workload.Identity
	}
	f.w.live.toward(f, e.Workload, e.App)
	if now := f.w.routes.Picture(); now != f.picture {
		f.w.live.reviewOne(now, f)
	}
}
