package outbound

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/ambit-mesh/ambit/internal/hbone"
	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/internal/streamio"
	"github.com/ambit-mesh/ambit/internal/telemetry"
	"github.com/ambit-mesh/ambit/ztunnel/route"
)

// certificateError is why there is nothing to speak as.
type certificateError struct {
	id  identity.ID
	err error
}

func (e *certificateError) Error() string {
	return "certificate of " + e.id.String() + ": " + e.err.Error()
}

func (e *certificateError) Unwrap() error { return e.err }

// errWitnessLost is why a local connection ends without a peer's doing.
var errWitnessLost = errors.New("the tunnel that vouches for this local connection is gone")

// explainSource turns an error of waiting for the pod s into one an operator
// can act on.
func explainSource(s policy.Subject, err error) error {
	e := &telemetry.Error{Stage: telemetry.StageCapture, Fault: telemetry.FaultControl, Err: err}
	if errors.Is(err, errUnknownSource) {
		e.Hint = fmt.Sprintf("pod %v with service account %s: is the control plane connected?", s, s.ServiceAccount)
	}
	return e
}

// explainRoute turns an error of route.Resolve into one an operator can act on.
func explainRoute(err error) error {
	e := &telemetry.Error{Stage: telemetry.StageRoute, Fault: telemetry.FaultControl, Err: err}
	if errors.Is(err, errNoPicture) {
		e.Hint = "until then nothing is sent in the clear: is istiod there, and does it know this ztunnel's token?"
	}
	re, ok := errors.AsType[*route.Error](err)
	if !ok {
		return e
	}
	e.Hint = re.Hint
	if re.Reason == route.ReasonSelfCall {
		e.Fault = telemetry.FaultApp
	}
	return e
}

// explainOpen turns an error of making the way to plan into one an operator can
// act on.
func explainOpen(plan route.Plan, err error) error {
	if ce, ok := errors.AsType[*certificateError](err); ok {
		return telemetry.ExplainIdentity(ce.id, ce.err)
	}
	if he, ok := errors.AsType[*hostError](err); ok {
		return &telemetry.Error{
			Stage: telemetry.StageRoute, Fault: telemetry.FaultNetwork, Err: he.err,
			Hint: "the endpoint is known by its DNS name only, and the resolver of this node's ztunnel pod has to know it",
		}
	}
	if plan.Mode == route.Direct {
		return telemetry.ExplainApp(plan.Hop, explainedCut(err))
	}
	if plan.Waypoint {
		return explainWaypoint(plan, err)
	}
	return explainTunnel(plan, err)
}

// explainWaypoint turns an error of making the way to a waypoint into one an operator
// can act on: what serves there is no pod of the application.
func explainWaypoint(plan route.Plan, err error) error {
	explained := explainTunnel(plan, err)
	e, ok := errors.AsType[*telemetry.Error](explained)
	if !ok || e.Fault == telemetry.FaultPolicy && e.Stage != telemetry.StageConnect {
		return explained
	}
	out := *e
	what := "the waypoint"
	if d := plan.Destination; d != nil {
		what = fmt.Sprintf("waypoint instance %s/%s", d.Namespace, d.Name)
	}
	switch re, refused := errors.AsType[*hbone.RefusedError](err); {
	case refused && re.Status == 503:
		out.Hint = fmt.Sprintf("%s serves nothing at %v: it has perhaps not heard of the service yet, its log says why", what, plan.Authority)
	case refused:
		out.Hint = fmt.Sprintf("%s refused it: its log says why", what)
	case out.Stage == telemetry.StageDial:
		out.Hint = fmt.Sprintf("%s at %v cannot be reached: is its pod up, and does a NetworkPolicy let port %d through? Traffic does not go around it", what, plan.Hop, plan.Hop.Port())
	default:
		return explained
	}
	return &out
}

// explainTunnel turns an error of a tunnel into one an operator can act on.
func explainTunnel(plan route.Plan, err error) error {
	if re, ok := errors.AsType[*hbone.RefusedError](err); ok {
		return telemetry.ExplainRefused(plan.Hop, re.Status, err)
	}
	if de, ok := errors.AsType[*hbone.DialError](err); ok {
		switch de.Stage { // which ours says as well
		case hbone.StageTLS:
			return explainTLS(plan, de.Err)
		case hbone.StageH2:
			return telemetry.ExplainHTTP2(plan.Hop, de.Err)
		}
		return telemetry.ExplainDial(plan.Hop, de.Err)
	}
	if hbone.OfTunnel(err) || errors.Is(err, errWitnessLost) || errors.Is(err, hbone.ErrOpenTimeout) || errors.Is(err, hbone.ErrDraining) {
		return &telemetry.Error{Stage: telemetry.StageConnect, Fault: telemetry.FaultPeer, Err: err}
	}
	return explainCut(err)
}

// explainTLS turns an error of the handshake into one an operator can act on.
func explainTLS(plan route.Plan, err error) error {
	if !errors.Is(err, identity.ErrUnexpectedPeer) {
		return telemetry.ExplainTLS(plan.Hop, err)
	}
	return &telemetry.Error{
		Stage: telemetry.StageTLS, Fault: telemetry.FaultPeer, Err: err,
		Hint: fmt.Sprintf("%v should be %s: has the address been given to another pod?", plan.Hop, joinIDs(plan.Accept)),
	}
}

// explainUntrusted says that the other end of a live tunnel is not believed any
// more.
func explainUntrusted(err error) error {
	return &telemetry.Error{
		Stage: telemetry.StageIdentity, Fault: telemetry.FaultPeer, Err: err,
		Hint: "the root has been removed; the peer needs a certificate under a current one",
	}
}

// explainWitness says that the tunnel to hop that vouched for a local
// connection could not be brought back.
func explainWitness(hop netip.AddrPort, err error) *telemetry.Error {
	return &telemetry.Error{
		Stage: telemetry.StageCopy, Fault: telemetry.FaultNetwork, Err: fmt.Errorf("%w: %w", errWitnessLost, err),
		Hint: fmt.Sprintf("the pod at %v is not reachable on port %d any more", hop.Addr(), hop.Port()),
	}
}

// explainCopy turns the end of a pipe into one an operator can act on; nil
// stays nil.
func explainCopy(err error) error {
	if _, ok := errors.AsType[*streamio.CopyError](err); ok || err == nil {
		return telemetry.ExplainCopy(telemetry.Outbound, err)
	}
	switch {
	case hbone.OfTunnel(err):
		return &telemetry.Error{Stage: telemetry.StageCopy, Fault: telemetry.FaultPeer, Err: err}
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return &telemetry.Error{Stage: telemetry.StageCopy, Fault: telemetry.FaultApp, Err: err}
	}
	return explainCut(err)
}

// explainCut says why a connection was ended by us.
func explainCut(err error) error {
	if _, ok := errors.AsType[*policy.RevokedError](err); ok {
		return telemetry.ExplainPolicy("", err)
	}
	if _, ok := errors.AsType[*telemetry.Error](err); ok {
		return err
	}
	return &telemetry.Error{Stage: telemetry.StageCopy, Fault: telemetry.FaultUnknown, Err: err}
}

// explainedCut is err, explained if we ended the connection ourselves.
func explainedCut(err error) error {
	if _, ok := errors.AsType[*net.OpError](err); ok {
		return err
	}
	return explainCut(err)
}
