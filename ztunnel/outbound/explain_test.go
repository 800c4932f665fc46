package outbound

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/net/http2"

	"github.com/ambit-mesh/ambit/internal/hbone"
	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/internal/streamio"
	"github.com/ambit-mesh/ambit/internal/telemetry"
	"github.com/ambit-mesh/ambit/internal/workload"
	"github.com/ambit-mesh/ambit/ztunnel/route"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// dialError is what a dialer returns for a system call that failed.
func dialError(err error) error {
	return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", err)}
}

// What an operator reads of a way that could not be made: where, by whose fault,
// under which response flag, and a word of the hint.
func TestExplainOpen(t *testing.T) {
	tunnel := route.Plan{Mode: route.Tunnel, Hop: netip.MustParseAddrPort("10.0.0.9:15008")}
	direct := route.Plan{Mode: route.Direct, Hop: netip.MustParseAddrPort("10.0.0.9:80")}
	instance := &workload.Workload{}
	instance.Namespace, instance.Name = "bank", "waypoint-1"
	waypoint := route.Plan{Mode: route.Tunnel, Hop: tunnel.Hop, Waypoint: true, Destination: instance}
	tests := []struct {
		name  string
		plan  route.Plan
		err   error
		stage telemetry.Stage
		fault telemetry.Fault
		flag  telemetry.Flag
		hint  string
	}{
		{
			name: "no certificate of our own", plan: tunnel,
			err:   &hbone.DialError{Stage: hbone.StageTLS, Err: &certificateError{err: errors.New("the CA said no")}},
			stage: telemetry.StageIdentity, fault: telemetry.FaultControl, flag: telemetry.FlagIdentityError, hint: "certificate",
		},
		{
			name: "the tunnel port does not answer", plan: tunnel,
			err:   &hbone.DialError{Stage: hbone.StageDial, Err: dialError(syscall.ETIMEDOUT)},
			stage: telemetry.StageDial, fault: telemetry.FaultNetwork, flag: telemetry.FlagNetworkPolicy, hint: "NetworkPolicy",
		},
		{
			name: "nobody listens on the tunnel port", plan: tunnel,
			err:   &hbone.DialError{Stage: hbone.StageDial, Err: dialError(syscall.ECONNREFUSED)},
			stage: telemetry.StageDial, fault: telemetry.FaultPeer, flag: telemetry.FlagConnect, hint: "nothing listens",
		},
		{
			name: "the peer is somebody else", plan: tunnel,
			err:   &hbone.DialError{Stage: hbone.StageTLS, Err: &identity.VerifyError{Err: identity.ErrUnexpectedPeer}},
			stage: telemetry.StageTLS, fault: telemetry.FaultPeer, flag: telemetry.FlagTLSFailure, hint: "another pod",
		},
		{
			name: "the peer speaks something else", plan: tunnel,
			err:   &hbone.DialError{Stage: hbone.StageH2, Err: io.EOF},
			stage: telemetry.StageHTTP2, fault: telemetry.FaultPeer, flag: telemetry.FlagHTTP2Failure, hint: "HTTP/2",
		},
		{
			name: "401", plan: tunnel, err: &hbone.RefusedError{Status: 401},
			stage: telemetry.StageConnect, fault: telemetry.FaultPolicy, flag: telemetry.FlagDeny, hint: "policy",
		},
		{
			name: "503", plan: tunnel, err: &hbone.RefusedError{Status: 503},
			stage: telemetry.StageConnect, fault: telemetry.FaultApp, flag: telemetry.FlagConnect, hint: "listen",
		},
		{
			name: "401 of a waypoint", plan: waypoint, err: &hbone.RefusedError{Status: 401},
			stage: telemetry.StageConnect, fault: telemetry.FaultPolicy, flag: telemetry.FlagDeny, hint: "waypoint instance bank/waypoint-1 refused it",
		},
		{
			name: "503 of a waypoint", plan: waypoint, err: &hbone.RefusedError{Status: 503},
			stage: telemetry.StageConnect, fault: telemetry.FaultApp, flag: telemetry.FlagConnect, hint: "has perhaps not heard of the service yet",
		},
		{
			name: "a waypoint that is not there", plan: waypoint, err: &hbone.DialError{Stage: hbone.StageDial, Err: dialError(syscall.ECONNREFUSED)},
			stage: telemetry.StageDial, fault: telemetry.FaultPeer, flag: telemetry.FlagConnect, hint: "Traffic does not go around it",
		},
		{
			name: "GOAWAY before an answer", plan: tunnel, err: &hbone.GoAwayError{Unprocessed: true},
			stage: telemetry.StageConnect, fault: telemetry.FaultPeer, flag: telemetry.FlagConnect,
		},
		{
			name: "plain TCP refused", plan: direct, err: dialError(syscall.ECONNREFUSED),
			stage: telemetry.StageApp, fault: telemetry.FaultApp, flag: telemetry.FlagConnect, hint: "nothing listens",
		},
		{
			name: "out of descriptors", plan: direct, err: dialError(syscall.EMFILE),
			stage: telemetry.StageApp, fault: telemetry.FaultLocal, flag: telemetry.FlagConnect, hint: "descriptors",
		},
		{
			name: "cut by policy meanwhile", plan: tunnel, err: &policy.RevokedError{},
			stage: telemetry.StagePolicy, fault: telemetry.FaultPolicy, flag: telemetry.FlagDeny,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			wantExplained(t, explainOpen(tt.plan, tt.err), tt.err, tt.stage, tt.fault, tt.flag, tt.hint)
		})
	}
}

// wantExplained checks what an error has become.
func wantExplained(t *testing.T, got, cause error, stage telemetry.Stage, fault telemetry.Fault, flag telemetry.Flag, hint string) {
	t.Helper()
	e, ok := errors.AsType[*telemetry.Error](got)
	if !ok {
		t.Fatalf("explained as %v, want a telemetry.Error", got)
	}
	if e.Stage != stage || e.Fault != fault {
		t.Errorf("stage %v, fault %v; want %v, %v", e.Stage, e.Fault, stage, fault)
	}
	if f := telemetry.FlagOf(got); f != flag {
		t.Errorf("flag %v, want %v", f, flag)
	}
	if !strings.Contains(e.Hint, hint) {
		t.Errorf("hint %q, want a word about %q", e.Hint, hint)
	}
	if inner := errors.Unwrap(got); inner == nil || !strings.Contains(cause.Error(), inner.Error()) && !errors.Is(got, cause) {
		t.Errorf("the cause %v is lost in %v", cause, got)
	}
}

func TestExplainCopy(t *testing.T) {
	if err := explainCopy(nil); err != nil {
		t.Errorf("a good end was explained as %v", err)
	}
	for name, tt := range map[string]struct {
		err   error
		fault telemetry.Fault
	}{
		"the application broke":   {&streamio.CopyError{Side: streamio.Client, Op: "read", Err: syscall.ECONNRESET}, telemetry.FaultApp},
		"the other end broke":     {&streamio.CopyError{Side: streamio.Server, Op: "read", Err: syscall.ECONNRESET}, telemetry.FaultPeer},
		"the stream was reset":    {&hbone.ResetError{Code: http2.ErrCodeCancel}, telemetry.FaultPeer},
		"the tunnel was lost":     {hbone.ErrConnLost, telemetry.FaultPeer},
		"the app reset its end":   {dialError(syscall.ECONNRESET), telemetry.FaultApp},
		"we do not know what it ": {errors.New("odd"), telemetry.FaultUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			wantExplained(t, explainCopy(tt.err), tt.err, telemetry.StageCopy, tt.fault, telemetry.FlagNone, "")
		})
	}
}

// What may be tried with another endpoint, and with the same one again.
func TestRetryRules(t *testing.T) {
	tests := []struct {
		name           string
		err            error
		another, again bool
	}{
		{name: "TCP refused: another endpoint", err: dialError(syscall.ECONNREFUSED), another: true},
		{name: "tunnel port refused: another endpoint", err: &hbone.DialError{Stage: hbone.StageDial, Err: dialError(syscall.ECONNREFUSED)}, another: true},
		{name: "handshake cut: the same again", err: &hbone.DialError{Stage: hbone.StageTLS, Err: io.EOF}, another: true, again: true},
		{name: "not who it should be: never", err: &hbone.DialError{Stage: hbone.StageTLS, Err: &identity.VerifyError{Err: identity.ErrUnexpectedPeer}}},
		{name: "401: never", err: &hbone.RefusedError{Status: 401}},
		{name: "400: never", err: &hbone.RefusedError{Status: 400}},
		{name: "503: another endpoint", err: &hbone.RefusedError{Status: 503}, another: true},
		{name: "GOAWAY: the same again", err: &hbone.GoAwayError{Unprocessed: true}, another: true, again: true},
		{name: "REFUSED_STREAM: the same again", err: &hbone.ResetError{Code: http2.ErrCodeRefusedStream}, another: true, again: true},
		{name: "reset by the peer: never", err: &hbone.ResetError{Code: http2.ErrCodeCancel}},
		{name: "out of descriptors: never", err: dialError(syscall.EMFILE)},
		{name: "the client is gone: never", err: context.Canceled},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := retryable(tt.err); got != tt.another {
				t.Errorf("another endpoint: %v, want %v", got, tt.another)
			}
			if got := retryable(tt.err) && mayRepeat(tt.err); got != tt.again {
				t.Errorf("the same again: %v, want %v", got, tt.again)
			}
		})
	}
}
