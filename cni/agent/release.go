package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/ambit-mesh/ambit/cni/redirect"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/netns"
	"go.uber.org/zap"
)

// Ports of the proxy in a pod.
const (
	portOutbound = 15001
	portInbound  = 15006
	portTunnel   = 15008
	portDNS      = 15053
)

// letGo takes the pod out of the mesh without harm to what runs: first nothing
// new is captured, and the mark goes; peers that have not heard of it yet still
// find its proxy. When that time is over and no connection is left that the proxy
// carries, the rest of the rules goes, and ztunnel is told. The caller holds at.
func (a *Agent) letGo(ctx context.Context, at *attachment, reason string) error {
	if err := a.lower(at); err != nil {
		return err
	}
	if !at.rec.Captured {
		return a.retractOffer(ctx, at, reason)
	}
	if at.rec.serving() {
		cfg := at.rec.Redirect
		cfg.Releasing = true
		if err := a.apply(at, cfg); err != nil {
			a.setReason(at, err.Error())
			return fmt.Errorf("take the rules of pod %s away: %w", at, err)
		}
		a.mu.Lock()
		at.rec.Redirect, at.healthy = cfg, false
		a.mu.Unlock()
		a.log.Info("pod is let go", zap.Stringer("pod", at), zap.String("uid", at.rec.UID), zap.String("why", reason))
	}
	a.mu.Lock()
	if at.released.IsZero() { // also after a restart
		at.released = time.Now()
	}
	since := time.Since(at.released)
	a.mu.Unlock()
	if since < a.cfg.ReleaseLinger || since < a.cfg.ReleaseTimeout && a.carries(at) {
		return nil
	}
	return a.release(ctx, at, reason)
}

// carries says whether the proxy still carries connections of the pod: those that
// were redirected to it, and those that it made to the application with the
// address of somebody else.
func (a *Agent) carries(at *attachment) bool {
	sockets, err := at.ns.Sockets(netns.SocketEstablished, netns.SocketCloseWait)
	if err != nil {
		return true // until it is known, or the time is over
	}
	own, err := at.ns.Addrs()
	if err != nil {
		return true
	}
	local := map[string]bool{"127.0.0.1": true, "::1": true}
	for _, addr := range own {
		local[addr.String()] = true
	}
	for _, s := range sockets {
		if port := s.Local.Port(); port == portOutbound || port == portInbound || !local[s.Local.Addr().String()] {
			return true
		}
	}
	return false
}

// retractOffer tells ztunnel that a pod which it was offered does not come. The
// caller holds at.
func (a *Agent) retractOffer(ctx context.Context, at *attachment, reason string) error {
	if !a.isAcked(at) {
		return nil
	}
	a.mu.Lock()
	at.acked, at.healthy = false, false
	a.mu.Unlock()
	if err := a.ztunnel.Del(ctx, at.rec.UID); err != nil {
		a.log.Warn("ztunnel did not confirm that a pod is gone", zap.Stringer("pod", at), zap.String("why", reason), zap.Error(err))
	}
	return nil
}

// release takes the last rules of the pod away, and tells ztunnel. The caller
// holds at.
func (a *Agent) release(ctx context.Context, at *attachment, reason string) error {
	a.forgetDNS(at)
	if err := redirect.Remove(at.ns); err != nil {
		a.setReason(at, err.Error())
		return fmt.Errorf("take the rules of pod %s away: %w", at, err)
	}
	a.retract(ctx, at, reason)
	return nil
}

// forgetDNS has the questions of a pod that is let go pass by the proxy, also those from
// ports that have asked before.
func (a *Agent) forgetDNS(at *attachment) {
	if !at.rec.Redirect.DNS {
		return
	}
	if err := redirect.ForgetDNS(at.ns); err != nil {
		a.log.Warn("names that the pod asks for within the next minutes may not be answered", zap.Stringer("pod", at), zap.Error(err))
	}
}

// retract notes that a captured pod is so no more, and tells ztunnel. The caller
// holds at.
func (a *Agent) retract(ctx context.Context, at *attachment, reason string) {
	if !at.rec.Captured {
		return
	}
	a.mu.Lock()
	at.rec.Captured, at.acked, at.healthy = false, false, false
	at.rec.Redirect, at.released = redirect.Config{}, time.Time{}
	a.mu.Unlock()
	a.log.Info("pod released", zap.Stringer("pod", at), zap.String("uid", at.rec.UID), zap.String("why", reason))
	if err := a.ztunnel.Del(ctx, at.rec.UID); err != nil {
		// The message is on its way; a ztunnel that is lost learns it from its next
		// snapshot.
		a.log.Warn("ztunnel did not confirm that a pod is gone", zap.Stringer("pod", at), zap.Error(err))
	}
}

// leaveTimeout bounds how long an agent whose mesh leaves the node waits for
// connections to end: a part of the time that a kubelet gives it.
const leaveTimeout = 20 * time.Second

// end is what happens when the agent was asked to stop: nothing, unless the mesh
// leaves the node for good.
func (a *Agent) end(ctx context.Context) {
	ctx = context.WithoutCancel(ctx) // it has ended; what follows is bounded by itself
	if a.leaving == nil || !a.leaving(ctx) {
		return
	}
	a.mu.Lock()
	all := make([]*attachment, 0, len(a.attachments))
	for _, at := range a.attachments {
		all = append(all, at)
	}
	a.mu.Unlock()
	a.log.Info("the mesh leaves this node: pods are released", zap.Int("pods", len(all)))
	if err := errors.Join(redirect.SetFences(a.node, nil), redirect.SetProbes(a.node, nil)); err != nil {
		a.log.Error("the rules of the node cannot be taken away", zap.Error(err))
	}
	for _, at := range all {
		a.startLeaving(at)
	}
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	for wait := a.cfg.ReleaseLinger; lifecycle.Sleep(ctx, wait) == nil && slices.ContainsFunc(all, a.carries); {
		wait = 200 * time.Millisecond
	}
	for _, at := range all {
		a.forgetDNS(at)
		if err := redirect.Remove(at.ns); err != nil {
			a.log.Error("the rules of a pod cannot be taken away", zap.Stringer("pod", at), zap.Error(err))
		}
	}
	if err := os.Remove(a.cfg.StateFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.log.Warn("the state file is left", zap.Error(err))
	}
}

// startLeaving has nothing new of the pod captured.
func (a *Agent) startLeaving(at *attachment) {
	var err error
	if at.rec.serving() {
		cfg := at.rec.Redirect
		cfg.Releasing = true
		_, err = redirect.Reconcile(at.ns, cfg)
	}
	if at.rec.FencedInside {
		err = errors.Join(err, redirect.OpenInside(at.ns))
	}
	if err != nil {
		a.log.Error("the rules of a pod cannot be taken away", zap.Stringer("pod", at), zap.Error(err))
	}
	if at.rec.Captured || at.mark != Unmarked {
		a.report.Mark(at.rec.UID, at.rec.Namespace, at.rec.Name, Unmarked)
	}
}
