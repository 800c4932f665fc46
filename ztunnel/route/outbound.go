package route

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/ambit-mesh/ambit/internal/hbone"
	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/workload"
)

// Mode says how a connection travels.
type Mode uint8

const (
	Direct Mode = iota // plain TCP
	Tunnel             // a stream in an HBONE tunnel
)

// String returns the word for logs.
func (m Mode) String() string {
	if m == Tunnel {
		return "tunnel"
	}
	return "direct"
}

// Plan is where a connection goes next.
type Plan struct {
	Mode Mode
	// Hop is where to open a TCP connection. Its address is invalid when Host is
	// set.
	Hop netip.AddrPort
	// Host is the DNS name of which Hop has to be found; "" when it is known.
	Host string
	// Authority is what to ask for in the tunnel; zero when Mode is Direct.
	Authority hbone.Authority
	// Accept are the identities that may answer at Hop; none when Mode is Direct.
	Accept []identity.ID
	// Destination is the workload at Hop, or nil when it is not known.
	Destination *workload.Workload
	// Service is what the application called, or nil when it called an address
	// that is no service.
	Service *workload.Service
	// Waypoint is true when Hop is a waypoint and not the destination itself.
	Waypoint bool
}

// Options are what Resolve needs besides the picture.
type Options struct {
	// Network of this node, in which the application's addresses are looked up.
	Network string
	// Rand returns a number from 0 to n-1; n is never 0.
	Rand func(n uint64) uint64
	// Exclude leaves out endpoints by workload UID, those tried before. May be
	// nil.
	Exclude func(uid string) bool
	// SourceIP is the address that the connection comes from. Zero means that
	// any address of the source will do.
	SourceIP netip.Addr
	// Now is when it is.
	Now time.Time
}

// Reason says which rule refused.
type Reason uint8

const (
	ReasonSelfCall        Reason = iota + 1 // a loop into our own ports
	ReasonUnknownWaypoint                   // the waypoint is not there
	ReasonNoUpstream                        // the service has no endpoint to use
	ReasonNoDestination                     // the endpoint cannot be called
	ReasonUnsupported                       // known, and beyond this proxy
)

// String returns the word for logs and metrics.
func (r Reason) String() string {
	switch r {
	case ReasonSelfCall:
		return "self call"
	case ReasonUnknownWaypoint:
		return "unknown waypoint"
	case ReasonNoUpstream:
		return "no healthy upstream"
	case ReasonNoDestination:
		return "no valid destination"
	case ReasonUnsupported:
		return "unsupported"
	}
	return "unknown"
}

// Error is why a connection has nowhere to go.
type Error struct {
	Reason Reason
	Text   string // what, with its names
	Hint   string // what to try; may be empty

	// MayPass is true when endpoints are there and none of them is healthy: they may
	// be so again with the next change of the picture.
	MayPass bool
}

// Error returns reason and text.
func (e *Error) Error() string { return e.Reason.String() + ": " + e.Text }

// illegalPorts are ports of ztunnel inside a pod. To go there would be a loop.
var illegalPorts = []uint16{15001, 15006, workload.HBONEPort}

// IllegalPort reports whether a connection to that port of a pod would come back
// to this proxy.
func IllegalPort(port uint16) bool { return slices.Contains(illegalPorts, port) }

// Resolve decides where a connection of src to dst goes. The error is an
// [*Error].
//
// In order: a loop is refused; a service with a waypoint goes there; a service
// goes to one of its endpoints, or nowhere; a workload goes through its
// waypoint, unless src is that waypoint; then to the workload, by tunnel if it
// has one. What is not known goes where the application wanted.
func Resolve(snap *workload.Snapshot, src *workload.Workload, dst netip.AddrPort, o Options) (Plan, error) {
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	if dst.Addr().IsLoopback() && IllegalPort(dst.Port()) {
		return Plan{}, &Error{Reason: ReasonSelfCall, Text: fmt.Sprintf("%v is a port of the proxy itself", dst)}
	}
	r := resolver{snap: snap, src: src, dst: dst, o: o}

	_, called := snap.LookupAddr(o.Network, dst.Addr(), src.Namespace)
	if called != nil {
		if gw := workload.PickWaypoint(called, o.Rand); gw != nil {
			return r.toWaypoint(*gw, called)
		}
	}
	up, found := r.upstream()
	switch {
	case found:
	case called != nil && called.Balancing.Mode != workload.ModePassthrough:
		return Plan{}, &Error{
			Reason: ReasonNoUpstream,
			Text:   fmt.Sprintf("service %v has no endpoint for port %d", called.Key, dst.Port()),
			Hint:   "is a pod behind it Ready, and does the Service list that port?",

			MayPass: snap.Serves(called, dst.Port()),
		}
	case snap.LookupGone(o.Network, dst.Addr(), o.Now):
		return Plan{}, &Error{
			Reason: ReasonNoDestination,
			Text:   fmt.Sprintf("%v was the address of a workload of the mesh that is gone", dst.Addr()),
			Hint:   "nothing is sent there in the clear: another workload may have the address next; has the client kept an old answer of DNS?",
		}
	default:
		return Plan{Mode: Direct, Hop: dst}, nil
	}
	if err := r.checkNetwork(up.workload); err != nil {
		return Plan{}, err
	}
	if gw := up.workload.Waypoint; gw != nil && called == nil && !r.fromWaypoint(*gw) {
		return r.toWaypoint(*gw, up.service)
	}
	return r.toWorkload(up)
}

// resolver holds the inputs of one Resolve.
type resolver struct {
	snap *workload.Snapshot
	src  *workload.Workload
	dst  netip.AddrPort // unmapped
	o    Options
}

// upstream is who will answer: a workload and the port to call there.
type upstream struct {
	workload *workload.Workload
	port     uint16
	service  *workload.Service // nil when called by its own address
}

// upstream finds who has the address: a service before a workload.
func (r resolver) upstream() (up upstream, found bool) {
	if svc := r.snap.LookupService(r.src.Network, r.dst.Addr(), r.src.Namespace); svc != nil {
		if svc.Balancing.Mode == workload.ModePassthrough {
			return upstream{}, false
		}
		return r.pick(svc, r.dst.Port(), false)
	}
	if w := r.snap.LookupWorkload(r.src.Network, r.dst.Addr()); w != nil {
		return upstream{workload: w, port: r.dst.Port()}, true
	}
	return upstream{}, false
}

// pick chooses an endpoint of svc, one that can be reached if there is any.
func (r resolver) pick(svc *workload.Service, port uint16, waypoint bool) (up upstream, found bool) {
	o := workload.PickOptions{
		Source: r.src, Port: port, Waypoint: waypoint, Rand: r.o.Rand,
		Exclude: func(uid string) bool {
			w := r.snap.Workload(uid)
			return w.Network != r.src.Network || (r.o.Exclude != nil && r.o.Exclude(uid))
		},
	}
	w, target, ok := r.snap.Pick(svc, o)
	if !ok {
		o.Exclude = r.o.Exclude
		w, target, ok = r.snap.Pick(svc, o)
	}
	return upstream{workload: w, port: target, service: svc}, ok
}

// checkNetwork refuses what only a network gateway could reach.
func (r resolver) checkNetwork(w *workload.Workload) error {
	if w.Network == r.src.Network {
		return nil
	}
	return &Error{
		Reason: ReasonUnsupported,
		Text: fmt.Sprintf("%s is on network %q and the source on %q: multi-network (HBONE through an east-west gateway) is not supported",
			describe(w), w.Network, r.src.Network),
		Hint: "run an endpoint of the service on this network",
	}
}

// toWaypoint plans the way through a waypoint: the application's destination is
// asked for there.
func (r resolver) toWaypoint(gw workload.Gateway, called *workload.Service) (Plan, error) {
	up, found := r.waypoint(gw)
	if !found {
		return Plan{}, &Error{
			Reason: ReasonUnknownWaypoint,
			Text:   fmt.Sprintf("waypoint %v of %v is not known or has no healthy endpoint", gw, r.dst),
			Hint:   "is the waypoint's Gateway programmed and its pod Ready? Traffic does not go around it; the label istio.io/use-waypoint: none does without",
		}
	}
	if err := r.checkNetwork(up.workload); err != nil {
		return Plan{}, err
	}
	ip, err := r.address(up)
	if err != nil {
		return Plan{}, err
	}
	return Plan{
		Mode:        Tunnel,
		Hop:         netip.AddrPortFrom(ip, up.port),
		Authority:   hbone.AuthorityFrom(r.dst),
		Accept:      accepted(up),
		Destination: up.workload,
		Service:     called,
		Waypoint:    true,
	}, nil
}

// waypoint finds who serves as the waypoint.
func (r resolver) waypoint(gw workload.Gateway) (up upstream, found bool) {
	w, svc := r.snap.LookupGateway(gw)
	switch {
	case svc != nil:
		return r.pick(svc, gw.Port, true)
	case w != nil:
		return upstream{workload: w, port: gw.Port}, true
	}
	return upstream{}, false
}

// fromWaypoint reports whether the source is the waypoint itself: an instance of
// it with the identity and an address of the source. Its traffic has been
// through the waypoint already.
func (r resolver) fromWaypoint(gw workload.Gateway) bool {
	isSource := func(w *workload.Workload) bool {
		if w.Identity.IsZero() || w.Identity != r.src.Identity {
			return false
		}
		if r.o.SourceIP.IsValid() {
			return w.HasAddress(r.o.SourceIP.Unmap())
		}
		return slices.ContainsFunc(r.src.Addresses, w.HasAddress)
	}
	w, svc := r.snap.LookupGateway(gw)
	if svc == nil {
		return w != nil && isSource(w)
	}
	return slices.ContainsFunc(r.snap.Endpoints(svc), func(ep *workload.Endpoint) bool { return isSource(ep.Workload) })
}

// toWorkload plans the way to the workload itself.
func (r resolver) toWorkload(up upstream) (Plan, error) {
	if host := up.workload.Hostname; host != "" && len(up.workload.Addresses) == 0 && up.workload.Protocol != workload.ProtocolHBONE {
		return Plan{Mode: Direct, Host: host, Hop: netip.AddrPortFrom(netip.Addr{}, up.port), Destination: up.workload, Service: up.service}, nil
	}
	ip, err := r.address(up)
	if err != nil {
		return Plan{}, err
	}
	app := netip.AddrPortFrom(ip, up.port)
	if up.workload.Protocol != workload.ProtocolHBONE {
		return Plan{Mode: Direct, Hop: app, Destination: up.workload, Service: up.service}, nil
	}
	return Plan{
		Mode:        Tunnel,
		Hop:         netip.AddrPortFrom(ip, workload.HBONEPort),
		Authority:   hbone.AuthorityFrom(app),
		Accept:      accepted(up),
		Destination: up.workload,
		Service:     up.service,
	}, nil
}

// address picks the address at which to call.
func (r resolver) address(up upstream) (netip.Addr, error) {
	families := workload.FamiliesAny
	if up.service != nil {
		families = up.service.Families
	}
	if ip, ok := workload.PickAddr(up.workload, r.dst.Addr(), families); ok {
		return ip, nil
	}
	if up.workload.Hostname != "" && len(up.workload.Addresses) == 0 {
		return netip.Addr{}, &Error{
			Reason: ReasonUnsupported,
			Text:   fmt.Sprintf("%s is known by the DNS name %q only, and tunnels need an address", describe(up.workload), up.workload.Hostname),
			Hint:   "give the endpoint an IP address",
		}
	}
	return netip.Addr{}, &Error{
		Reason: ReasonNoDestination,
		Text:   fmt.Sprintf("%s has no address of a family that the service uses", describe(up.workload)),
	}
}

// accepted lists who may answer: those that the service names, and the workload.
func accepted(up upstream) []identity.ID {
	var out []identity.ID
	if up.service != nil {
		out = append(out, up.service.SANs...)
	}
	if id := up.workload.Identity; !id.IsZero() && !slices.Contains(out, id) {
		out = append(out, id)
	}
	return out
}

// describe names a workload for people.
func describe(w *workload.Workload) string {
	return fmt.Sprintf("workload %s/%s (%s)", w.Namespace, w.Name, w.UID)
}
