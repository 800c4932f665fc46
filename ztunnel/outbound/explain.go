package outbound

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"

	"github.com/ambit-mesh/ambit/internal/hbone"
	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/internal/streamio"
	"github.com/ambit-mesh/ambit/internal/telemetry"
	"github.com/ambit-mesh/ambit/internal/workload"
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
		return &telemetry.Error{
			Stage: telemetry.StageIdentity, Fault: telemetry.FaultLocal, Err: ce,
			Hint: "is the CA reachable from this node, and is the pod on it?",
		}
	}
	if re, ok := errors.AsType[*hbone.RefusedError](err); ok {
		return explainRefused(plan, re)
	}
	if de, ok := errors.AsType[*hbone.DialError](err); ok && de.Stage != hbone.StageDial {
		return explainHandshake(plan, de)
	}
	if errors.Is(err, errWitnessLost) || errors.Is(err, hbone.ErrOpenTimeout) || errors.Is(err, hbone.ErrDraining) || isPeer(err) {
		return &telemetry.Error{Stage: telemetry.StageConnect, Fault: telemetry.FaultPeer, Err: err}
	}
	if _, ok := errors.AsType[*net.OpError](err); !ok && !errors.Is(err, context.DeadlineExceeded) {
		return explainCut(err)
	}
	return explainDial(plan.Hop, err)
}

// explainRefused turns an answer other than 200 into an error an operator can
// act on.
func explainRefused(plan route.Plan, re *hbone.RefusedError) error {
	e := &telemetry.Error{Stage: telemetry.StageConnect, Fault: telemetry.FaultPeer, Err: re}
	switch re.Status {
	case http.StatusUnauthorized, http.StatusForbidden:
		e.Fault = telemetry.FaultPolicy
		e.Hint = fmt.Sprintf("a policy of the destination says no; its own log names the rule: look for %v there", plan.Authority)
	case http.StatusBadRequest:
		e.Fault = telemetry.FaultControl
		e.Hint = fmt.Sprintf("%v is not an address of the pod at %v: has its address been given to another pod?", plan.Authority, plan.Hop)
	case http.StatusServiceUnavailable:
		e.Hint = fmt.Sprintf("the proxy at %v could not reach %v: does the application listen?", plan.Hop, plan.Authority)
	}
	return e
}

// explainHandshake turns an error of TLS or HTTP/2 into one an operator can act
// on.
func explainHandshake(plan route.Plan, de *hbone.DialError) error {
	e := &telemetry.Error{Stage: telemetry.StageTLS, Fault: telemetry.FaultPeer, Err: de}
	if de.Stage == hbone.StageH2 {
		e.Stage = telemetry.StageHTTP2
		e.Hint = fmt.Sprintf("what listens on %v is not an HBONE server", plan.Hop)
		return e
	}
	if errors.Is(de, identity.ErrUnexpectedPeer) {
		e.Hint = fmt.Sprintf("%v should be %s: has the address been given to another pod?", plan.Hop, joinIDs(plan.Accept))
	} else {
		e.Hint = "do both ends trust the same root, and share the trust domain?"
	}
	return e
}

// explainDial turns an error of TCP to hop into one an operator can act on.
func explainDial(hop netip.AddrPort, err error) error {
	e := &telemetry.Error{Stage: telemetry.StageDial, Fault: telemetry.FaultPeer, Err: err}
	tunnel := hop.Port() == workload.HBONEPort
	switch nerr := net.Error(nil); {
	case errors.Is(err, syscall.ECONNREFUSED) && tunnel:
		e.Hint = fmt.Sprintf("nothing listens on %v: is the pod still enrolled, and does its ztunnel run?", hop)
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Fault, e.Hint = telemetry.FaultApp, fmt.Sprintf("nothing listens on %v", hop)
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		e.Fault, e.Hint = telemetry.FaultLocal, "this ztunnel is out of file descriptors: raise LimitNOFILE"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		e.Fault, e.Hint = telemetry.FaultLocal, fmt.Sprintf("no route from the pod to %v", hop.Addr())
	case errors.As(err, &nerr) && nerr.Timeout(), errors.Is(err, context.DeadlineExceeded):
		if tunnel {
			e.Fault = telemetry.FaultNetwork
		}
		e.Hint = fmt.Sprintf("no answer from %v: does a NetworkPolicy block TCP port %d?", hop.Addr(), hop.Port())
	}
	return e
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
	if err == nil {
		return nil
	}
	e := &telemetry.Error{Stage: telemetry.StageCopy, Fault: telemetry.FaultApp, Err: err}
	ce, ok := errors.AsType[*streamio.CopyError](err)
	switch {
	case ok && ce.Side == streamio.Server, isPeer(err):
		e.Fault = telemetry.FaultPeer
	case ok, errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
	default:
		return explainCut(err)
	}
	return e
}

// isPeer reports whether err is about the tunnel rather than the application.
func isPeer(err error) bool {
	if _, ok := errors.AsType[*hbone.ResetError](err); ok {
		return true
	}
	if _, ok := errors.AsType[*hbone.GoAwayError](err); ok {
		return true
	}
	_, ok := errors.AsType[*hbone.ConnError](err)
	return ok || errors.Is(err, hbone.ErrPingTimeout)
}

// explainCut says why a connection that lived was ended by us.
func explainCut(err error) error {
	if _, ok := errors.AsType[*telemetry.Error](err); ok {
		return err
	}
	if _, ok := errors.AsType[*policy.RevokedError](err); ok {
		return &telemetry.Error{Stage: telemetry.StagePolicy, Fault: telemetry.FaultPolicy, Err: err}
	}
	return &telemetry.Error{Stage: telemetry.StageCopy, Fault: telemetry.FaultUnknown, Err: err}
}
