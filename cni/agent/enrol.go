package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"time"

	"github.com/ambit-mesh/ambit/cni/event"
	"github.com/ambit-mesh/ambit/cni/redirect"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/netns"
	"go.uber.org/zap"
)

// lookupPatience is how long a new pod may be unknown to the source, which hears
// of it on another way than the runtime does; lookupEvery is the time between
// two looks.
const (
	lookupPatience = time.Second
	lookupEvery    = 20 * time.Millisecond
)

// Add takes a new pod into the mesh if it belongs there, and remembers it in
// either case. An error means that the pod must not start.
func (a *Agent) Add(ctx context.Context, req event.Add) error {
	if req.Netns == "" || req.PodName == "" || req.PodNamespace == "" {
		return refuse(statusBad, fmt.Errorf("the request names no netns, pod or namespace: %q, %q, %q", req.Netns, req.PodName, req.PodNamespace))
	}
	if slices.Contains(a.cfg.ExcludeNamespaces, req.PodNamespace) {
		return nil
	}
	p, err := a.waitPod(ctx, req)
	if err != nil {
		return err
	}
	if p.HostNetwork {
		return nil
	}
	if a.cfg.Node != "" && p.Node != "" && p.Node != a.cfg.Node {
		return fmt.Errorf("pod %s/%s belongs to node %s, this is %s", p.Namespace, p.Name, p.Node, a.cfg.Node)
	}
	at, err := a.attach(ctx, req, p)
	if err != nil {
		return err
	}
	defer at.unlock()
	if err = a.settle(ctx, at, p, true); err == nil {
		err = a.save()
	}
	if err != nil {
		a.forget(ctx, at, err.Error())
	}
	return err
}

// waitPod looks the pod up until the source knows it, under the uid that the
// runtime gave, if it gave one.
func (a *Agent) waitPod(ctx context.Context, req event.Add) (Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupPatience)
	defer cancel()
	why := errors.New("it was not looked up in time")
	for {
		p, found, err := a.pods.Lookup(ctx, req.PodNamespace, req.PodName)
		switch {
		case ctx.Err() != nil: // what the look before found is what counts
		case err != nil:
			why = err
		case !found:
			why = fmt.Errorf("it is not known to the agent after %v, which so cannot tell whether it belongs to the mesh", lookupPatience)
		case req.PodUID != "" && req.PodUID != p.UID:
			why = fmt.Errorf("it is known with uid %s, the runtime starts %s", p.UID, req.PodUID)
		default:
			return p, nil
		}
		if lifecycle.Sleep(ctx, lookupEvery) != nil {
			return Pod{}, fmt.Errorf("pod %s/%s: %w", req.PodNamespace, req.PodName, why)
		}
	}
}

// attach opens the namespace of a pod, checks that it is the pod's, and returns
// its attachment, which the caller holds.
func (a *Agent) attach(ctx context.Context, req event.Add, p Pod) (*attachment, error) {
	ns, err := netns.Open(req.Netns)
	if err != nil {
		return nil, fmt.Errorf("network namespace of pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	ips, err := a.checkNamespace(ns, req)
	if err != nil {
		ns.Close()
		return nil, fmt.Errorf("network namespace of pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	rec := record{
		Key: keyOf(req, ns), Network: req.Network, UID: p.UID, Namespace: p.Namespace, Name: p.Name,
		ServiceAccount: p.ServiceAccount, Netns: req.Netns, NetnsID: ns.ID(), IPs: ips,
	}
	at, err := a.register(ctx, ns, rec)
	if err != nil {
		ns.Close()
	}
	return at, err
}

// keyOf names the attachment. Other plugins than ours do not say what the
// runtime calls it; then the namespace is the name.
func keyOf(req event.Add, ns *netns.NS) event.Attachment {
	if req.ContainerID == "" {
		return event.Attachment{ContainerID: ns.ID().String()}
	}
	return event.Attachment{ContainerID: req.ContainerID, IfName: req.IfName}
}

// checkNamespace says why ns cannot be the pod's: a wrong namespace would give
// its traffic the identity of somebody else. It returns the pod's addresses.
func (a *Agent) checkNamespace(ns *netns.NS, req event.Add) ([]netip.Addr, error) {
	if slices.Contains(a.host, ns.ID()) {
		return nil, fmt.Errorf("%s is the node's own network namespace", req.Netns)
	}
	var there, given []netip.Addr
	for _, ip := range req.IPs {
		addr, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			continue
		}
		addr = addr.Unmap()
		given = append(given, addr)
		has, err := ns.HasAddr(addr)
		if err != nil {
			return nil, err
		}
		if has && !addr.IsLoopback() {
			there = append(there, addr)
		}
	}
	if len(there) == 0 {
		return nil, fmt.Errorf("%s holds none of the pod's addresses %v", req.Netns, given)
	}
	return there, nil
}

// register makes or finds the attachment of rec, and forgets those that it
// replaces: other namespaces under the same key, and earlier sandboxes of the
// pod. It owns ns unless it fails.
func (a *Agent) register(ctx context.Context, ns *netns.NS, rec record) (*attachment, error) {
	for {
		a.mu.Lock()
		other := a.rivalLocked(rec)
		if other == nil {
			at := newAttachment(ns, rec)
			a.attachments[rec.Key] = at
			a.mu.Unlock()
			return at, nil
		}
		a.mu.Unlock()
		if err := other.lock(ctx); err != nil {
			return nil, fmt.Errorf("another request about pod %s is under way: %w", other, err)
		}
		switch same := other.rec.Key == rec.Key && other.rec.NetnsID == rec.NetnsID && other.rec.UID == rec.UID; {
		case same && !other.gone:
			ns.Close()
			return other, nil
		case other.rec.NetnsID == rec.NetnsID && other.rec.UID != rec.UID && other.rec.Key != rec.Key && !other.gone:
			other.unlock()
			return nil, fmt.Errorf("%s is the namespace of pod %s already", rec.Netns, other)
		default:
			a.forget(ctx, other, "replaced by a new sandbox")
			other.unlock()
		}
	}
}

// rivalLocked returns an attachment that has to do with rec's key, namespace or
// pod. The caller holds a.mu.
func (a *Agent) rivalLocked(rec record) *attachment {
	for key, at := range a.attachments {
		if key == rec.Key || at.rec.NetnsID == rec.NetnsID || at.rec.UID == rec.UID {
			return at
		}
	}
	return nil
}

// settle makes the pod what p says it should be. In a start, which fails with the
// error, ztunnel is waited for; otherwise the next comparison tries again. The
// caller holds at.
func (a *Agent) settle(ctx context.Context, at *attachment, p Pod, starting bool) error {
	wanted, reason := decide(p, a.cfg.ExcludeNamespaces)
	a.mu.Lock()
	at.wanted, at.reason = wanted, reason
	captured := at.rec.Captured
	a.mu.Unlock()
	if !wanted {
		if captured {
			return a.release(ctx, at, reason)
		}
		return nil
	}
	if err := a.capture(at, p, reason); err != nil {
		a.setReason(at, err.Error())
		return err
	}
	if a.isAcked(at) || !starting && !a.ztunnel.Connected() {
		return nil
	}
	return a.offer(ctx, at)
}

// capture writes the rules that p asks for, and has the pod in snapshots from
// then on. Rules that stand are left alone. The caller holds at.
func (a *Agent) capture(at *attachment, p Pod, reason string) error {
	cfg, notes := redirection(p, a.cfg.DNS)
	for _, note := range notes {
		a.log.Warn(note, zap.Stringer("pod", at))
	}
	cfg.ProbeV4, cfg.ProbeV6 = a.cfg.ProbeV4, a.cfg.ProbeV6
	var err error
	if cfg.IPv6, err = redirect.HasIPv6(at.ns); err != nil {
		return fmt.Errorf("rules of pod %s: %w", at, err)
	}
	fresh := !at.rec.Captured
	if fresh {
		if err := redirect.Prepare(at.ns); err != nil {
			a.log.Warn("not all settings could be made in a pod", zap.Stringer("pod", at), zap.Error(err))
		}
	}
	if err := a.apply(at, cfg); err != nil {
		return fmt.Errorf("rules of pod %s: %w", at, err)
	}
	a.mu.Lock()
	at.rec.Captured, at.rec.Redirect = true, cfg
	a.mu.Unlock()
	if fresh {
		a.log.Info("pod captured", zap.Stringer("pod", at), zap.String("uid", at.rec.UID), zap.Stringer("netns", at.ns), zap.String("why", reason))
	}
	return nil
}

// apply writes rules, and counts and logs when rules that stood were not as
// written. The caller holds at.
func (a *Agent) apply(at *attachment, cfg redirect.Config) error {
	drift, err := redirect.Reconcile(at.ns, cfg)
	if !at.rec.Captured {
		if err != nil {
			err = errors.Join(err, redirect.Remove(at.ns)) // nothing half done
		}
		return err
	}
	if drift != nil && reflect.DeepEqual(cfg, at.rec.Redirect) {
		a.metrics.repaired.Inc()
		a.log.Warn("rules of a pod were changed, and are written again", zap.Stringer("pod", at), zap.NamedError("drift", drift))
	}
	return err
}

// offer hands the pod to ztunnel and waits until it listens. The caller holds at.
func (a *Agent) offer(ctx context.Context, at *attachment) error {
	err := a.ztunnel.Add(ctx, at.rec.pod(at.ns))
	if err != nil {
		err = fmt.Errorf("hand pod %s to ztunnel: %w", at, err)
		a.setReason(at, err.Error())
		return err
	}
	a.mu.Lock()
	at.acked = true
	a.mu.Unlock()
	a.log.Info("pod enrolled", zap.Stringer("pod", at), zap.String("uid", at.rec.UID))
	return nil
}

// release takes the pod out of the mesh: its rules, then ztunnel's part. The
// caller holds at.
func (a *Agent) release(ctx context.Context, at *attachment, reason string) error {
	if err := redirect.Remove(at.ns); err != nil {
		a.setReason(at, err.Error())
		return fmt.Errorf("take the rules of pod %s away: %w", at, err)
	}
	a.retract(ctx, at, reason)
	return nil
}

// retract notes that a captured pod is so no more, and tells ztunnel. The caller
// holds at.
func (a *Agent) retract(ctx context.Context, at *attachment, reason string) {
	if !at.rec.Captured {
		return
	}
	a.mu.Lock()
	at.rec.Captured, at.acked = false, false
	at.rec.Redirect = redirect.Config{}
	a.mu.Unlock()
	a.log.Info("pod released", zap.Stringer("pod", at), zap.String("uid", at.rec.UID), zap.String("why", reason))
	if err := a.ztunnel.Del(ctx, at.rec.UID); err != nil {
		// The message is on its way; a ztunnel that is lost learns it from its next
		// snapshot.
		a.log.Warn("ztunnel did not confirm that a pod is gone", zap.Stringer("pod", at), zap.Error(err))
	}
}

// forget releases the pod as far as that can be done, and lets go of it. The
// caller holds at.
func (a *Agent) forget(ctx context.Context, at *attachment, reason string) {
	if at.gone {
		return
	}
	if err := redirect.Remove(at.ns); err != nil {
		a.log.Warn("the rules of a pod that goes cannot be taken away", zap.Stringer("pod", at), zap.Error(err))
	}
	a.retract(ctx, at, reason)
	a.mu.Lock()
	at.gone = true
	if a.attachments[at.rec.Key] == at {
		delete(a.attachments, at.rec.Key)
	}
	a.mu.Unlock()
	if err := at.ns.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		a.log.Warn("close a namespace", zap.Stringer("pod", at), zap.Error(err))
	}
}
