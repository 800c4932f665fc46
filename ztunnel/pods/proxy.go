package pods

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/ambit-mesh/ambit/internal/hbone"
	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/internal/telemetry"
	"github.com/ambit-mesh/ambit/ztunnel/capture"
	"github.com/ambit-mesh/ambit/ztunnel/inbound"
	"github.com/ambit-mesh/ambit/ztunnel/outbound"
)

// proxy is the listeners of one pod and the stages behind them.
type proxy struct {
	// Set by newProxy, then only read.
	subject   policy.Subject
	ns        *netns.NS
	addresses []netip.Addr
	sockets   netns.SocketOptions
	ownSource bool // dial the application as the pod itself
	in        *inbound.Inbound
	out       *outbound.Outbound // nil: nothing is captured
	server    *hbone.Server
	leave     context.CancelFunc      // take no more
	cut       context.CancelCauseFunc // end at once
	tasks     *lifecycle.Group

	callers callers

	// mu guards the fields below.
	mu       sync.Mutex
	failure  error // why a listener has ended by itself
	identity identity.ID
	release  func() // of identity
}

// listeners are the sockets of a pod.
type listeners struct {
	outbound, plaintext, hbone *net.TCPListener

	dns dnsSockets
}

// newProxy opens the listeners of p and starts to serve them. After an error
// nothing is left.
func (m *Manager) newProxy(r *run, p *pod) (*proxy, error) {
	ls, err := m.listen(r.polite, p.ns)
	if err != nil {
		return nil, err
	}
	addrs, err := p.ns.Addrs()
	if err != nil {
		return nil, errors.Join(err, ls.close())
	}
	if err := handOver(p.ns); err != nil {
		m.log.Debug("connections that wait at an upgrade will be lost", podFields(p, zap.Error(err))...)
	}
	x := &proxy{
		subject:   policy.Subject{Name: p.info.Name, Namespace: p.info.Namespace, ServiceAccount: p.info.ServiceAccount},
		ns:        p.ns,
		addresses: reported(addrs),
		sockets:   m.cfg.Sockets,
		ownSource: m.cfg.OwnSource,
		tasks:     new(lifecycle.Group),
	}
	x.out = outbound.New(m.cfg.Outbound, outbound.Pod{
		UID: p.uid, Subject: x.subject, Addresses: x.addresses, Dial: x.dialOut,
	}, outbound.Deps{
		Records: m.deps.Records, State: m.deps.State, Gate: m.deps.Gate, Certs: m.deps.Certs, Acked: m.deps.Acked,
		Neighbours: m, Stopping: r.polite.Done(), Hosts: m.deps.Hosts, HTrace: m.deps.HTrace,
	})
	m.receive(x, inbound.Pod{UID: p.uid, Subject: x.subject, Dial: x.dialApp})
	m.retain(x)
	m.serve(r, x, p, ls)
	return x, nil
}

// receive makes the way into pod, behind x's tunnels.
func (m *Manager) receive(x *proxy, pod inbound.Pod) {
	x.in = inbound.New(m.cfg.Inbound, pod, inbound.Deps{
		Records: m.deps.Records, State: m.deps.State, Gate: m.deps.Gate, Certs: m.deps.Certs, Acked: m.deps.Acked,
		Owners: m.deps.Owners,
	})
	server := m.cfg.Server
	server.TLS, server.Authenticate, server.Handle = x.in.TLS, x.in.Authenticate, x.in.Handle
	x.server = hbone.NewServer(server, m.deps.HTrace)
}

// serve starts the loops of x.
func (m *Manager) serve(r *run, x *proxy, p *pod, ls listeners) {
	polite, leave := context.WithCancel(r.polite)
	life, cut := context.WithCancelCause(r.life)
	x.leave, x.cut = leave, cut
	trace := m.captureTrace(x)
	x.tasks.Go(polite, "outbound-accept", func(polite context.Context) {
		x.ended(x.out.Run(polite, life, capture.NewListener(ls.outbound, trace(telemetry.Outbound))))
	})
	x.tasks.Go(polite, "plaintext-accept", func(polite context.Context) {
		ln := capture.NewListener(ls.plaintext, trace(telemetry.Inbound))
		x.ended(ln.Serve(polite, life, "plaintext", x.in.ServePlaintext))
	})
	x.tasks.Go(polite, "hbone-accept", func(polite context.Context) {
		x.ended(x.server.Serve(polite, ls.hbone))
	})
	m.serveDNS(polite, life, x, ls.dns)
	m.log.Debug("listeners are open", podFields(p)...)
}

// ended notes why a loop of x ended.
func (x *proxy) ended(err error) {
	if err == nil {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.failure = errors.Join(x.failure, err)
}

// broken returns why a loop has ended by itself; nil when all go on.
func (x *proxy) broken() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.failure
}

// drain takes no more and waits until the last connection of x has ended. What
// other pods of this node have with it over the local path is theirs to end.
func (x *proxy) drain() {
	x.leave()
	x.tasks.Wait()
}

// stop ends x at once because of cause, and returns when nothing of it is left.
func (x *proxy) stop(cause error) {
	x.cut(cause)
	x.in.Cut(cause) // first: the loss of a witness must not be what ends a local connection
	x.server.Cut(cause)
	x.drain()
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.release != nil {
		x.release()
		x.release = nil
	}
}

// listen opens the sockets in ns, or none.
func (m *Manager) listen(ctx context.Context, ns *netns.NS) (ls listeners, err error) {
	addr := netip.IPv6Unspecified()
	if m.cfg.IPv4Only {
		addr = netip.IPv4Unspecified()
	}
	for _, l := range []struct {
		port uint16
		into **net.TCPListener
	}{
		{capture.PortOutbound, &ls.outbound},
		{capture.PortPlaintext, &ls.plaintext},
		{capture.PortHBONE, &ls.hbone},
	} {
		if *l.into, err = ns.Listen(ctx, "tcp", netip.AddrPortFrom(addr, l.port), m.cfg.Sockets); err != nil {
			return listeners{}, errors.Join(m.explainListen(err), ls.close())
		}
	}
	if ls.dns, err = m.listenDNS(ctx, ns); err != nil {
		return listeners{}, errors.Join(m.explainListen(err), ls.close())
	}
	return ls, nil
}

// explainListen says what can be done about a port of the mesh that is taken.
func (m *Manager) explainListen(err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		ports := "15001, 15006 and 15008"
		if m.cfg.DNS != nil {
			ports = fmt.Sprintf("15001, 15006, 15008 and %d", m.cfg.DNS.Port)
		}
		return fmt.Errorf("listen in the pod: %w: ports %s belong to the mesh; "+
			"stop what listens there, or take the pod out of the mesh", err, ports)
	}
	return fmt.Errorf("listen in the pod: %w", err)
}

// handOver lets another proxy that listens on the same ports get what waits in
// our accept queue when we close; without it those connections are reset. It is
// the pod's own setting, of kernels since 5.14. Source: ip-sysctl,
// tcp_migrate_req.
func handOver(ns *netns.NS) error {
	return ns.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/tcp_migrate_req", []byte("1"), 0)
	})
}

// close closes what is open.
func (ls listeners) close() error {
	errs := []error{ls.dns.close()}
	for _, l := range []*net.TCPListener{ls.outbound, ls.plaintext, ls.hbone} {
		if l != nil {
			errs = append(errs, l.Close())
		}
	}
	return errors.Join(errs...)
}

// reported are the addresses by which others know the pod.
func reported(addrs []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range addrs {
		if !a.IsLoopback() && !a.IsLinkLocalUnicast() {
			out = append(out, a.Unmap())
		}
	}
	return out
}

// dialOut connects from the pod to the world.
func (x *proxy) dialOut(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error) {
	return x.ns.Dial(ctx, netns.DialOptions{Remote: to, SocketOptions: x.sockets})
}

// dialApp connects to the application of the pod, with from as source when it
// is valid. The destination must be local, or the connection would leave the
// pod in plaintext.
func (x *proxy) dialApp(ctx context.Context, from netip.Addr, to netip.AddrPort) (*net.TCPConn, error) {
	if x.ownSource {
		from = netip.Addr{}
	}
	if !from.IsValid() {
		switch local, err := x.ns.HasAddr(to.Addr()); {
		case err != nil:
			return nil, err
		case !local:
			return nil, fmt.Errorf("%v: %w", to, netns.ErrNotLocal)
		}
	}
	return x.ns.Dial(ctx, netns.DialOptions{Remote: to, Local: from, SocketOptions: x.sockets})
}

// captureTrace returns the hooks of x's listeners.
func (m *Manager) captureTrace(x *proxy) func(telemetry.Direction) capture.Trace {
	return func(d telemetry.Direction) capture.Trace {
		return capture.Trace{
			Refused: func(client, target netip.AddrPort, err error) {
				hint := "ports 15001, 15006 and 15008 of a pod belong to the mesh"
				if _, ok := errors.AsType[*capture.CrowdError](err); ok {
					hint = capture.CrowdHint
				}
				m.deps.Records.Refuse(d, client, target, &telemetry.Error{
					Stage: telemetry.StageCapture, Fault: telemetry.FaultApp, Err: err, Hint: hint,
				})
			},
			Short: func(err error, wait time.Duration) {
				m.metrics.short.Inc()
				m.log.Error("new connections wait: something has run out; raise LimitNOFILE if it is descriptors",
					zap.Stringer("pod", x.subject), zap.Stringer("direction", d), zap.Duration("wait", wait), zap.Error(err))
			},
		}
	}
}
