package outbound

import (
	"context"
	"net"
	"net/netip"
	"slices"

	"github.com/ambit-mesh/ambit/internal/hbone"
	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/internal/streamio"
	"github.com/ambit-mesh/ambit/internal/workload"
	"github.com/ambit-mesh/ambit/ztunnel/route"
)

// Neighbours finds the pods that the same process serves.
type Neighbours interface {
	// Neighbour finds the pod s, or nil.
	Neighbour(s policy.Subject) Neighbour
}

// Neighbour is the way into a pod of this node.
type Neighbour interface {
	// HasAddr reports whether addr is one of the pod's. Receive makes sure of it.
	HasAddr(addr netip.Addr) bool
	// Receive does what a CONNECT would do. The error is that of a pool's Open:
	// a *hbone.RefusedError when the pod said no.
	Receive(ctx context.Context, d Delivery) (context.Context, Visit, error)
}

// Delivery is what a CONNECT would carry to a neighbour.
type Delivery struct {
	// Source is the certificate that the client's pod would show.
	Source *identity.Certificate
	// Client is the address of the client, Local the tunnel port that the
	// request would arrive at.
	Client, Local netip.AddrPort
	Request       hbone.Request
}

// Visit is a connection that a neighbour has let in.
type Visit interface {
	// App is the socket of the application.
	App() *net.TCPConn
	// CountWith makes the neighbour's record count what c counts.
	CountWith(c *streamio.Counters)
	// Close ends the visit because of err; nil is a good end.
	Close(err error)
}

// neighbour says whether plan may take the local path, and to whom: the
// conditions that only read what we know.
func (o *Outbound) neighbour(f *flight, plan route.Plan) Neighbour {
	d := plan.Destination
	switch {
	case o.cfg.EncryptLocal, o.neighbours == nil:
		return nil
	case d == nil, plan.Waypoint, d.NativeTunnel, plan.Hop.Port() != workload.HBONEPort:
		return nil
	case !slices.Contains(plan.Accept, d.Identity):
		return nil // the tunnel would refuse it
	case !o.handedOver(f.Client.Addr()), !f.source.HasAddress(f.Client.Addr()):
		return nil // not an address of the pod, as the agent found it and the control plane knows it
	}
	n := o.neighbours.Neighbour(d.Subject())
	if n == nil || !n.HasAddr(plan.Hop.Addr()) {
		return nil
	}
	if _, ok := o.certs.Peek(d.Identity); !ok {
		return nil // its tunnel would have nothing to show
	}
	return n
}

// handedOver reports whether addr was in the pod's namespace when the agent
// handed it over. An application with CAP_NET_RAW can show other addresses.
func (o *Outbound) handedOver(addr netip.Addr) bool { return slices.Contains(o.pod.Addresses, addr) }

// openLocal visits the neighbour n, once the witness t stands.
func (o *Outbound) openLocal(ctx context.Context, f *flight, n Neighbour, t hbone.Target, r hbone.Request) (way, error) {
	cert, err := o.certs.Get(ctx, f.source.Identity)
	if err != nil {
		return nil, &certificateError{id: f.source.Identity, err: err}
	}
	wit, err := o.stand(ctx, f, t)
	if err != nil {
		return nil, err
	}
	visiting, visit, err := n.Receive(ctx, Delivery{Source: cert, Client: f.Client, Local: t.Key.Address, Request: r})
	if err != nil {
		wit.leave(f)
		return nil, err
	}
	// What ends the visit ends the flight, for the same reason.
	stop := context.AfterFunc(visiting, func() { f.cancel(context.Cause(visiting)) })
	return &localWay{visit: visit, peer: o.peers.id(t.Key), leave: func() { stop(); wit.leave(f) }}, nil
}
