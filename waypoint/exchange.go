package waypoint

import (
	"cmp"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"time"

	"github.com/ambit-mesh/ambit/internal/meshapi/workloadapi"
	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/waypoint/entry"
	"github.com/ambit-mesh/ambit/waypoint/filter"
	"github.com/ambit-mesh/ambit/waypoint/message"
	"github.com/ambit-mesh/ambit/waypoint/report"
	"github.com/ambit-mesh/ambit/waypoint/upstream"
)

// Causes of the end of a request.
var (
	errTimeout    = errors.New("the route's timeout has passed")
	errTryTimeout = errors.New("the timeout of one try has passed")
	errTooOld     = errors.New("the longest time that a connection may last has passed")
)

// clientError is why a client cannot be answered. It says nothing of the endpoint.
type clientError struct{ err error }

func (e *clientError) Error() string { return "answer to the client: " + e.err.Error() }

// Unwrap makes errors.Is and errors.As see the cause.
func (e *clientError) Unwrap() error { return e.err }

// toClient is a clientError for err; nil for nil.
func toClient(err error) error {
	if err == nil {
		return nil
	}
	return &clientError{err}
}

// ofClient reports whether the client is why a request has come to nothing: it has
// gone, has broken the request off, or takes no answer. This waypoint's end counts as
// well; that it took too long does not.
func (f *flight) ofClient(ctx context.Context, err error) bool {
	_, unanswered := errors.AsType[*clientError](err)
	return unanswered || leftAlone(ctx) || f.pump.failed()
}

// exchange sends the request to endpoints until one answers, and the answer to
// the client.
func (f *flight) exchange(ctx context.Context, e *upstream.Endpoint) (complete bool) {
	if f.route != nil && f.route.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, f.route.Timeout, errTimeout)
		defer cancel()
	}
	var retry *filter.Retry
	if f.route != nil {
		retry = f.route.Retry
	}
	retry.Begin(f.rec.Start)
	if f.budget = f.w.budgets.of(f.picture.Service(f.destination().Service)); f.budget != nil {
		f.budget.Request(f.rec.Start)
	}
	f.sendTrace()
	f.pump = newPump(f.req.Body, retry != nil || len(f.pass.Mirrors) > 0)
	if f.pump != nil {
		f.pump.grpc = f.rec.Protocol == report.GRPC
		defer f.pump.stop(f.x.StopReading)
	}
	if len(f.pass.Mirrors) > 0 {
		defer f.mirror(ctx)
	}
	for try := 1; ; try++ {
		up, resp, err := f.try(ctx, e)
		again := f.again(ctx, retry, try, resp, err) && f.mayRetry(e)
		over := again && f.budget != nil && !f.budget.Retry(time.Now())
		if !again && err == nil {
			if len(f.pass.Mirrors) == 0 {
				f.pump.forget()
			}
			return f.finish(ctx, e, up, resp)
		}
		f.giveUp(ctx, e, up, resp, err)
		if over {
			return f.answer(overBudget())
		}
		if !again {
			return f.answer(f.explain(ctx, err))
		}
		if !wait(ctx, retry.Wait(try, rand.Uint32N)) {
			return f.answer(f.explain(ctx, context.Cause(ctx)))
		}
		f.tried = append(f.tried, e.Workload.UID)
		next, pickErr := f.pickOne()
		if pickErr == nil {
			if a := f.authorize(ctx, next); a != nil {
				next.Drop()
				return f.answer(a)
			}
			e = next
			continue
		}
		if err == nil {
			err = pickErr
		}
		return f.answer(f.explain(ctx, err))
	}
}

// overBudget is the answer to a request that would be tried again, and may not. Source:
// Gateway API, BackendTrafficPolicySpec.
func overBudget() *filter.Answer {
	return &filter.Answer{Status: 503, Body: "retry budget is used up", Flag: "URX", Details: "the retry budget of the service is used up"}
}

// wait waits, and returns false when ctx ended first.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// again decides whether the request is sent once more.
func (f *flight) again(ctx context.Context, r *filter.Retry, try int, resp *message.Response, err error) bool {
	if ctx.Err() != nil || !f.pump.replayable() || err != nil && (f.ofClient(ctx, err) || errors.Is(err, upstream.ErrSettings)) {
		return false
	}
	if r == nil {
		return try <= connectTries && untouched(err)
	}
	if try > r.Attempts {
		return false
	}
	switch {
	case err == nil:
		if !r.AfterAnswer(resp) {
			return false
		}
	case errors.Is(err, upstream.ErrOverflow):
		return false
	default:
		if _, bad := errors.AsType[*message.Error](err); bad && !r.AfterFailure(filter.FailedToAnswer) {
			return false
		}
		failure := filter.FailedToAnswer
		if untouched(err) {
			failure = filter.FailedToConnect
		}
		if !r.AfterFailure(failure) {
			return false
		}
	}
	if f.budget == nil && !r.Allowed(time.Now()) {
		f.rec.Flags, f.rec.Details = "URX", "retry budget is used up"
		return false
	}
	return true
}

// mayRetry counts the request as one that is tried again, unless too many are.
func (f *flight) mayRetry(e *upstream.Endpoint) bool {
	if !f.retrying {
		if f.endRetry, f.retrying = e.BeginRetry(); !f.retrying {
			f.rec.Flags, f.rec.Details = "URX", "limit of requests that are tried again is reached"
		}
	}
	return f.retrying
}

// connectTries is how often another endpoint is asked when one was not reached,
// without anybody asking for it: our choice. It cannot do harm, and endpoints that
// go away are met all the time.
const connectTries = 2

// untouched reports whether an error says that no endpoint has looked at the
// request.
func untouched(err error) bool {
	_, connect := errors.AsType[*upstream.ConnectError](err)
	return connect || errors.Is(err, upstream.ErrRefused)
}

// giveUp ends a try whose answer nobody gets: none came because of err, or resp is
// not good enough.
func (f *flight) giveUp(ctx context.Context, e *upstream.Endpoint, up upstream.Exchange, resp *message.Response, err error) {
	status := 0
	if resp != nil {
		status = resp.Status
	}
	if up != nil {
		up.Interrupt()
		if f.pump != nil {
			f.pump.detach()
		}
		up.Close(false)
	}
	switch {
	case status != 0:
		e.Done(status)
	case f.ofClient(ctx, err):
		e.Drop()
	default:
		e.Failed(err)
	}
}

// leftAlone reports whether a request has ended because its client went, or this
// waypoint does: that says nothing of the endpoint. That it took too long does.
func leftAlone(ctx context.Context) bool {
	return ctx.Err() != nil && !errors.Is(context.Cause(ctx), errTimeout)
}

// try sends the request to one endpoint and waits for the head of its answer.
// Informational answers go to the client. up is nil when there was no
// connection.
func (f *flight) try(ctx context.Context, e *upstream.Endpoint) (up upstream.Exchange, resp *message.Response, err error) {
	f.toward(e)
	if f.route != nil && f.route.TryTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, f.route.TryTimeout, errTryTimeout)
		defer cancel()
	}
	age := upstream.AnyAge
	if !f.req.Idempotent() {
		age = upstream.JustUsed
	}
	for {
		up, resp, err = f.tryOnce(ctx, e, age)
		if age == 0 || !f.req.Idempotent() || !errors.Is(err, upstream.ErrReused) || !f.pump.replayable() {
			break
		}
		// The endpoint closed a connection in the moment in which we used it. It has
		// hardly seen the request; that it surely has not, nobody knows.
		up.Interrupt()
		if f.pump != nil {
			f.pump.detach()
		}
		up.Close(false)
		age = 0
	}
	if err != nil && ctx.Err() != nil && !errors.Is(err, upstream.ErrOverflow) {
		err = context.Cause(ctx)
	}
	f.rec.Waited = time.Since(f.rec.Start)
	return up, resp, err
}

// tryOnce does it on one connection: a kept one only if it was used less than age ago.
func (f *flight) tryOnce(ctx context.Context, e *upstream.Endpoint, age time.Duration) (up upstream.Exchange, resp *message.Response, err error) {
	up, err = e.Open(ctx, f.version(e), age)
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, up.Interrupt)
	resp, err = f.head(ctx, up)
	if !stop() && err == nil { // it is interrupted just now, or about to be
		resp, err = nil, context.Cause(ctx)
	}
	return up, resp, err
}

// head sends the request and waits for the head of its answer.
func (f *flight) head(ctx context.Context, up upstream.Exchange) (*message.Response, error) {
	if err := up.Send(f.req, f.pump == nil); err != nil {
		return nil, err
	}
	if f.pump == nil {
		up.Flush()
	} else if !f.pump.attach(up) {
		return nil, io.ErrShortBuffer
	}
	for {
		resp, err := up.Response(ctx)
		if err != nil || !resp.Informational() {
			return resp, err
		}
		if f.req.Version == message.HTTP10 {
			continue
		}
		if err := f.x.Respond(resp, false); err != nil {
			return nil, toClient(err)
		}
		f.x.Flush()
	}
}

// version is what to speak to the endpoint: what the users say, else what the
// client speaks.
func (f *flight) version(e *upstream.Endpoint) message.Version {
	if f.req.Upgrade != "" {
		return message.HTTP11
	}
	key, port := f.c.target.key, f.c.target.port
	if f.backend != nil {
		key, port = f.backend.Service, cmp.Or(f.backend.Port, port)
	}
	switch f.picture.Service(key).Protocol(port) {
	case workloadapi.AppProtocol_HTTP2, workloadapi.AppProtocol_GRPC:
		return message.HTTP2
	}
	if e.Traffic.GetUpgradeToHttp2() || f.req.Version == message.HTTP2 {
		return message.HTTP2
	}
	return message.HTTP11
}

// finish sends the answer to the client.
func (f *flight) finish(ctx context.Context, e *upstream.Endpoint, up upstream.Exchange, resp *message.Response) (complete bool) {
	stop := context.AfterFunc(ctx, up.Interrupt)
	status := resp.Status // resp is the exchange's, and gone with it
	f.rec.Status = status
	f.rec.GRPCStatus = resp.Fields.Get("grpc-status")
	if resp.Status == 101 {
		defer stop()
		defer e.Done(resp.Status)
		return f.join(ctx, up, resp)
	}
	// A client that does not read keeps nobody's place longer than the request may take.
	stopClient := context.AfterFunc(ctx, f.x.Interrupt)
	err := f.forward(e, resp)
	if !stopClient() && err == nil { // from here on the answer is complete, whatever ends
		err = context.Cause(ctx)
	}
	whole := err == nil && f.pump.sent()
	if !whole && f.pump != nil {
		up.Interrupt()
		f.x.StopReading()
		f.pump.detach()
	}
	whole = stop() && whole
	// The place and the word about the endpoint come before the client's last byte:
	// its next request finds both.
	up.Close(whole)
	switch {
	case err == nil:
		e.Done(status)
		err = toClient(f.x.Flush())
	case f.ofClient(ctx, err):
		e.Drop()
	default:
		e.Done(0)
	}
	if err == nil {
		return true
	}
	f.rec.Flags, f.rec.Details = "UPE", err.Error()
	if f.ofClient(ctx, err) || ctx.Err() != nil {
		a := f.explain(ctx, err)
		f.rec.Flags, f.rec.Details = a.Flag, a.Details
	}
	return false
}

// forward passes an answer on as it comes.
func (f *flight) forward(e *upstream.Endpoint, resp *message.Response) error {
	head := *resp
	f.respond(&head.Fields)
	f.keepSession(e, &head.Fields)
	if err := f.x.Respond(&head, resp.Body == nil); err != nil {
		return toClient(err)
	}
	if resp.Body == nil {
		return nil
	}
	return f.copyBody(resp.Body)
}

// copyBody carries the body of the answer as it comes.
func (f *flight) copyBody(body message.Body) error {
	buf := copies.Get().(*[32 << 10]byte)
	defer copies.Put(buf)
	if body.Buffered() == 0 {
		if err := f.x.Flush(); err != nil { // the body may take its time
			return toClient(err)
		}
	}
	for {
		n, err := body.Read(buf[:])
		if n > 0 {
			if werr := f.x.Body(buf[:n]); werr != nil {
				return toClient(werr)
			}
			f.rec.Sent += uint64(n)
			if f.rec.Protocol == report.GRPC {
				f.answers.pass(buf[:n])
			}
		}
		switch {
		case err == io.EOF:
			tail := body.Trailer()
			if s := tail.Get("grpc-status"); s != "" {
				f.rec.GRPCStatus = s
			}
			return toClient(f.x.End(tail))
		case err != nil:
			return err
		case body.Buffered() == 0:
			if err := f.x.Flush(); err != nil {
				return toClient(err)
			}
		}
	}
}

// join passes the change of protocol on and carries bytes from then on.
func (f *flight) join(ctx context.Context, up upstream.Exchange, resp *message.Response) (complete bool) {
	if f.req.Upgrade == "" {
		up.Close(false)
		return f.answer(&filter.Answer{Status: 502, Body: "bad gateway", Flag: "UPE", Details: "101 to a request that asked for no upgrade"})
	}
	if err := f.x.Respond(resp, true); err != nil {
		up.Close(false)
		return false
	}
	down, server := f.x.Hijack(), up.Hijack()
	half, ok := server.(entry.Raw)
	if down == nil || !ok {
		up.Close(false)
		return false
	}
	var counts byteCounts
	err := entry.Join(ctx, down, half, &counts.received, &counts.sent)
	f.rec.Received, f.rec.Sent = counts.received.Load(), counts.sent.Load()
	down.Close()
	up.Close(false)
	if err != nil {
		f.rec.Details = err.Error()
	}
	return true
}

// explain is the answer for a request that got none from an endpoint.
func (f *flight) explain(ctx context.Context, err error) *filter.Answer {
	a := &filter.Answer{Status: 503, Body: "upstream connect error or disconnect/reset before headers", Flag: "UF", Details: err.Error()}
	revoked, isRevoked := errors.AsType[*policy.RevokedError](context.Cause(ctx))
	_, bad := errors.AsType[*message.Error](err)
	_, connect := errors.AsType[*upstream.ConnectError](err)
	_, unanswered := errors.AsType[*clientError](err)
	_, _, requestErr := f.pump.state()
	switch {
	case isRevoked:
		f.rec.Policy, f.rec.Reason = revoked.Verdict.Policy, revoked.Verdict.Reason
		a = denied()
	case errors.Is(err, errTimeout), errors.Is(context.Cause(ctx), errTimeout):
		a.Status, a.Body, a.Flag = 504, "upstream request timeout", "UT"
	case errors.Is(err, errTryTimeout):
		a.Status, a.Body, a.Flag = 504, "upstream request timeout", "UT,URX"
	case ctx.Err() != nil:
		a.Status, a.Flag, a.Details = 499, "DC", context.Cause(ctx).Error()
	case unanswered:
		a.Status, a.Flag = 499, "DC"
	case requestErr != nil:
		a.Status, a.Flag, a.Details = 400, "DPE", requestErr.Error()
	case errors.Is(err, upstream.ErrOverflow):
		a.Body, a.Flag = "upstream overflow", "UO"
	case errors.Is(err, upstream.ErrNoEndpoint):
		a.Body, a.Flag = "no healthy upstream", "UH"
	case bad:
		a.Status, a.Body, a.Flag = 502, "bad gateway", "UPE"
	case connect:
	default:
		a.Flag = "UC"
	}
	return a
}
