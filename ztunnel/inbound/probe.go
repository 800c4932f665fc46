package inbound

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/internal/sockowner"
	"github.com/ambit-mesh/ambit/internal/telemetry"
	"github.com/ambit-mesh/ambit/ztunnel/capture"
)

// Owners says whose the socket is that has connected from client to server.
// *sockowner.Client is the real one.
type Owners interface {
	Owner(ctx context.Context, client, server netip.AddrPort) (sockowner.Owner, error)
}

var _ Owners = (*sockowner.Client)(nil)

// askers is how many callers of one pod are asked about at once. A question
// takes well below a millisecond, and a kubelet probes a pod a few times a
// second. It is our choice: who floods one pod keeps no other's probes waiting.
const askers = 16

// probePolicy is what stands in the record of a probe where else the deciding
// policy does.
const probePolicy = "kubelet probe"

// errAskers is why nobody was asked.
var errAskers = fmt.Errorf("%d callers of this pod are being asked about already", askers)

// admits reports whether policy lets r in as things stand now, without waiting
// for anything.
func (in *Inbound) admits(r Request) bool {
	select {
	case <-in.acked:
	default:
		return false
	}
	ap := in.state.PoliciesFor(in.pod.Subject)
	return ap.Known && policy.Evaluate(ap, policy.Request{SourceIP: r.Client.Addr(), Destination: r.Local}).Allowed
}

// owner finds out whose socket made r, which policy would refuse. A caller with
// the address of a pod is no process of the node.
func (in *Inbound) owner(ctx context.Context, r Request) (sockowner.Owner, error) {
	if in.owners == nil || in.state.Snapshot().LookupWorkload(in.cfg.Network, r.Client.Addr()) != nil {
		return sockowner.Owner{}, nil
	}
	select {
	case in.asking <- struct{}{}:
		defer func() { <-in.asking }()
	default:
		return sockowner.Owner{}, errAskers
	}
	return in.owners.Owner(ctx, r.Client, r.Local)
}

// receiveProbe is Receive for a call of the kubelet, which no policy keeps from
// its pods. It does not wait for the control plane either: a pod must not be
// ended because its proxy is new and the control plane away.
func (in *Inbound) receiveProbe(ctx context.Context, r Request) (context.Context, *Visit, error) {
	snap := in.state.Snapshot()
	own, known := snap.LookupSource(in.pod.Subject)
	if !known {
		return in.Receive(ctx, r) // not even the agent has told of the pod yet
	}
	t, err := in.target(snap, own, r)
	if err != nil {
		return nil, nil, in.refuse(r, explainTarget(err))
	}
	ctx, v := in.begin(ctx, snap, own, r, t)
	v.probe = true
	v.permit = in.gate.AdmitOutbound(in.pod.Subject) // no policy decides, but what ends the pod ends it
	return in.reach(ctx, v, r, t)
}

// errLeft ends a connection of a process of the node that policy would refuse and
// that has gone without a word, as a TCP probe does. Whose it was cannot be told
// any more, it has got its answer, and there is nothing to record.
var errLeft = errors.New("the caller has left without a word")

// receivePlaintext is Receive for what came by port 15006. Only who would be
// refused is asked about.
func (in *Inbound) receivePlaintext(ctx context.Context, c *capture.Conn, r Request) (context.Context, *Visit, error) {
	if in.admits(r) {
		return in.Receive(ctx, r)
	}
	owner, err := in.owner(ctx, r)
	switch {
	case owner.Kubelet:
		return in.receiveProbe(ctx, r)
	case owner.Found && c.HasLeft():
		return nil, nil, errLeft
	}
	r.unknownOwner = err
	return in.Receive(ctx, r)
}

// explainOwner adds to the refusal of a plaintext caller why it was not known for
// the kubelet, when the agent could not say.
func explainOwner(refusal, asked error) error {
	te, ok := errors.AsType[*telemetry.Error](refusal)
	if asked == nil || !ok {
		return refusal
	}
	te.Err = fmt.Errorf("%w; is the caller the kubelet? %w", te.Err, asked)
	return te
}
