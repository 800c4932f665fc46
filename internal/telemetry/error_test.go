package telemetry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/ambit-mesh/ambit/internal/streamio"
)

func TestFlagOf(t *testing.T) {
	cause := errors.New("cause")
	at := func(s Stage, f Fault) error { return &Error{Stage: s, Fault: f, Err: cause} }
	tests := []struct {
		name string
		err  error
		want string
	}{
		{"a good end", nil, "-"},
		{"an error nobody explained", cause, "CONNECT"},
		{"a policy refused", at(StagePolicy, FaultPolicy), "DENY"},
		{"a policy that has not arrived", at(StagePolicy, FaultControl), "DENY"},
		{"the peer's policy refused", at(StageConnect, FaultPolicy), "DENY"},
		{"a policy cut it while bytes flowed", at(StageCopy, FaultPolicy), "DENY"},
		{"no certificate", at(StageIdentity, FaultControl), "IDENTITY_ERROR"},
		{"nobody listens", at(StageDial, FaultPeer), "CONNECT"},
		{"a NetworkPolicy", at(StageDial, FaultNetwork), "NETWORK_POLICY"},
		{"TLS", at(StageTLS, FaultPeer), "TLS_FAILURE"},
		{"HTTP/2", at(StageHTTP2, FaultPeer), "H2_HANDSHAKE_FAILURE"},
		{"the application is down", at(StageApp, FaultApp), "CONNECT"},
		{"no route from the pod to the application", at(StageApp, FaultNetwork), "CONNECT"},
		{"a break while bytes flowed", at(StageCopy, FaultApp), "-"},
		{"cut by a drain", at(StageDrain, FaultLocal), "-"},
		{"revoked", &Error{Stage: StageTLS, Err: ErrCertificateRevoked}, "CERT_REVOKED"},
		{"wrapped", fmt.Errorf("more: %w", at(StageTLS, FaultPeer)), "TLS_FAILURE"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := FlagOf(tt.err).String(); got != tt.want {
				t.Errorf("flag = %s, want %s", got, tt.want)
			}
		})
	}
}

func TestExplain(t *testing.T) {
	peer := netip.MustParseAddrPort("10.0.1.2:15008")
	app := netip.MustParseAddrPort("10.0.1.2:8080")
	dial := func(err error) error {
		return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", err)}
	}
	tests := []struct {
		name  string
		err   error
		stage Stage
		fault Fault
		hint  string // part of it
	}{
		{"silence on the tunnel port smells of a NetworkPolicy", ExplainDial(peer, context.DeadlineExceeded), StageDial, FaultNetwork, "NetworkPolicy or firewall block TCP port 15008"},
		{"the kernel's own timeout too", ExplainDial(peer, dial(syscall.ETIMEDOUT)), StageDial, FaultNetwork, "15008"},
		{"silence elsewhere", ExplainDial(app, context.DeadlineExceeded), StageDial, FaultNetwork, "no answer from 10.0.1.2 on TCP port 8080"},
		{"nobody listens", ExplainDial(peer, dial(syscall.ECONNREFUSED)), StageDial, FaultPeer, "nothing listens on 10.0.1.2:15008"},
		{"descriptors", ExplainDial(peer, dial(syscall.EMFILE)), StageDial, FaultLocal, "LimitNOFILE"},
		{"the source address is gone", ExplainApp(app, dial(syscall.EADDRNOTAVAIL)), StageApp, FaultLocal, "no free port"},
		{"the application is down", ExplainApp(app, dial(syscall.ECONNREFUSED)), StageApp, FaultApp, "is the application up"},
		{"no route to the application", ExplainApp(app, dial(syscall.EHOSTUNREACH)), StageApp, FaultNetwork, "no route to 10.0.1.2"},
		{"another root", ExplainTLS(peer, x509.UnknownAuthorityError{}), StageTLS, FaultPeer, "same CA and trust domain"},
		{"expired", ExplainTLS(peer, x509.CertificateInvalidError{Reason: x509.Expired}), StageTLS, FaultPeer, "out of its time"},
		{"no TLS there", ExplainTLS(peer, tls.RecordHeaderError{}), StageTLS, FaultPeer, "does not speak TLS"},
		{"our certificate is refused", ExplainTLS(peer, tls.AlertError(42)), StageTLS, FaultPeer, "refused our certificate"},
		{"HTTP/2", ExplainHTTP2(peer, errors.New("no SETTINGS")), StageHTTP2, FaultPeer, "did not speak HTTP/2"},
		{"401", ExplainRefused(peer, 401, errors.New("status 401")), StageConnect, FaultPolicy, "names the rule"},
		{"503", ExplainRefused(peer, 503, errors.New("status 503")), StageConnect, FaultApp, "could not reach the application"},
		{"400", ExplainRefused(peer, 400, errors.New("status 400")), StageConnect, FaultPeer, "does not serve that address"},
		{"a call around a waypoint", ExplainPolicy("bank/ambit_through_waypoint_vault", errors.New("refused")), StagePolicy, FaultPolicy, "call the service, not the pod"},
		{"the rule is named", ExplainPolicy("shop/deny-cart", errors.New("refused")), StagePolicy, FaultPolicy, "shop/deny-cart"},
		{"the CA is silent", ExplainIdentity(id("web"), context.DeadlineExceeded), StageIdentity, FaultControl, "spiffe://cluster.local/ns/shop/sa/web"},
		{"the client broke", ExplainCopy(Outbound, &streamio.CopyError{Side: streamio.Client, Op: "read", Err: syscall.ECONNRESET}), StageCopy, FaultApp, ""},
		{"the tunnel broke", ExplainCopy(Outbound, &streamio.CopyError{Side: streamio.Server, Op: "read", Err: syscall.ECONNRESET}), StageCopy, FaultPeer, ""},
		{"the server broke", ExplainCopy(Inbound, &streamio.CopyError{Side: streamio.Server, Op: "read", Err: syscall.ECONNRESET}), StageCopy, FaultApp, ""},
		{"the tunnel broke, seen from the server", ExplainCopy(Inbound, &streamio.CopyError{Side: streamio.Client, Op: "read", Err: syscall.ECONNRESET}), StageCopy, FaultPeer, ""},
		{"a drain", ExplainDrain(errors.New("deadline")), StageDrain, FaultLocal, "asked to stop"},
		{"no original destination", ExplainCapture(errors.New("getsockopt")), StageCapture, FaultLocal, "nft list ruleset"},
		{"no way", ExplainRoute(app, "", errors.New("no endpoint")), StageRoute, FaultControl, "/config_dump"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e, ok := errors.AsType[*Error](tt.err)
			if !ok {
				t.Fatalf("%v is not an Error", tt.err)
			}
			if e.Stage != tt.stage || e.Fault != tt.fault || !strings.Contains(e.Hint, tt.hint) {
				t.Errorf("stage %v, fault %v, hint %q; want %v, %v, and %q in the hint", e.Stage, e.Fault, e.Hint, tt.stage, tt.fault, tt.hint)
			}
			if len(e.Hint) > maxText/2 {
				t.Errorf("the hint has %d bytes, more than half of what an Entry keeps", len(e.Hint))
			}
		})
	}
}

func TestExplainKeepsWhatIsExplained(t *testing.T) {
	first := ExplainPolicy("shop/deny", errors.New("refused"))
	if got := ExplainCopy(Outbound, first); got != first {
		t.Errorf("a second explanation made %v of %v", got, first)
	}
	if got := ExplainDial(netip.AddrPort{}, nil); got != nil {
		t.Errorf("nil became %v", got)
	}
}

func TestErrorShowsStageCauseAndHint(t *testing.T) {
	err := &Error{Stage: StageTLS, Err: syscall.ECONNRESET, Hint: "try again"}
	if got, want := err.Error(), "tls: connection reset by peer; try again"; got != want {
		t.Errorf("text %q, want %q", got, want)
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Error("the cause is hidden")
	}
}
