package inbound

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ambit-mesh/ambit/internal/hbone"
	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/internal/telemetry"
	"github.com/ambit-mesh/ambit/ztunnel/capture"
	"github.com/ambit-mesh/ambit/ztunnel/route"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The status that a caller gets, and the flag in the metrics, for each reason.
func TestStatusOf(t *testing.T) {
	s := policy.Subject{Name: "a", Namespace: "ns"}
	app := netip.MustParseAddrPort("10.0.0.1:80")
	denied := &policy.DeniedError{Verdict: policy.Verdict{Policy: "ns/p", Reason: "no"}}
	missing := &policy.DeniedError{Verdict: policy.Verdict{Missing: []string{"ns/p"}}}
	tests := []struct {
		name string
		err  error
		want int
		flag telemetry.Flag
	}{
		{"own workload unknown", explainUnknown(s, errUnknownPod), 503, telemetry.FlagConnect},
		{"authority is another pod's", explainTarget(&route.InboundError{Status: 400}), 400, telemetry.FlagConnect},
		{"unknown host name", explainTarget(&route.InboundError{Status: 503}), 503, telemetry.FlagConnect},
		{"denied by policy", explainDenied(s, Request{}, denied), 401, telemetry.FlagDeny},
		{"a policy is missing", explainDenied(s, Request{}, missing), 401, telemetry.FlagDeny},
		{"revoked while it was decided", explainDenied(s, Request{}, &policy.RevokedError{}), 401, telemetry.FlagDeny},
		{"the application refuses", explainApp(app, errors.New("refused")), 503, telemetry.FlagConnect},
		{"the target is not in the pod", explainApp(app, capture.ErrNotLocal), 503, telemetry.FlagConnect},
		{"the root of the caller is gone", explainPeerCertificate(errors.New("unknown authority")), 401, telemetry.FlagIdentityError},
		{"we have expired ourselves: another endpoint may do", explainPeerCertificate(&noCertificateError{}), 503, telemetry.FlagIdentityError},
		{"the caller has expired: it may come again", explainPeerCertificate(&expiredError{at: time.Now()}), 503, telemetry.FlagIdentityError},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := StatusOf(tt.err); got != tt.want {
				t.Errorf("status %d, want %d", got, tt.want)
			}
			if got := telemetry.FlagOf(tt.err); got != tt.flag {
				t.Errorf("flag %v, want %v", got, tt.flag)
			}
		})
	}
}

// Whose fault the end of a pipe was: what we cut ourselves is not the peer's, even
// when the loss of the tunnel was seen first.
func TestExplainCopy(t *testing.T) {
	lost := func(why error) error { return fmt.Errorf("%w: %w", hbone.ErrConnLost, why) }
	removed := &telemetry.Error{Stage: telemetry.StageDrain, Fault: telemetry.FaultLocal, Err: errors.New("removed")}
	for _, tt := range []struct {
		name  string
		err   error
		stage telemetry.Stage
		fault telemetry.Fault
	}{
		{"the tunnel was lost", lost(io.EOF), telemetry.StageCopy, telemetry.FaultPeer},
		{"the grace period is over", hbone.ErrDrainTimeout, telemetry.StageDrain, telemetry.FaultLocal},
		{"the grace period is over, by the word of the tunnel", lost(hbone.ErrDrainTimeout), telemetry.StageDrain, telemetry.FaultLocal},
		{"the pod was removed, by the word of the tunnel", lost(removed), telemetry.StageDrain, telemetry.FaultLocal},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := errors.AsType[*telemetry.Error](explainCopy(tt.err))
			if !ok || got.Stage != tt.stage || got.Fault != tt.fault {
				t.Errorf("explained as %+v, want stage %v and fault %v", got, tt.stage, tt.fault)
			}
		})
	}
}

// The PROXY header, version 2, byte by byte.
func TestProxyHeader(t *testing.T) {
	id, err := identity.NewID("td", "ns", "sa")
	if err != nil {
		t.Fatal(err)
	}
	v4c, v4t := netip.MustParseAddrPort("10.0.0.1:4711"), netip.MustParseAddrPort("10.0.0.2:80")
	v6t := netip.MustParseAddrPort("[2001:db8::2]:80")
	tests := []struct {
		name           string
		client, target netip.AddrPort
		id             identity.ID
		family         byte
		addresses      []byte
	}{
		{
			name: "IPv4 with identity", client: v4c, target: v4t, id: id, family: 0x11,
			addresses: []byte{10, 0, 0, 1, 10, 0, 0, 2, 0x12, 0x67, 0, 80},
		},
		{
			name: "IPv4 in plaintext", client: v4c, target: v4t, family: 0x11,
			addresses: []byte{10, 0, 0, 1, 10, 0, 0, 2, 0x12, 0x67, 0, 80},
		},
		{
			name: "two families: IPv6", client: v4c, target: v6t, family: 0x21,
			addresses: append(append(append([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1},
				v6t.Addr().AsSlice()...), 0x12, 0x67), 0, 80),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := []byte{0x0d, 0x0a, 0x0d, 0x0a, 0, 0x0d, 0x0a, 'Q', 'U', 'I', 'T', 0x0a, 0x21, tt.family}
			body := tt.addresses
			if !tt.id.IsZero() {
				text := tt.id.String()
				body = append(append(body[:len(body):len(body)], 0xd0, 0, byte(len(text))), text...)
			}
			want = append(binary.BigEndian.AppendUint16(want, uint16(len(body))), body...)
			if got := proxyHeader(tt.client, tt.target, tt.id); !bytes.Equal(got, want) {
				t.Errorf("header\n%x, want\n%x", got, want)
			}
		})
	}
}
