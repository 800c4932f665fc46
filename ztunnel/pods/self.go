package pods

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"go.uber.org/zap"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/internal/zds"
	"github.com/ambit-mesh/ambit/ztunnel/capture"
	"github.com/ambit-mesh/ambit/ztunnel/inbound"
)

// Self is the pod of this proxy. Scrapers that are in the mesh reach it as they
// reach every other pod: through a tunnel.
type Self struct {
	Info zds.Info
	// NS is the namespace in which the proxy stands. It belongs to the Manager
	// once it was handed over.
	NS *netns.NS
	// Ports are all that a tunnel may reach.
	Ports []uint16
}

// self is what serves a Self.
type self struct {
	Self
	pod *pod // its proxy is nil while it could not be started again
}

// ServeSelf starts to serve the pod of this proxy: tunnels in, nothing out, and
// no plaintext, which reaches its ports by itself. An error means that it is not
// served.
func (m *Manager) ServeSelf(ctx context.Context, s Self) error {
	if len(s.Ports) == 0 {
		return errors.Join(errors.New("self-inbound without a port to reach"), s.NS.Close())
	}
	served := false
	err := m.ask(ctx, func(r *run) error {
		pod := &pod{uid: "self", info: s.Info, ns: s.NS}
		x, err := m.newSelf(r, s)
		if err != nil {
			return err
		}
		pod.proxy, served = x, true
		m.self = &self{Self: s, pod: pod}
		m.publish()
		m.log.Info("our own pod is served", podFields(pod, zap.Uint16s("ports", s.Ports))...)
		return nil
	})
	if err != nil && !served {
		s.NS.Close()
	}
	return err
}

// newSelf opens the tunnel port of s and starts to serve it. After an error
// nothing is left.
func (m *Manager) newSelf(r *run, s Self) (*proxy, error) {
	// There are no rules around us: no mark, and no address but our own.
	sockets := m.cfg.Sockets
	sockets.NoMark, sockets.Transparent = true, netns.TransparentNever
	addr := netip.IPv6Unspecified()
	if m.cfg.IPv4Only {
		addr = netip.IPv4Unspecified()
	}
	ln, err := s.NS.Listen(r.polite, "tcp", netip.AddrPortFrom(addr, capture.PortHBONE), sockets)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("self-inbound: %w: stop what listens there, or unset SERVICE_ACCOUNT to do without", err)
	}
	if err != nil {
		return nil, fmt.Errorf("self-inbound: %w", err)
	}
	addrs, err := s.NS.Addrs()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("self-inbound: %w", err), ln.Close())
	}
	x := &proxy{
		subject: policy.Subject{Name: s.Info.Name, Namespace: s.Info.Namespace, ServiceAccount: s.Info.ServiceAccount},
		ns:      s.NS, addresses: reported(addrs), sockets: sockets, ownSource: true,
		tasks: new(lifecycle.Group),
	}
	m.receive(x, inbound.Pod{UID: "self", Subject: x.subject, Dial: x.dialApp, Ports: s.Ports})
	// Only once the control plane knows us there is an identity worth asking for.
	if w, ok := m.deps.State.Snapshot().LookupPod(x.subject); ok && !w.Identity.IsZero() {
		x.speakAs(m.deps.Certs, w.Identity)
	}
	polite, leave := context.WithCancel(r.polite)
	_, cut := context.WithCancelCause(r.life)
	x.leave, x.cut = leave, cut
	x.tasks.Go(polite, "self-accept", func(polite context.Context) {
		x.ended(x.server.Serve(polite, ln))
	})
	return x, nil
}

// retrySelf starts the pod of this proxy again when it has broken.
func (m *Manager) retrySelf(r *run) {
	if m.self == nil {
		return
	}
	p := m.self.pod
	if p.proxy != nil {
		err := p.proxy.broken()
		if err == nil {
			return
		}
		m.log.Error("our own pod is served anew", podFields(p, zap.Error(err))...)
		p.proxy.stop(err)
		p.proxy = nil
	}
	if p.proxy, p.err = m.newSelf(r, m.self.Self); p.err != nil {
		p.proxy = nil
		m.log.Warn("our own pod cannot be served", podFields(p, zap.Error(p.err))...)
	}
}
