package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/ambit-mesh/ambit/internal/netns"
	"go.uber.org/zap"
)

// compareLoop compares all pods with what they should be: at once when something
// has changed, their rules too every now and then.
func (a *Agent) compareLoop(ctx context.Context) error {
	tick := time.NewTicker(a.cfg.RepairEvery)
	defer tick.Stop()
	for {
		select {
		case <-a.kick:
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		a.compareAll(ctx)
		a.saveLater()
	}
}

// compareAll compares one pod after the other.
func (a *Agent) compareAll(ctx context.Context) {
	a.mu.Lock()
	all := make([]*attachment, 0, len(a.attachments))
	for _, at := range a.attachments {
		all = append(all, at)
	}
	a.mu.Unlock()
	for _, at := range all {
		// No pod holds the others up for longer than a request may take.
		ctx, cancel := context.WithTimeout(ctx, a.cfg.AnswerTimeout)
		if at.lock(ctx) == nil {
			if err := a.compare(ctx, at); err != nil {
				a.log.Error("a pod is not as it should be", zap.Stringer("pod", at), zap.Error(err))
			}
			at.unlock()
		}
		cancel()
	}
}

// compare makes one pod what it should be. The caller holds at.
func (a *Agent) compare(ctx context.Context, at *attachment) error {
	if at.gone {
		return nil
	}
	if err := sameNamespace(at.rec, at.rec.Netns); err != nil {
		if !isGone(err) {
			return err
		}
		a.forget(ctx, at, "its network namespace is gone")
		return nil
	}
	p, found, err := a.pods.Lookup(ctx, at.rec.Namespace, at.rec.Name)
	if err != nil { // it stays what it was
		err = fmt.Errorf("look the pod up: %w", err)
		if at.rec.Captured {
			err = errors.Join(err, a.apply(at, at.rec.Redirect))
		}
		return err
	}
	if !found || p.UID != at.rec.UID || p.Terminal {
		a.fence(ctx, at)
		return nil
	}
	return a.settle(ctx, at, p, false)
}

// fence takes a pod that has ended, or is not known any more, out of the mesh and
// leaves its rules where they are: what runs in its sandbox until the runtime
// ends it (a pod that was deleted by force, a node that was cut off) has no
// identity any more, and must neither be reached nor call past the mesh's
// policies. The rules go with the sandbox. The caller holds at.
func (a *Agent) fence(ctx context.Context, at *attachment) {
	const reason = "it has ended, or is not known any more"
	a.mu.Lock()
	at.wanted, at.reason = false, reason
	a.mu.Unlock()
	a.retract(ctx, at, reason)
}

// errReplaced says that another namespace is where the pod's was.
var errReplaced = errors.New("another network namespace has taken its place")

// sameNamespace checks that path still leads to the namespace of rec.
func sameNamespace(rec record, path string) error {
	ns, err := netns.Open(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	if ns.ID() != rec.NetnsID {
		return fmt.Errorf("%s is %v, pod %s was added with %v: %w", path, ns.ID(), rec, rec.NetnsID, errReplaced)
	}
	return nil
}

// isGone says whether err of sameNamespace means that the namespace has left its
// place, and not that the place could not be looked at.
func isGone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, netns.ErrNotNamespace) || errors.Is(err, errReplaced)
}
