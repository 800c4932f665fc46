package agent

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/ambit-mesh/ambit/cni/event"
	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/zds"
	"go.uber.org/zap"
)

// restore finds the pods that the agent before us has enrolled. One whose
// namespace is not what it was is gone.
func (a *Agent) restore() error {
	records, err := readState(a.cfg.StateFile)
	if err != nil {
		return err
	}
	for _, rec := range records {
		ns, err := a.reopen(rec)
		if err != nil {
			if !isGone(err) {
				return fmt.Errorf("pod %v of state file %s: %w", rec, a.cfg.StateFile, err)
			}
			a.log.Info("a pod has ended meanwhile", zap.Stringer("pod", rec), zap.Error(err))
			continue
		}
		at := newAttachment(ns, rec)
		at.wanted, at.reason = rec.serving(), "remembered from before the agent's restart"
		at.fence = fence{links: a.fenceLeft(ns), inside: rec.FencedInside}
		at.unlock()
		a.mu.Lock()
		a.attachments[rec.Key] = at
		a.mu.Unlock()
	}
	if len(records) > 0 {
		a.log.Info("pods remembered", zap.Int("pods", len(a.attachments)), zap.Int("ended", len(records)-len(a.attachments)))
	}
	return nil
}

// reopen opens the namespace of a pod that is remembered. Errors for which
// isGone does not hold say nothing about the pod, which goes on: to forget it
// would cut it off.
func (a *Agent) reopen(rec record) (*netns.NS, error) {
	ns, err := a.open(rec.Netns)
	if err != nil {
		return nil, err
	}
	switch {
	case slices.Contains(a.host, ns.ID()):
		err = fmt.Errorf("%s is the node's own network namespace", rec.Netns)
	case ns.ID() != rec.NetnsID:
		err = errReplaced
	default:
		return ns, nil
	}
	ns.Close()
	return nil, err
}

// save writes the state file.
func (a *Agent) save() error {
	a.saving.Lock()
	defer a.saving.Unlock()
	a.mu.Lock()
	records := make([]record, 0, len(a.attachments))
	for _, at := range a.attachments {
		records = append(records, at.rec)
	}
	a.mu.Unlock()
	slices.SortFunc(records, func(x, y record) int {
		return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name), cmp.Compare(x.UID, y.UID))
	})
	return writeState(a.cfg.StateFile, records)
}

// saveLater is save where nobody waits for it: the next one may do better.
func (a *Agent) saveLater() {
	if err := a.save(); err != nil {
		a.log.Error("the state file cannot be written; a restart will not know all pods", zap.Error(err))
	}
}

// snapshot is what a ztunnel starts with: the pods whose traffic is captured.
func (a *Agent) snapshot() []zds.Pod {
	a.mu.Lock()
	defer a.mu.Unlock()
	var pods []zds.Pod
	for _, at := range a.attachments {
		if at.rec.Captured {
			pods = append(pods, at.rec.pod(at.ns))
		}
	}
	return pods
}

// setAcked notes what a ztunnel said of a pod of its snapshot.
func (a *Agent) setAcked(pod zds.Pod, acked bool, reason string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, at := range a.attachments {
		if at.rec.UID != pod.UID || at.ns != pod.NS {
			continue
		}
		at.acked = acked && at.rec.Captured
		if !acked {
			at.healthy, at.reason = false, reason
		}
	}
}

// isAcked says whether ztunnel has taken the pod.
func (a *Agent) isAcked(at *attachment) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return at.acked
}

// setReason notes why the pod is not what it should be.
func (a *Agent) setReason(at *attachment, reason string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	at.reason = reason
}

// Pods lists what the agent knows, in the order of names.
func (a *Agent) Pods() []event.Pod {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := make([]event.Pod, 0, len(a.attachments))
	for _, at := range a.attachments {
		all = append(all, at.describeLocked())
	}
	slices.SortFunc(all, func(x, y event.Pod) int {
		return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name), cmp.Compare(x.UID, y.UID))
	})
	return all
}
