package inbound

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/ambit-mesh/ambit/internal/about"
	"github.com/ambit-mesh/ambit/internal/hbone"
	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/internal/telemetry"
	"github.com/ambit-mesh/ambit/internal/workload"
	"github.com/ambit-mesh/ambit/ztunnel/capture"
	"github.com/ambit-mesh/ambit/ztunnel/route"
)

// Request is what a CONNECT carries, by whichever door it comes.
type Request struct {
	// Peer is the proven caller; nil for plaintext.
	Peer *Peer
	// Hop says by which door.
	Hop telemetry.Hop
	// Client is the TCP peer: the address that the application will see.
	Client netip.AddrPort
	// Local is the end of the connection in the pod: its address and the tunnel
	// port, or the original destination of plaintext.
	Local netip.AddrPort
	// Authority is what the caller wants to reach.
	Authority hbone.Authority
	// Header is the rest of what it says; nothing in it is proven.
	Header hbone.Header

	// unknownOwner is why it is not known whose socket a plaintext caller is.
	unknownOwner error
}

// id is the proven identity of the caller, zero for plaintext.
func (r *Request) id() identity.ID {
	if r.Peer == nil {
		return identity.ID{}
	}
	return r.Peer.ID
}

// Receive decides about a connection that wants to come in, and connects it to
// the application. It is the whole path in, whichever door the connection came
// by.
//
// The returned context ends with ctx and when the visit may no longer be; its
// cause says why. The caller must close the visit on every path. After an error
// nothing is left; [StatusOf] says what to answer.
func (in *Inbound) Receive(ctx context.Context, r Request) (context.Context, *Visit, error) {
	own, err := in.known(ctx)
	if err != nil {
		return nil, nil, in.refuse(r, explainUnknown(in.pod.Subject, err))
	}
	snap := in.state.Snapshot()
	t, err := in.target(snap, own, r)
	if err != nil {
		return nil, nil, in.refuse(r, explainTarget(err))
	}
	ctx, v := in.begin(ctx, snap, own, r, t)
	if err := in.believe(own, r); err != nil {
		return nil, nil, v.fail(explainPeerCertificate(err))
	}
	v.permit, err = in.gate.Admit(ctx, in.pod.Subject, policy.Request{
		SourceIP: r.Client.Addr(), Peer: r.id(), Destination: t.Dial,
	})
	if err != nil {
		return nil, nil, v.fail(explainDenied(in.pod.Subject, r, err))
	}
	if !in.cfg.WithoutBaggage && r.Peer != nil {
		v.Header = about.ResponseHeader(own)
	}
	return in.reach(ctx, v, r, t)
}

// reach connects v, which has its permit, to the application.
func (in *Inbound) reach(ctx context.Context, v *Visit, r Request, t route.Target) (_ context.Context, _ *Visit, err error) {
	v.permit.Watch(v.cancel)
	v.App, err = in.connect(ctx, r, t)
	if err != nil {
		return nil, nil, v.fail(explainApp(t.Dial, err))
	}
	in.records.SocketOpened(telemetry.Inbound)
	return ctx, v, nil
}

// target finds what to connect to. Plaintext goes to its original destination,
// but never to a port of ours.
func (in *Inbound) target(snap *workload.Snapshot, own *workload.Workload, r Request) (route.Target, error) {
	if r.Peer != nil {
		t, err := route.ResolveInbound(snap, own, r.Local, r.Authority)
		if err == nil && len(in.pod.Ports) > 0 && !slices.Contains(in.pod.Ports, t.Dial.Port()) {
			return route.Target{}, &route.InboundError{
				Status: statusUnavailable, Text: fmt.Sprintf("port %d of this pod is not open to the mesh, only %v", t.Dial.Port(), in.pod.Ports),
			}
		}
		return t, err
	}
	if capture.Reserved(r.Local.Port()) {
		return route.Target{}, &capture.LoopError{Client: r.Client, Target: r.Local}
	}
	return route.Target{Dial: r.Local}, nil
}

// believe checks what may have changed since the caller's handshake: the time,
// and whom we trust.
func (in *Inbound) believe(own *workload.Workload, r Request) error {
	if r.Peer == nil {
		return nil
	}
	if time.Now().After(r.Peer.NotAfter) {
		return &expiredError{peer: r.Peer.ID, at: r.Peer.NotAfter}
	}
	cert, ok := in.certs.Peek(own.Identity)
	if !ok {
		return &noCertificateError{own: own.Identity} // nobody can say whom we trust now
	}
	return r.Peer.vouched(cert)
}

// connect reaches the application, and announces the caller where that is
// asked for.
func (in *Inbound) connect(ctx context.Context, r Request, t route.Target) (*net.TCPConn, error) {
	from, to := r.Client.Addr(), t.Dial
	if t.Loopback.IsValid() && !in.cfg.AppTunnelByAddress {
		to = t.Loopback
	}
	if from == t.Dial.Addr() || to != t.Dial {
		from = netip.Addr{} // the pod calls itself, or is called over loopback
	}
	app, err := in.pod.Dial(ctx, from, to)
	if err != nil {
		return nil, err
	}
	if t.Proxy.IsValid() {
		if _, err := app.Write(proxyHeader(r.Client, t.Proxy, r.id())); err != nil {
			app.Close()
			return nil, err
		}
	}
	return app, nil
}
