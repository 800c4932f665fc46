package telemetry

import "errors"

// Stage says where on the path of a connection something happened. The zero
// Stage is "unknown".
type Stage uint8

const (
	// StageUnknown is the stage of an error that nobody has explained.
	StageUnknown Stage = iota
	// StageCapture takes a connection from a pod and learns where it was going.
	StageCapture
	// StageRoute decides the next hop from the picture.
	StageRoute
	// StagePolicy asks whether the two may talk.
	StagePolicy
	// StageIdentity gets our certificate, or learns who the peer is.
	StageIdentity
	// StageDial connects TCP to the next hop.
	StageDial
	// StageTLS proves both identities.
	StageTLS
	// StageHTTP2 sets up HTTP/2 in the tunnel.
	StageHTTP2
	// StageConnect asks the peer for a stream and waits for its answer.
	StageConnect
	// StageApp connects TCP to the application of the destination.
	StageApp
	// StageCopy carries bytes.
	StageCopy
	// StageDrain lets open connections finish before the process ends.
	StageDrain

	stageCount
)

// stageNames are what logs and dumps call the stages.
var stageNames = [stageCount]string{
	"unknown", "capture", "route", "policy", "identity", "dial", "tls", "h2", "connect", "app", "copy", "drain",
}

// String returns the stage's name in logs and dumps.
func (s Stage) String() string {
	if s >= stageCount {
		return stageNames[StageUnknown]
	}
	return stageNames[s]
}

// Fault says who has to act. The zero Fault is "unknown".
type Fault uint8

const (
	// FaultUnknown is the fault of an error that nobody has explained.
	FaultUnknown Fault = iota
	// FaultLocal is this node's: configuration, certificate, kernel limits.
	FaultLocal
	// FaultPeer is of the proxy at the other end.
	FaultPeer
	// FaultApp is of the client or the server application.
	FaultApp
	// FaultPolicy means that a rule said no; nothing is broken.
	FaultPolicy
	// FaultNetwork is of what lies between: a NetworkPolicy, a firewall, a
	// route.
	FaultNetwork
	// FaultControl is of the control plane: what it sent, or has not sent yet.
	FaultControl

	faultCount
)

// faultNames are what logs and dumps call the faults.
var faultNames = [faultCount]string{"unknown", "local", "peer", "app", "policy", "network", "control"}

// String returns the fault's name in logs and dumps.
func (f Fault) String() string {
	if f >= faultCount {
		return faultNames[FaultUnknown]
	}
	return faultNames[f]
}

// Error is why a connection did not do its work.
type Error struct {
	Stage Stage  // where on the path
	Fault Fault  // who has to act
	Hint  string // what to try; may be empty
	Err   error  // the cause; never nil
}

// Error returns the stage, the cause and the hint.
func (e *Error) Error() string {
	text := e.Stage.String() + ": " + e.Err.Error()
	if e.Hint != "" {
		text += "; " + e.Hint
	}
	return text
}

// Unwrap makes errors.Is and errors.As see the cause.
func (e *Error) Unwrap() error { return e.Err }

// ErrCertificateRevoked is the cause of an [Error] when the peer's certificate
// stands on a revocation list.
var ErrCertificateRevoked = errors.New("certificate revoked")

// Flag is the label response_flags of the connection metrics. The zero Flag,
// "-", means that the connection did its work.
type Flag uint8

const (
	// FlagNone means that nothing failed before bytes flowed.
	FlagNone Flag = iota
	// FlagDeny means that a policy refused or cut the connection.
	FlagDeny
	// FlagConnect means that TCP, or the peer's answer, did not come about.
	FlagConnect
	// FlagTLSFailure means that TLS to the peer failed.
	FlagTLSFailure
	// FlagHTTP2Failure means that HTTP/2 could not be set up in the tunnel.
	FlagHTTP2Failure
	// FlagNetworkPolicy means that the peer's tunnel port did not answer, which
	// is what a NetworkPolicy without port 15008 looks like.
	FlagNetworkPolicy
	// FlagIdentityError means that there was no certificate to speak with.
	FlagIdentityError
	// FlagCertRevoked means that the peer's certificate is revoked.
	FlagCertRevoked

	flagCount
)

// flagNames are the label values that existing dashboards know.
var flagNames = [flagCount]string{
	"-", "DENY", "CONNECT", "TLS_FAILURE", "H2_HANDSHAKE_FAILURE", "NETWORK_POLICY", "IDENTITY_ERROR", "CERT_REVOKED",
}

// String returns the label value.
func (f Flag) String() string {
	if f >= flagCount {
		return flagNames[FlagConnect]
	}
	return flagNames[f]
}

// FlagOf returns the response flag of a connection that ended with err.
//
// A break while bytes flow has no flag of its own: the connection came about,
// so it counts as closed and not as failed. An error that no stage has
// explained counts as CONNECT.
func FlagOf(err error) Flag {
	if err == nil {
		return FlagNone
	}
	if errors.Is(err, ErrCertificateRevoked) {
		return FlagCertRevoked
	}
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return FlagConnect
	}
	if e.Fault == FaultPolicy {
		return FlagDeny
	}
	switch e.Stage {
	case StagePolicy:
		return FlagDeny
	case StageIdentity:
		return FlagIdentityError
	case StageTLS:
		return FlagTLSFailure
	case StageHTTP2:
		return FlagHTTP2Failure
	case StageCopy, StageDrain:
		return FlagNone
	case StageDial:
		if e.Fault == FaultNetwork {
			return FlagNetworkPolicy
		}
	}
	return FlagConnect
}
