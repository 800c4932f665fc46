package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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
// two looks, and each fetchEach of them asks anew: a source may hear of nothing for
// a minute after its cluster was away, and pods start meanwhile.
const (
	lookupPatience = time.Second
	lookupEvery    = 20 * time.Millisecond
	fetchEach      = 5
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
	if wanted, _ := decide(p, a.cfg.ExcludeNamespaces); !wanted {
		p = a.confirm(ctx, p)
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
		a.syncNode()
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
	for try := 1; ; try++ {
		look := a.pods.Lookup
		if try%fetchEach == 0 {
			look = a.pods.Fetch
		}
		p, found, err := look(ctx, req.PodNamespace, req.PodName)
		switch {
		case ctx.Err() != nil: // what the look before found is what counts
		case err != nil:
			why = err
		case !found:
			why = fmt.Errorf("it is not known to the agent after %v, which so cannot tell whether it belongs to the mesh", lookupPatience)
		case req.PodUID != "" && req.PodUID != p.runtimeUID():
			why = fmt.Errorf("it is known with uid %s, the runtime starts %s", p.runtimeUID(), req.PodUID)
		default:
			return p, nil
		}
		if lifecycle.Sleep(ctx, lookupEvery) != nil {
			return Pod{}, fmt.Errorf("pod %s/%s: %w", req.PodNamespace, req.PodName, why)
		}
	}
}

// confirm reads a pod anew that does not belong to the mesh by what the source knows:
// its namespace may have got the label a moment ago, and the news of that come later
// than that of the pod. What cannot be read in time stays as it is known.
func (a *Agent) confirm(ctx context.Context, p Pod) Pod {
	ctx, cancel := context.WithTimeout(ctx, lookupPatience)
	defer cancel()
	now, found, err := a.pods.Fetch(ctx, p.Namespace, p.Name)
	if err != nil || !found || now.UID != p.UID {
		return p
	}
	return now
}

// attach opens the namespace of a pod, checks that it is the pod's, and returns
// its attachment, which the caller holds.
func (a *Agent) attach(ctx context.Context, req event.Add, p Pod) (*attachment, error) {
	ns, err := a.open(req.Netns)
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

// open opens the namespace at a path of the node.
func (a *Agent) open(path string) (*netns.NS, error) {
	here, err := a.cfg.HostRoot.Resolve(path)
	if err != nil {
		return nil, err
	}
	return netns.Open(here)
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
	at.wanted, at.reason, at.open, at.seen = wanted, reason, p.NamespaceLabels[openLabel] == openValue, &p
	a.mu.Unlock()
	if !wanted {
		err := a.letGo(ctx, at, reason)
		a.settled(at, nil)
		a.markAs(at, p, Unmarked)
		return err
	}
	err := a.takeIn(ctx, at, p, reason, starting)
	if err != nil {
		a.setReason(at, err.Error())
	}
	a.settled(at, err)
	switch {
	case err == nil:
		a.markAs(at, p, Marked)
	case at.rec.serving() && p.Annotations[MarkAnnotation] != string(Marked):
		// One that is marked already stays so: without the mark its peers would send
		// plaintext.
		a.markAs(at, p, Waiting)
	}
	return err
}

// takeIn has the pod captured and served. One that runs is offered to ztunnel
// before its traffic is captured, so that no connection finds nobody; in one that
// starts nothing calls yet, and rules come first. The caller holds at.
func (a *Agent) takeIn(ctx context.Context, at *attachment, p Pod, reason string, starting bool) error {
	if !starting && !at.rec.serving() {
		if err := a.offerNow(ctx, at); err != nil {
			return err
		}
	}
	if err := a.capture(at, p, reason); err != nil {
		return err
	}
	offer := a.offerNow
	if starting {
		offer = a.offerOnce
	}
	if err := offer(ctx, at); err != nil {
		return err
	}
	return a.inspect(ctx, at)
}

// errNoZtunnel says that nobody can serve pods now.
var errNoZtunnel = errors.New("no ztunnel is connected on this node")

// offerNow is offerOnce, and does not wait for a ztunnel to connect. The caller
// holds at.
func (a *Agent) offerNow(ctx context.Context, at *attachment) error {
	if !a.isAcked(at) && !a.ztunnel.Connected() {
		return errNoZtunnel
	}
	return a.offerOnce(ctx, at)
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
	fresh := !at.rec.serving()
	if fresh {
		if err := redirect.Prepare(at.ns); err != nil {
			a.log.Warn("not all settings could be made in a pod", zap.Stringer("pod", at), zap.Error(err))
		}
	}
	if err := a.applyBest(at, &cfg); err != nil {
		return fmt.Errorf("rules of pod %s: %w", at, err)
	}
	a.mu.Lock()
	at.rec.Captured, at.rec.Redirect, at.released = true, cfg, time.Time{}
	a.mu.Unlock()
	if fresh {
		a.log.Info("pod captured", zap.Stringer("pod", at), zap.String("uid", at.rec.UID), zap.Stringer("netns", at.ns), zap.String("why", reason))
	}
	return nil
}

// applyBest is apply with rules that see sockets, and without them on a kernel
// that has none. It notes in cfg what was written.
func (a *Agent) applyBest(at *attachment, cfg *redirect.Config) error {
	a.mu.Lock()
	cfg.RefuseClosed = !a.plain
	a.mu.Unlock()
	err := a.apply(at, *cfg)
	if err == nil || !cfg.RefuseClosed || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	cfg.RefuseClosed = false
	if again := a.apply(at, *cfg); again != nil {
		return again
	}
	a.mu.Lock()
	a.plain = true
	a.mu.Unlock()
	a.log.Warn("this kernel has no rules that see sockets (nft_socket): TCP probes of pods in the mesh succeed though their application is not up", zap.Error(err))
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

// offerOnce hands the pod to ztunnel, unless it has taken it, and waits until it
// listens. The caller holds at.
func (a *Agent) offerOnce(ctx context.Context, at *attachment) error {
	if a.isAcked(at) {
		return nil
	}
	if err := a.ztunnel.Add(ctx, at.rec.pod(at.ns)); err != nil {
		return fmt.Errorf("hand pod %s to ztunnel: %w", at, err)
	}
	a.mu.Lock()
	at.acked = true
	a.mu.Unlock()
	a.log.Info("pod handed to ztunnel", zap.Stringer("pod", at), zap.String("uid", at.rec.UID))
	return nil
}

// forget releases the pod as far as that can be done, and lets go of it. The
// caller holds at.
func (a *Agent) forget(ctx context.Context, at *attachment, reason string) {
	if at.gone {
		return
	}
	if err := errors.Join(redirect.Remove(at.ns), a.lower(at)); err != nil {
		a.log.Warn("the rules of a pod that goes cannot be taken away", zap.Stringer("pod", at), zap.Error(err))
	}
	a.retract(ctx, at, reason)
	a.mu.Lock()
	at.gone = true
	if a.attachments[at.rec.Key] == at {
		delete(a.attachments, at.rec.Key)
	}
	a.mu.Unlock()
	a.syncNode()
	if err := at.ns.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		a.log.Warn("close a namespace", zap.Stringer("pod", at), zap.Error(err))
	}
}
