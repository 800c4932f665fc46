package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/ambit-mesh/ambit/cni/event"
	"github.com/ambit-mesh/ambit/cni/redirect"
	"go.uber.org/zap"
)

// stray is a pod that should be in the mesh and whose namespace is not known. The
// goroutine that compares owns it, but for what Agent.mu guards.
type stray struct {
	pod    Pod
	since  time.Time // when it was first looked for in vain
	fence  fence     // guarded by Agent.mu
	reason string    // guarded by Agent.mu
}

// adoptAll looks for the pods of the node that run and that no call of the runtime
// has told us of: they started before the mesh came.
func (a *Agent) adoptAll(ctx context.Context, pods []Pod) {
	a.mu.Lock()
	known := map[string]bool{}
	for _, at := range a.attachments {
		known[at.rec.UID] = true
	}
	a.mu.Unlock()
	strays := map[string]bool{}
	for _, p := range pods {
		wanted, _ := decide(p, a.cfg.ExcludeNamespaces)
		switch {
		case a.cfg.Node != "" && p.Node != "" && p.Node != a.cfg.Node, p.HostNetwork, p.Terminal:
			continue
		case known[p.UID]:
			continue
		case len(p.IPs) == 0: // it starts, and the runtime will call
			continue
		case !wanted && p.Annotations[MarkAnnotation] == "":
			continue
		}
		if wanted {
			strays[p.UID] = true
		}
		a.adoptOne(ctx, p, wanted)
	}
	a.mu.Lock()
	dropped := false
	for uid := range a.strays {
		if !strays[uid] {
			delete(a.strays, uid)
			dropped = true
		}
	}
	a.mu.Unlock()
	if dropped {
		a.syncNode()
	}
}

// errNoRuntime says that there is nobody to ask where a pod lives.
var errNoRuntime = errors.New("the pod has started before the agent, and there is no container runtime to ask where it lives")

// adoptOne takes on a pod that runs.
func (a *Agent) adoptOne(ctx context.Context, p Pod, wanted bool) {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.AnswerTimeout)
	defer cancel()
	at, err := a.adopt(ctx, p)
	if err != nil {
		if wanted && ctx.Err() == nil {
			a.strayed(p, err)
		}
		return
	}
	defer at.unlock()
	links := a.fenceLeft(at.ns)
	a.mu.Lock()
	if s := a.strays[p.UID]; s != nil {
		links = append(links, s.fence.links...)
		delete(a.strays, p.UID)
	}
	if !at.fence.up() {
		at.fence.links = links // it is found, and not in the mesh yet
	}
	a.mu.Unlock()
	a.syncNode()
	a.complain(at, a.settle(ctx, at, p, false))
}

// adopt finds the namespace of a pod that runs, by the runtime's word, and checks
// it as it would be checked at the start. The caller holds what it returns.
func (a *Agent) adopt(ctx context.Context, p Pod) (*attachment, error) {
	if a.runtime == nil {
		return nil, errNoRuntime
	}
	s, err := a.runtime.Sandbox(ctx, p.runtimeUID())
	if err != nil {
		return nil, err
	}
	req := event.Add{Netns: s.Netns, PodName: p.Name, PodNamespace: p.Namespace, PodUID: p.runtimeUID(), ContainerID: s.ID, IfName: adoptedIfName}
	for _, addr := range p.IPs {
		req.IPs = append(req.IPs, ipConfig(addr))
	}
	at, err := a.attach(ctx, req, p)
	if err != nil {
		return nil, err
	}
	// Rules of ours may be there from before a state file was lost.
	if text, err := redirect.Read(at.ns); err == nil && text != "" {
		a.mu.Lock()
		at.rec.Captured = true
		a.mu.Unlock()
	}
	a.log.Info("a pod that runs is known now", zap.Stringer("pod", at), zap.String("uid", p.UID), zap.Stringer("netns", at.ns))
	return at, nil
}

// adoptedIfName is the interface of a pod's own network. Source: k8s.io/kubernetes
// and the container runtimes, which call it so.
const adoptedIfName = "eth0"

// ipConfig is an address as a plugin would give it.
func ipConfig(addr netip.Addr) event.IPConfig {
	return event.IPConfig{Address: net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())}}
}

// strayed notes that a pod cannot be found, and fences it when that has been so
// for too long.
func (a *Agent) strayed(p Pod, why error) {
	a.mu.Lock()
	s := a.strays[p.UID]
	if s == nil {
		s = &stray{since: time.Now()}
		a.strays[p.UID] = s
	}
	first := s.reason == ""
	s.pod, s.reason = p, why.Error()
	open := p.NamespaceLabels[openLabel] == openValue
	lower := open && s.fence.up()
	if lower {
		s.fence = fence{}
	}
	up, due := s.fence.up(), time.Since(s.since) >= a.cfg.FenceAfter
	a.mu.Unlock()
	name := p.Namespace + "/" + p.Name
	if first { // as each pod that ends is, between its sandbox's end and the watch's word
		a.log.Info("a pod belongs to the mesh, but cannot be found on the node; it is fenced if that lasts", zap.String("pod", name), zap.String("uid", p.UID), zap.Error(why))
	}
	if lower {
		a.syncNode()
	}
	if open || up || !due && !first {
		return
	}
	links, err := a.linksTo(p)
	if !due {
		links = slices.DeleteFunc(links, func(link string) bool { return !a.isLeft(link) })
		if len(links) == 0 {
			return
		}
	}
	if len(links) == 0 {
		s.since = time.Now() // say so again only then
		a.log.Error("a pod that belongs to the mesh is outside of it, and cannot be fenced", zap.String("pod", name), zap.NamedError("why", why), zap.NamedError("fence", err))
		a.report.Event(p.UID, p.Namespace, p.Name, "NotInMesh", fmt.Sprintf("the pod belongs to the mesh and is outside of it, in plaintext: %v", why))
		return
	}
	a.mu.Lock()
	s.fence = fence{links: links}
	a.mu.Unlock()
	a.log.Error("a pod that belongs to the mesh cannot be taken in, and is fenced", zap.String("pod", name), zap.Strings("links", links), zap.Error(why))
	a.report.Event(p.UID, p.Namespace, p.Name, "Fenced", fencedText(why))
	a.syncNode()
}

// linksTo returns the interfaces of the node that lead to the addresses of a pod
// alone, and why there is none to some of them.
func (a *Agent) linksTo(p Pod) (links []string, err error) {
	for _, addr := range p.IPs {
		link, why := redirect.LinkTo(a.node, addr)
		if why != nil {
			err = errors.Join(err, why)
			continue
		}
		links = append(links, link)
	}
	return links, err
}
