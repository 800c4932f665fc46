package route

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"

	"github.com/ambit-mesh/ambit/internal/hbone"
	"github.com/ambit-mesh/ambit/internal/workload"
)

// Target is where a stream that came through a tunnel ends.
type Target struct {
	// Dial is the application: always an address of the connection that the
	// stream came on, never one that the peer chose. Policy is asked about it.
	Dial netip.AddrPort
	// Loopback, when valid, is where to dial instead, from a loopback address:
	// the application takes a PROXY header and need not be reachable otherwise.
	Loopback netip.AddrPort
	// Proxy, when valid, is the destination to write into a PROXY header before
	// the first byte.
	Proxy netip.AddrPort
	// Services are those that the stream may have been meant for, by key.
	Services []*workload.Service
}

// InboundError is why a stream is refused before policy is asked.
type InboundError struct {
	Status int    // to answer: 400 or 503
	Text   string // what, with its names
}

// Error returns the text.
func (e *InboundError) Error() string { return e.Text }

// badRequest is for what the peer must not ask.
func badRequest(format string, args ...any) error {
	return &InboundError{Status: http.StatusBadRequest, Text: fmt.Sprintf(format, args...)}
}

// unavailable is for what cannot be served.
func unavailable(format string, args ...any) error {
	return &InboundError{Status: http.StatusServiceUnavailable, Text: fmt.Sprintf(format, args...)}
}

// ResolveInbound decides where a stream to authority a goes that arrived at the
// address local of the pod own. The error is an [*InboundError].
//
// An address as authority must be local itself, unless the pod has an
// application tunnel (it reads the destination from the PROXY header) or is the
// waypoint of what has that address. A host name is a service of the picture,
// and says which port.
func ResolveInbound(snap *workload.Snapshot, own *workload.Workload, local netip.AddrPort, a hbone.Authority) (Target, error) {
	if own == nil {
		return Target{}, unavailable("the pod at %v is not known", local.Addr())
	}
	ip := local.Addr().Unmap()
	asked, byAddr := a.AddrPort()
	if byAddr && asked.Addr() != ip && own.AppTunnel == nil && !isWaypointOf(snap, own, ip, asked.Addr()) {
		return Target{}, badRequest("authority %v is not the address %v of the connection", a, ip)
	}
	t := Target{}
	port := a.Port()
	if byAddr {
		t.Services = snap.ServicesOf(own)
	} else {
		svc, target, err := byHost(snap, own, a)
		if err != nil {
			return Target{}, err
		}
		t.Services, port = []*workload.Service{svc}, target
	}
	if IllegalPort(port) {
		return Target{}, unavailable("%v would be a call of the proxy itself", netip.AddrPortFrom(ip, port))
	}
	t.Dial = netip.AddrPortFrom(ip, port)
	if own.AppTunnel == nil {
		return t, nil
	}
	return throughAppTunnel(t, own, a)
}

// byHost finds the service of a host name and the port it has at this pod.
func byHost(snap *workload.Snapshot, own *workload.Workload, a hbone.Authority) (*workload.Service, uint16, error) {
	host, ok := a.Host()
	if !ok {
		return nil, 0, badRequest("no authority")
	}
	svc := snap.LookupHost(host, own.Namespace)
	if svc == nil {
		return nil, 0, unavailable("no service has the host name %q", host)
	}
	if ep := snap.Endpoint(svc, own.UID); ep != nil {
		if port := ep.Ports[a.Port()]; port != 0 {
			return svc, port, nil
		}
	}
	if port := svc.Ports[a.Port()]; port != 0 {
		return svc, port, nil
	}
	return nil, 0, unavailable("service %v does not say which port of the pod serves its port %d", svc.Key, a.Port())
}

// throughAppTunnel applies what the pod's application tunnel asks for.
func throughAppTunnel(t Target, own *workload.Workload, a hbone.Authority) (Target, error) {
	if p := own.AppTunnel.Port; p != 0 {
		t.Dial = netip.AddrPortFrom(t.Dial.Addr(), p)
	}
	if !own.AppTunnel.Proxy {
		return t, nil
	}
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if t.Dial.Addr().Is6() {
		loopback = netip.IPv6Loopback()
	}
	t.Loopback = netip.AddrPortFrom(loopback, t.Dial.Port())
	if asked, ok := a.AddrPort(); ok {
		t.Proxy = asked
		return t, nil
	}
	vip, ok := proxyVIP(t.Services[0], own.Network)
	if !ok {
		return Target{}, unavailable("service %v has no address to put into a PROXY header", t.Services[0].Key)
	}
	t.Proxy = netip.AddrPortFrom(vip, a.Port())
	return t, nil
}

// proxyVIP chooses an address of svc: of our network first, then IPv4 first.
func proxyVIP(svc *workload.Service, network string) (netip.Addr, bool) {
	best, bestRank := netip.Addr{}, -1
	for _, v := range svc.VIPs {
		if !v.Prefix.IsSingleIP() {
			continue
		}
		rank := 0
		if v.Network == network {
			rank = 1
			if v.Prefix.Addr().Is4() {
				rank = 2
			}
		}
		if rank > bestRank {
			best, bestRank = v.Prefix.Addr(), rank
		}
	}
	return best, bestRank >= 0
}

// isWaypointOf reports whether what has the address asked is served by the
// waypoint own, reached at its address local.
func isWaypointOf(snap *workload.Snapshot, own *workload.Workload, local, asked netip.Addr) bool {
	w, svc := snap.LookupAddr(own.Network, asked, "")
	var gateways []workload.Gateway
	switch {
	case w != nil && w.Waypoint != nil:
		gateways = append(gateways, *w.Waypoint)
	case svc != nil:
		if svc.Waypoint != nil {
			gateways = append(gateways, *svc.Waypoint)
		}
		for _, share := range svc.Weighted {
			gateways = append(gateways, share.Gateway)
		}
	}
	return slices.ContainsFunc(gateways, func(g workload.Gateway) bool {
		w, svc := snap.LookupGateway(g)
		if svc != nil {
			return snap.Endpoint(svc, own.UID) != nil
		}
		return w != nil && w.HasAddress(local)
	})
}

// GuessService says which service a stream was meant for: the one whose host
// name the peer forwarded, if own is a member of it; else the first with a port
// that leads to where the stream goes. It is nil when there is none. For records
// only.
func GuessService(snap *workload.Snapshot, own *workload.Workload, t Target, forwardedHost string) *workload.Service {
	for _, svc := range t.Services {
		if forwardedHost != "" && svc.Hostname == forwardedHost {
			return svc
		}
	}
	for _, svc := range t.Services {
		ep := snap.Endpoint(svc, own.UID)
		for from, to := range svc.Ports {
			if to == t.Dial.Port() || (ep != nil && ep.Ports[from] == t.Dial.Port()) {
				return svc
			}
		}
	}
	return nil
}
