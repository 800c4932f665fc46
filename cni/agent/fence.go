package agent

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/ambit-mesh/ambit/cni/redirect"
	"github.com/ambit-mesh/ambit/internal/netns"
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
	a.syncNode()
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
	a.syncNode()
	return nil
}

// findFences notes which interfaces the agent before us has fenced. They stay so
// until all pods have been compared: a restart must open none of them.
func (a *Agent) findFences() {
	var err error
	if a.left, err = redirect.Fences(a.node); err != nil {
		a.log.Error("the fences of the node cannot be read; pods that were fenced are open until they are fenced again", zap.Error(err))
	}
}

// isLeft says whether an interface was fenced when we began. Once all pods have been
// compared that counts for nothing: names are given again.
func (a *Agent) isLeft(link string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.compared && slices.Contains(a.left, link)
}

// fenceLeft returns those interfaces into a pod that were fenced when we began.
func (a *Agent) fenceLeft(pod *netns.NS) (links []string) {
	if len(a.left) == 0 {
		return nil
	}
	into, err := redirect.LinksInto(a.node, pod)
	if err != nil {
		a.log.Warn("whether a pod was fenced cannot be found out", zap.Stringer("netns", pod), zap.Error(err))
	}
	return slices.DeleteFunc(into, func(link string) bool { return !a.isLeft(link) })
}

// nodeRules are what the node holds for its pods. Agent.rules guards them.
type nodeRules struct {
	known  bool         // the rest is what is there
	fenced []string     // interfaces
	probed []netip.Addr // pods whose probes get a source address
}

// syncNode has the node fence the interfaces of those pods that are to be, and no
// others, and give probes of captured pods their source address, if that is how
// they pass.
func (a *Agent) syncNode() {
	a.rules.Lock()
	defer a.rules.Unlock()
	var want nodeRules
	a.mu.Lock()
	for _, at := range a.attachments {
		want.fenced = append(want.fenced, at.fence.links...)
		if at.rec.serving() {
			want.probed = append(want.probed, at.rec.IPs...)
		}
	}
	for _, s := range a.strays {
		want.fenced = append(want.fenced, s.fence.links...)
	}
	if !a.compared {
		want.fenced = append(want.fenced, a.left...)
	}
	a.mu.Unlock()
	slices.Sort(want.fenced)
	want.fenced = slices.Compact(want.fenced)
	slices.SortFunc(want.probed, netip.Addr.Compare)
	want.probed = slices.Compact(want.probed)
	if err := a.writeNode(want); err != nil {
		a.log.Error("the rules of the node are not as they should be", zap.Strings("fenced", want.fenced), zap.Error(err))
	}
}

// writeNode writes what differs from what is there. The caller holds a.rules.
func (a *Agent) writeNode(want nodeRules) error {
	have := a.onNode
	a.onNode.known = false
	if !have.known || !slices.Equal(have.fenced, want.fenced) {
		if err := redirect.SetFences(a.node, want.fenced); err != nil {
			return err
		}
	}
	probes := a.cfg.ProbeV4.IsValid() || a.cfg.ProbeV6.IsValid()
	if !have.known || probes && !slices.Equal(have.probed, want.probed) {
		if err := redirect.SetProbes(a.node, want.probed, a.cfg.ProbeV4, a.cfg.ProbeV6); err != nil {
			return err
		}
	}
	want.known = true
	a.onNode = want
	return nil
}

// forgetNode has everything on the node looked at anew.
func (a *Agent) forgetNode() {
	a.rules.Lock()
	a.onNode.known = false
	a.rules.Unlock()
}
