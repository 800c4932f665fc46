package agent

import (
	"context"
	"fmt"
	"slices"

	"github.com/ambit-mesh/ambit/cni/event"
	"github.com/ambit-mesh/ambit/cni/redirect"
	"go.uber.org/zap"
)

// Del forgets a pod whose sandbox ends. It does not fail: nothing may keep a pod
// from ending, and what it leaves goes with its namespace.
func (a *Agent) Del(ctx context.Context, req event.Del) {
	at := a.find(event.Attachment{ContainerID: req.ContainerID, IfName: req.IfName})
	if at == nil {
		a.cleanStranger(req)
		return
	}
	if err := at.lock(ctx); err != nil {
		a.log.Warn("a pod ends while another request about it is under way; it is forgotten later", zap.Stringer("pod", at), zap.Error(err))
		return
	}
	defer at.unlock()
	a.forget(ctx, at, "its sandbox ends")
	a.saveLater()
}

// find returns the attachment under key, or nil.
func (a *Agent) find(key event.Attachment) *attachment {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.attachments[key]
}

// cleanStranger takes rules of ours out of a namespace that the agent has
// forgotten, unless it is a pod's that it knows.
func (a *Agent) cleanStranger(req event.Del) {
	if req.Netns == "" {
		return
	}
	ns, err := a.open(req.Netns)
	if err != nil {
		return // it is gone, and its rules with it
	}
	defer ns.Close()
	a.mu.Lock()
	known := slices.Contains(a.host, ns.ID())
	for _, at := range a.attachments {
		known = known || at.rec.NetnsID == ns.ID()
	}
	a.mu.Unlock()
	if known {
		return
	}
	if err := redirect.Remove(ns); err != nil {
		a.log.Warn("clean a namespace that ends", zap.String("netns", req.Netns), zap.Error(err))
	}
}

// GC forgets the attachments of a network that the runtime does not list.
func (a *Agent) GC(ctx context.Context, req event.GC) error {
	var stale []*attachment
	a.mu.Lock()
	for key, at := range a.attachments {
		if at.rec.Network == req.Network && key.IfName != "" && !slices.Contains(req.Valid, key) {
			stale = append(stale, at)
		}
	}
	a.mu.Unlock()
	for _, at := range stale {
		if err := at.lock(ctx); err != nil {
			return fmt.Errorf("another request about pod %s is under way: %w", at, err)
		}
		a.forget(ctx, at, "the runtime does not know its sandbox any more")
		at.unlock()
	}
	return a.save()
}

// Check says what is wrong with a pod.
func (a *Agent) Check(ctx context.Context, req event.Add) error {
	if slices.Contains(a.cfg.ExcludeNamespaces, req.PodNamespace) {
		return nil
	}
	at := a.find(event.Attachment{ContainerID: req.ContainerID, IfName: req.IfName})
	if at == nil {
		return a.checkUnknown(ctx, req)
	}
	if err := at.lock(ctx); err != nil {
		return fmt.Errorf("another request about pod %s is under way: %w", at, err)
	}
	defer at.unlock()
	if err := a.sameNamespace(at.rec, req.Netns); err != nil {
		return err
	}
	a.mu.Lock()
	rec, state, reason := at.rec, at.stateLocked(), at.reason
	a.mu.Unlock()
	switch state {
	case event.Failed, event.Pending, event.Fenced:
		return fmt.Errorf("pod %s belongs to the mesh and is %s: %s", at, state, reason)
	case event.Outside, event.Releasing:
		return nil
	}
	if err := redirect.Verify(at.ns, rec.Redirect); err != nil {
		a.wake() // and mend it
		return fmt.Errorf("pod %s: %w", at, err)
	}
	return nil
}

// checkUnknown is Check of a pod that was not added here.
func (a *Agent) checkUnknown(ctx context.Context, req event.Add) error {
	p, found, err := a.pods.Lookup(ctx, req.PodNamespace, req.PodName)
	if err != nil {
		return err
	}
	if !found || p.HostNetwork {
		return nil
	}
	if wanted, reason := decide(p, a.cfg.ExcludeNamespaces); wanted {
		return fmt.Errorf("pod %s/%s belongs to the mesh (%s), but the agent has no record of its sandbox %s: delete the pod so that it starts again",
			req.PodNamespace, req.PodName, reason, req.ContainerID)
	}
	return nil
}
