package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"time"

	"github.com/ambit-mesh/ambit/internal/netns"
	"go.uber.org/zap"
)

// unsettledEvery is how often pods are looked at that are not as they should be,
// or are on their way.
const unsettledEvery = time.Second

// compareLoop compares all pods with what they should be: at once when something
// has changed, and every now and then. Between, it looks after those that are
// unsettled.
func (a *Agent) compareLoop(ctx context.Context) error {
	tick := time.NewTicker(a.cfg.RepairEvery)
	defer tick.Stop()
	soon := time.NewTicker(min(unsettledEvery, a.cfg.RepairEvery))
	defer soon.Stop()
	for {
		select {
		case <-a.kick:
			a.compareSource(ctx, a.all.Swap(false))
		case <-tick.C:
			a.forgetNode()
			a.compareAll(ctx)
		case <-soon.C:
			if !a.compareUnsettled(ctx) {
				continue
			}
		case <-ctx.Done():
			return nil
		}
		a.saveLater()
	}
}

// compareAll compares one pod after the other, after those have been found that
// were not known.
func (a *Agent) compareAll(ctx context.Context) { a.compareSource(ctx, true) }

// compareSource compares all pods, or those alone of which the source says
// something new or which are unsettled: on a node pods come and go all the time.
func (a *Agent) compareSource(ctx context.Context, everyone bool) {
	if a.answers() != nil {
		return // there is nothing to compare with yet; what stands, stands
	}
	pods, err := a.pods.List(ctx)
	if err == nil {
		a.adoptAll(ctx, pods)
	} else if ctx.Err() == nil {
		a.log.Warn("the pods of this node cannot be listed", zap.Error(err))
	}
	now := map[string]Pod{}
	for _, p := range pods {
		now[p.UID] = p
	}
	a.compareEach(ctx, func(at *attachment) bool {
		p, found := now[at.rec.UID]
		return everyone || !found || at.seen == nil || !reflect.DeepEqual(*at.seen, p) || at.unsettledLocked()
	})
	a.mu.Lock()
	a.compared = a.compared || err == nil
	a.mu.Unlock()
	a.syncNode()
}

// compareUnsettled compares those pods that are not as they should be, or are on
// their way, and says whether there were any.
func (a *Agent) compareUnsettled(ctx context.Context) bool {
	a.mu.Lock()
	strays := len(a.strays) > 0
	a.mu.Unlock()
	if strays {
		a.compareSource(ctx, false)
		return true
	}
	return a.compareEach(ctx, (*attachment).unsettledLocked)
}

// unsettledLocked says whether the pod is not as it should be, or on its way. The
// caller holds Agent.mu.
func (a *attachment) unsettledLocked() bool {
	return !a.since.IsZero() || !a.released.IsZero() || a.fence.up() || a.rec.serving() && !a.healthy
}

// compareEach compares those pods for which which holds, asked under mu, and says
// whether there were any.
func (a *Agent) compareEach(ctx context.Context, which func(*attachment) bool) bool {
	a.mu.Lock()
	all := make([]*attachment, 0, len(a.attachments))
	for _, at := range a.attachments {
		if which(at) {
			all = append(all, at)
		}
	}
	a.mu.Unlock()
	for _, at := range all {
		// No pod holds the others up for longer than a request may take.
		ctx, cancel := context.WithTimeout(ctx, a.cfg.AnswerTimeout)
		if at.lock(ctx) == nil {
			a.complain(at, a.compare(ctx, at))
			at.unlock()
		}
		cancel()
	}
	return len(all) > 0
}

// complain logs why a pod is not as it should be, once per reason, and when it is
// again. The caller holds at.
func (a *Agent) complain(at *attachment, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	switch before := at.complaint; {
	case text == before:
	case text == "":
		a.log.Info("a pod is as it should be again", zap.Stringer("pod", at))
	default:
		a.log.Error("a pod is not as it should be", zap.Stringer("pod", at), zap.Error(err))
	}
	at.complaint = text
}

// compare makes one pod what it should be. The caller holds at.
func (a *Agent) compare(ctx context.Context, at *attachment) error {
	if at.gone {
		return nil
	}
	if err := a.sameNamespace(at.rec, at.rec.Netns); err != nil {
		if !isGone(err) {
			return err
		}
		a.forget(ctx, at, "its network namespace is gone")
		return nil
	}
	p, found, err := a.lookup(ctx, at)
	if err != nil { // it stays what it was
		err = fmt.Errorf("look the pod up: %w", err)
		if at.rec.Captured {
			err = errors.Join(err, a.apply(at, at.rec.Redirect))
		}
		if at.rec.serving() {
			err = errors.Join(err, a.offerNow(ctx, at), a.inspect(ctx, at))
		}
		return err
	}
	if !found || p.UID != at.rec.UID || p.Terminal {
		a.strand(ctx, at)
		return nil
	}
	return a.settle(ctx, at, p, false)
}

// lookup finds the pod of at. One that the source has not heard of since the pod
// came is asked for anew: the news of its beginning may still be on the way, which
// is not that it is gone. The caller holds at.
func (a *Agent) lookup(ctx context.Context, at *attachment) (Pod, bool, error) {
	p, found, err := a.pods.Lookup(ctx, at.rec.Namespace, at.rec.Name)
	if err != nil {
		return p, found, err
	}
	if found && p.UID == at.rec.UID {
		at.heard = true
	}
	if at.heard {
		return p, found, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookupPatience)
	defer cancel()
	return a.pods.Fetch(ctx, at.rec.Namespace, at.rec.Name)
}

// strand takes a pod that has ended, or is not known any more, out of the mesh and
// leaves its rules where they are: what runs in its sandbox until the runtime
// ends it (a pod that was deleted by force, a node that was cut off) has no
// identity any more, and must neither be reached nor call past the mesh's
// policies. The rules go with the sandbox. The caller holds at.
func (a *Agent) strand(ctx context.Context, at *attachment) {
	const reason = "it has ended, or is not known any more"
	a.mu.Lock()
	at.wanted, at.reason, at.since, at.seen = false, reason, time.Time{}, nil
	a.mu.Unlock()
	a.retract(ctx, at, reason)
}

// markAgain is after how long a mark is reported again that the source does not
// show: it takes its way through the cluster first.
const markAgain = 10 * time.Second

// markAs has the pod marked, unless it is. The caller holds at.
func (a *Agent) markAs(at *attachment, p Pod, want Mark) {
	shown, has := p.Annotations[MarkAnnotation]
	same := Mark(shown) == want && (has || want == Unmarked)
	reported := !at.marked.IsZero() && at.mark == want
	switch {
	case same && (reported || at.marked.IsZero()):
		return
	case !same && reported && time.Since(at.marked) < markAgain:
		return
	}
	at.mark, at.marked = want, time.Now()
	a.report.Mark(at.rec.UID, at.rec.Namespace, at.rec.Name, want)
}

// errReplaced says that another namespace is where the pod's was.
var errReplaced = errors.New("another network namespace has taken its place")

// sameNamespace checks that path still leads to the namespace of rec.
func (a *Agent) sameNamespace(rec record, path string) error {
	ns, err := a.open(path)
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
