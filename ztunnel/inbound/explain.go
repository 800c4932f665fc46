package inbound

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"github.com/ambit-mesh/ambit/internal/hbone"
	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/internal/streamio"
	"github.com/ambit-mesh/ambit/internal/telemetry"
	"github.com/ambit-mesh/ambit/ztunnel/capture"
	"github.com/ambit-mesh/ambit/ztunnel/route"
)

// Statuses of a refused CONNECT. Source: the ambient ecosystem's HBONE.
const (
	statusUnauthorized = 401
	statusUnavailable  = 503
)

// expiredError is why an old tunnel connection takes no new streams.
type expiredError struct {
	peer identity.ID
	at   time.Time
}

func (e *expiredError) Error() string {
	return fmt.Sprintf("certificate of %v has expired at %v", e.peer, e.at.UTC().Format(time.RFC3339))
}

// noCertificateError is why nobody comes in over tunnels that were made with a
// certificate which has expired since.
type noCertificateError struct{ own identity.ID }

func (e *noCertificateError) Error() string {
	return fmt.Sprintf("this pod, %v, has no valid certificate any more", e.own)
}

// untrustedError is why a peer that was believed at its handshake is not
// believed any more.
type untrustedError struct{ err error }

func (e *untrustedError) Error() string {
	return "certificate of the peer leads to no root of ours any more: " + e.err.Error()
}

func (e *untrustedError) Unwrap() error { return e.err }

// StatusOf says what to answer to a CONNECT that Receive refused with err.
func StatusOf(err error) int {
	if in, ok := errors.AsType[*route.InboundError](err); ok {
		return in.Status
	}
	if _, ok := errors.AsType[*untrustedError](err); ok {
		return statusUnauthorized
	}
	if te, ok := errors.AsType[*telemetry.Error](err); ok && te.Stage == telemetry.StagePolicy {
		return statusUnauthorized
	}
	return statusUnavailable
}

// refuse notes a request that ended before it was clear who talks to whom.
func (in *Inbound) refuse(r Request, err error) error {
	in.records.Refuse(telemetry.Inbound, r.Client, r.Local, err)
	return err
}

// explainUnknown turns an error of waiting for the pod s into one an operator
// can act on.
func explainUnknown(s policy.Subject, err error) error {
	e := &telemetry.Error{Stage: telemetry.StageRoute, Fault: telemetry.FaultControl, Err: err}
	if errors.Is(err, errUnknownPod) {
		e.Hint = fmt.Sprintf("pod %v with service account %s: is the control plane connected, and does it see the pod?", s, s.ServiceAccount)
	}
	return e
}

// explainTarget turns an error of finding the target into one an operator can
// act on.
func explainTarget(err error) error {
	e := &telemetry.Error{Stage: telemetry.StageRoute, Fault: telemetry.FaultPeer, Err: err}
	if _, ok := errors.AsType[*capture.LoopError](err); ok {
		e.Fault, e.Hint = telemetry.FaultApp, "ports 15001, 15006 and 15008 of a pod belong to the mesh"
	}
	return e
}

// explainPeerCertificate turns a check of a peer that was believed before into
// an error an operator can act on.
func explainPeerCertificate(err error) error {
	e := &telemetry.Error{Stage: telemetry.StageIdentity, Fault: telemetry.FaultPeer}
	if _, ok := errors.AsType[*expiredError](err); ok {
		e.Err, e.Hint = err, "the proxy of the peer should have renewed it: look at its CA"
		return e
	}
	if _, ok := errors.AsType[*noCertificateError](err); ok {
		e.Err, e.Fault, e.Hint = err, telemetry.FaultControl, "the CA has not renewed it in time: is it reachable from this node?"
		return e
	}
	e.Err, e.Hint = &untrustedError{err: err}, "the root has been removed; the peer needs a certificate under a current one"
	return e
}

// explainDenied turns an error of the gate into one an operator can act on.
func explainDenied(s policy.Subject, r Request, err error) error {
	denied, ok := errors.AsType[*policy.DeniedError](err)
	if !ok {
		return explainCut(err)
	}
	if len(denied.Verdict.Missing) > 0 {
		return &telemetry.Error{
			Stage: telemetry.StagePolicy, Fault: telemetry.FaultControl, Err: err,
			Hint: "the control plane names a policy that it has not sent",
		}
	}
	who := r.id().String()
	if who == "" {
		who = "a plaintext client"
	}
	err = fmt.Errorf("%s to port %d of pod %v: %w", who, r.Authority.Port(), s, err)
	return explainOwner(telemetry.ExplainPolicy(denied.Verdict.Policy, err), r.unknownOwner)
}

// explainApp turns an error of dialing the application at to into one an
// operator can act on.
func explainApp(to netip.AddrPort, err error) error {
	if errors.Is(err, capture.ErrNotLocal) {
		return &telemetry.Error{
			Stage: telemetry.StageApp, Fault: telemetry.FaultPeer, Err: err,
			Hint: "the destination is not an address of this pod",
		}
	}
	return telemetry.ExplainApp(to, err)
}

// explainPeer turns an error of answering the peer into one an operator can act
// on.
func explainPeer(err error) error {
	return &telemetry.Error{Stage: telemetry.StageConnect, Fault: telemetry.FaultPeer, Err: err}
}

// explainCopy turns the end of a pipe into one an operator can act on; nil
// stays nil.
func explainCopy(err error) error {
	if _, ok := errors.AsType[*streamio.CopyError](err); ok || err == nil {
		return telemetry.ExplainCopy(telemetry.Inbound, err)
	}
	_, ours := errors.AsType[*telemetry.Error](err)
	switch {
	case ours, errors.Is(err, hbone.ErrDrainTimeout):
		return explainCut(err) // also when it reached us as the loss of the tunnel that we cut
	case hbone.OfTunnel(err):
		return &telemetry.Error{Stage: telemetry.StageCopy, Fault: telemetry.FaultPeer, Err: err}
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return &telemetry.Error{Stage: telemetry.StageCopy, Fault: telemetry.FaultApp, Err: err}
	}
	return explainCut(err)
}

// explainCut says why a connection was ended by us.
func explainCut(err error) error {
	if revoked, ok := errors.AsType[*policy.RevokedError](err); ok {
		return telemetry.ExplainPolicy(revoked.Verdict.Policy, err)
	}
	if _, ok := errors.AsType[*telemetry.Error](err); ok {
		return err
	}
	if errors.Is(err, hbone.ErrDrainTimeout) {
		return telemetry.ExplainDrain(err)
	}
	return &telemetry.Error{Stage: telemetry.StageCopy, Fault: telemetry.FaultUnknown, Err: err}
}
