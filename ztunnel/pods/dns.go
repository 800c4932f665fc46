package pods

import (
	"context"
	"errors"
	"net"
	"net/netip"

	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/telemetry"
	"github.com/ambit-mesh/ambit/ztunnel/capture"
	"github.com/ambit-mesh/ambit/ztunnel/dns"
)

// DNS says how pods' DNS questions are answered.
type DNS struct {
	dns.Config
	// Port is where they are redirected to. Zero means 15053.
	Port uint16
	// Fallback lists whom to ask when it is not known whom the pod has asked.
	// Required.
	Fallback func() ([]netip.AddrPort, error)
	// Metrics count questions. Required.
	Metrics *telemetry.DNSMetrics
}

// dnsPort is where the rules of the ambient ecosystem send DNS questions.
const dnsPort = 15053

// dnsSockets are where the DNS questions of a pod arrive: over IPv4, and over
// IPv6 where its loopback has that.
type dnsSockets struct {
	udp []*netns.PacketSocket
	tcp []*net.TCPListener
}

// close closes what is open.
func (s *dnsSockets) close() error {
	var errs []error
	for _, u := range s.udp {
		errs = append(errs, u.Close())
	}
	for _, t := range s.tcp {
		errs = append(errs, t.Close())
	}
	return errors.Join(errs...)
}

// listenDNS opens the sockets for the questions of a pod, all or none.
func (m *Manager) listenDNS(ctx context.Context, ns *netns.NS) (s dnsSockets, err error) {
	if m.cfg.DNS == nil {
		return dnsSockets{}, nil
	}
	loopbacks := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	if v6, err := ns.HasAddr(netip.IPv6Loopback()); err != nil {
		return dnsSockets{}, err
	} else if v6 && !m.cfg.IPv4Only {
		loopbacks = append(loopbacks, netip.IPv6Loopback())
	}
	for _, lo := range loopbacks {
		at := netip.AddrPortFrom(lo, m.cfg.DNS.Port)
		udp, err := ns.ListenPacket(ctx, at, m.cfg.Sockets)
		if err != nil {
			return dnsSockets{}, errors.Join(err, s.close())
		}
		s.udp = append(s.udp, udp)
		network := "tcp4"
		if lo.Is6() {
			network = "tcp6"
		}
		tcp, err := ns.Listen(ctx, network, at, m.cfg.Sockets)
		if err != nil {
			return dnsSockets{}, errors.Join(err, s.close())
		}
		s.tcp = append(s.tcp, tcp)
	}
	return s, nil
}

// serveDNS starts the loops that answer the questions of x.
func (m *Manager) serveDNS(polite, life context.Context, x *proxy, s dnsSockets) {
	if len(s.udp) == 0 {
		return
	}
	server := dns.New(m.cfg.DNS.Config, dns.Pod{
		Subject: x.subject, Asked: x.ns.OriginalPacketDst, Dial: x.dialResolver,
	}, dns.Deps{
		Log: m.deps.Log.Named("dns"), State: m.deps.State, Metrics: m.cfg.DNS.Metrics, Acked: m.deps.Acked,
		Budget: m.questions, Fallback: m.cfg.DNS.Fallback,
	})
	for _, sock := range s.udp {
		x.tasks.Go(polite, "dns-udp", func(polite context.Context) { x.ended(server.ServeUDP(polite, life, sock)) })
	}
	trace := m.captureTrace(x)(telemetry.Outbound)
	for _, ln := range s.tcp {
		x.tasks.Go(polite, "dns-tcp", func(polite context.Context) {
			x.ended(capture.NewListener(ln, trace).Serve(polite, life, "dns-tcp", func(life context.Context, c *capture.Conn) {
				server.ServeTCP(life, c.TCP, c.Target)
			}))
		})
	}
}

// dialResolver connects from the pod to a resolver.
func (x *proxy) dialResolver(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	if network == "udp" {
		return x.ns.DialPacket(to, x.sockets)
	}
	return x.dialOut(ctx, to)
}
