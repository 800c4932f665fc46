package inbound

import (
	"context"
	"errors"
	"net"
	"syscall"

	"github.com/ambit-mesh/ambit/internal/about"
	"github.com/ambit-mesh/ambit/internal/hbone"
	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/internal/streamio"
	"github.com/ambit-mesh/ambit/internal/telemetry"
	"github.com/ambit-mesh/ambit/internal/workload"
	"github.com/ambit-mesh/ambit/ztunnel/capture"
	"github.com/ambit-mesh/ambit/ztunnel/route"
)

// Visit is one connection that came in and is connected to the application.
// One goroutine uses it.
type Visit struct {
	// App is the socket of the application.
	App *net.TCPConn
	// Header goes with the answer 200.
	Header hbone.Header

	in     *Inbound
	peer   *Peer // nil for plaintext
	rec    *telemetry.Record
	probe  bool                    // of the kubelet
	permit *policy.Permit          // nil until admitted
	cancel context.CancelCauseFunc // ends the visit
}

// begin opens the record of a visit and lists it, so that from here on it can
// be cut.
func (in *Inbound) begin(ctx context.Context, snap *workload.Snapshot, own *workload.Workload, r Request, t route.Target) (context.Context, *Visit) {
	ctx, cancel := context.WithCancelCause(ctx)
	v := &Visit{in: in, peer: r.Peer, cancel: cancel}
	in.live.mu.Lock()
	in.live.all[v] = struct{}{}
	switch {
	case in.live.closed != nil:
		cancel(in.live.closed)
	case len(in.live.all) > in.live.most:
		cancel(&telemetry.Error{
			Stage: telemetry.StageApp, Fault: telemetry.FaultApp, Hint: capture.CrowdHint,
			Err: &capture.CrowdError{Client: r.Client, Target: t.Dial, Max: in.live.most},
		})
	}
	in.live.mu.Unlock()
	v.rec = in.records.Open(in.describe(snap, own, r, t))
	return ctx, v
}

// describe says who talks to whom, for the record.
func (in *Inbound) describe(snap *workload.Snapshot, own *workload.Workload, r Request, t route.Target) telemetry.Conn {
	caller := about.ParseCaller(r.Header)
	if in.cfg.WithoutBaggage {
		caller.Baggage = about.Baggage{}
	}
	c := telemetry.Conn{
		Direction:   telemetry.Inbound,
		Hop:         r.Hop,
		Source:      about.Source(snap, in.cfg.Network, telemetry.Peer{Addr: r.Client, Identity: r.id()}, caller),
		Destination: telemetry.Peer{Addr: r.Local, Workload: about.Workload(own)},
		Service:     about.Service(route.GuessService(snap, own, t, caller.Forwarded.Host)),
		Pod:         in.pod.UID,
		ActualDst:   t.Dial,
		Trace:       in.records.Spans().Child(caller.Trace),
	}
	if r.Peer == nil {
		c.OriginalDst = r.Local
		return c
	}
	c.Authority, c.Destination.Identity = r.Authority.String(), own.Identity
	return c
}

// Counters are the byte counters of the visit's record.
func (v *Visit) Counters() *streamio.Counters { return v.rec.Counters() }

// CountWith makes the visit's record count what c counts: on the local path one
// pipe serves two reporters.
func (v *Visit) CountWith(c *streamio.Counters) { v.rec.CountWith(c) }

// Close ends the visit. err is why; nil means that both sides had said all they
// wanted.
func (v *Visit) Close(err error) {
	v.in.live.mu.Lock()
	delete(v.in.live.all, v)
	v.in.live.mu.Unlock()
	v.cancel(nil)
	if v.permit != nil {
		v.permit.Release()
	}
	if v.App != nil {
		if err != nil {
			_ = v.App.SetLinger(0) // a reset stays a reset
		}
		v.App.Close()
		v.in.records.SocketClosed(telemetry.Inbound)
	}
	v.rec.SetPolicy(v.decidedBy(err))
	if v.probe && callerLeft(err) {
		err = nil
	}
	v.rec.Close(err)
}

// callerLeft reports whether err is that the caller, at the client's side, has reset the
// connection. Of a probe that is no error: one over TCP wants to connect and no more, and
// when the application has spoken first its end is a reset.
func callerLeft(err error) bool {
	broken, ok := errors.AsType[*streamio.CopyError](err)
	return ok && broken.Side == streamio.Client && errors.Is(err, syscall.ECONNRESET)
}

// decidedBy names the policy that let the visit in, or that ended it with err.
func (v *Visit) decidedBy(err error) string {
	if denied, ok := errors.AsType[*policy.DeniedError](err); ok {
		return denied.Verdict.Policy
	}
	if revoked, ok := errors.AsType[*policy.RevokedError](err); ok {
		return revoked.Verdict.Policy
	}
	if v.probe {
		return probePolicy
	}
	if v.permit == nil {
		return ""
	}
	return v.permit.Verdict().Policy
}

// fail closes a visit that did not come about, and returns err.
func (v *Visit) fail(err error) error {
	v.Close(err)
	return err
}

// Renewed tells that cert is our new certificate. Callers that its roots do not
// vouch for are cut; all others go on.
func (in *Inbound) Renewed(own *identity.Certificate) {
	known := make(map[*Peer]error)
	for _, v := range in.visits() {
		if v.peer == nil {
			continue
		}
		err, seen := known[v.peer]
		if !seen {
			err = v.peer.vouched(own) // verifies once per peer, not once per visit
			known[v.peer] = err
		}
		if err != nil {
			v.cancel(explainPeerCertificate(err))
		}
	}
}

// Cut ends every visit because of cause, and those that are still to begin.
func (in *Inbound) Cut(cause error) {
	in.live.mu.Lock()
	in.live.closed = cause
	in.live.mu.Unlock()
	for _, v := range in.visits() {
		v.cancel(cause)
	}
}

// visits returns those that live.
func (in *Inbound) visits() []*Visit {
	in.live.mu.Lock()
	defer in.live.mu.Unlock()
	out := make([]*Visit, 0, len(in.live.all))
	for v := range in.live.all {
		out = append(out, v)
	}
	return out
}
