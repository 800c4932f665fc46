package agent

import (
	"errors"
	"slices"
	"time"

	"github.com/ambit-mesh/ambit/cni/redirect"
	"go.uber.org/zap"
)

// fence is what keeps the traffic of a pod from passing.
type fence struct {
	links  []string // interfaces of the node that lead to the pod
	inside bool     // rules in the pod itself
}

// up says whether there is a fence.
func (f fence) up() bool { return f.inside || len(f.links) > 0 }

// settled notes whether the pod is as it should be, and fences it when it has not
// been for too long. A pod that is captured needs no fence: its traffic goes to
// the proxy or nowhere. The caller holds at.
func (a *Agent) settled(at *attachment, err error) {
	if err == nil || at.rec.serving() {
		if why := a.lower(at); why != nil {
			a.log.Error("the fence of a pod cannot be taken away", zap.Stringer("pod", at), zap.Error(why))
		}
	}
	a.mu.Lock()
	if err == nil {
		at.since = time.Time{}
	} else if at.since.IsZero() {
		at.since = time.Now()
	}
	due := err != nil && !at.rec.serving() && !at.open && !at.fence.up() && time.Since(at.since) >= a.cfg.FenceAfter
	open := err != nil && at.open && at.fence.up()
	a.mu.Unlock()
	switch {
	case open: // the label has come since
		if why := a.lower(at); why != nil {
			a.log.Error("the fence of a pod cannot be taken away", zap.Stringer("pod", at), zap.Error(why))
		}
	case due:
		a.raise(at, err)
	}
}

// raise puts a fence around the pod: on the node's side of its interface, or
// inside where there is no such side. The caller holds at.
func (a *Agent) raise(at *attachment, why error) {
	var f fence
	links, err := redirect.LinksInto(a.node, at.ns)
	if err == nil && len(links) > 0 {
		f.links = links
	} else if inside := redirect.FenceInside(at.ns); inside == nil {
		f.inside = true
	} else {
		err = errors.Join(err, inside)
	}
	if !f.up() {
		a.log.Error("a pod that belongs to the mesh is outside of it, and cannot be fenced", zap.Stringer("pod", at), zap.NamedError("why", why), zap.Error(err))
		a.report.Event(at.rec.UID, at.rec.Namespace, at.rec.Name, "NotInMesh", "the pod belongs to the mesh and is outside of it, in plaintext: "+why.Error())
		return
	}
	a.mu.Lock()
	at.fence, at.rec.FencedInside = f, f.inside
	a.mu.Unlock()
	a.log.Error("a pod that belongs to the mesh cannot be taken in, and is fenced", zap.Stringer("pod", at), zap.Strings("links", f.links), zap.Error(why))
	a.report.Event(at.rec.UID, at.rec.Namespace, at.rec.Name, "Fenced", fencedText(why))
	a.setFences()
}

// fencedText says why nothing passes to and from a pod, and what can be done.
func fencedText(why error) string {
	return "the pod belongs to the mesh but cannot be taken in, so its traffic is dropped: " + why.Error() +
		". It is tried again; the label " + openLabel + "=" + openValue + " on its namespace would let it run outside of the mesh"
}

// lower takes the fence of the pod away. The caller holds at.
func (a *Agent) lower(at *attachment) error {
	if !at.fence.up() {
		return nil
	}
	if at.fence.inside {
		if err := redirect.OpenInside(at.ns); err != nil {
			return err
		}
	}
	a.mu.Lock()
	at.fence, at.rec.FencedInside = fence{}, false
	a.mu.Unlock()
	a.log.Info("the fence of a pod is taken away", zap.Stringer("pod", at))
	a.setFences()
	return nil
}

// setFences has the node fence the interfaces of those pods that are to be, and
// no others.
func (a *Agent) setFences() {
	a.fencing.Lock()
	defer a.fencing.Unlock()
	var links []string
	a.mu.Lock()
	for _, at := range a.attachments {
		links = append(links, at.fence.links...)
	}
	for _, s := range a.strays {
		links = append(links, s.fence.links...)
	}
	a.mu.Unlock()
	slices.Sort(links)
	if err := redirect.SetFences(a.node, slices.Compact(links)); err != nil {
		a.log.Error("the fences of the node are not as they should be", zap.Strings("links", links), zap.Error(err))
	}
}
