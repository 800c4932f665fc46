package workload

import (
	"net/netip"
	"slices"
)

// PickOptions say what an endpoint is wanted for.
type PickOptions struct {
	Source *Workload // who calls
	Port   uint16    // the service port that was asked for
	// Waypoint is set when the endpoint is to serve as a waypoint: the port then
	// need not be one of the service if the endpoint has an application tunnel.
	Waypoint bool
	// Rand returns a number from 0 to n-1; n is never 0.
	Rand func(n uint64) uint64
	// Exclude leaves out endpoints by UID, those already tried. May be nil.
	Exclude func(uid string) bool
	// Unranked makes what the service prefers count for nothing, because somebody else
	// prefers. What it demands counts all the same.
	Unranked bool
}

// Pick chooses an endpoint of svc and the port to call there. ok is false when
// none will do.
//
// Candidates are endpoints that the health policy allows, that can be reached
// and that serve the port. Of them the mode of the service selects, and chance
// decides, weighted by capacity.
func (s *Snapshot) Pick(svc *Service, o PickOptions) (w *Workload, port uint16, ok bool) {
	set, _ := s.workloads.endpoints.get(svc.Key)
	target, known := svc.Ports[o.Port]
	if !known && !o.Waypoint {
		return nil, 0, false
	}
	c := chooser{svc: svc, o: o, target: target, known: known}
	ep := c.draw(set)
	if ep == nil {
		ep = c.scan(set.all())
	}
	if ep == nil {
		return nil, 0, false
	}
	port, ok = endpointPort(ep, o.Port, target)
	if !ok {
		return nil, 0, false
	}
	return ep.Workload, port, true
}

// Candidates calls fn for each endpoint of which Pick would choose one, and with the
// port to call there.
func (s *Snapshot) Candidates(svc *Service, o PickOptions, fn func(w *Workload, port uint16)) {
	target, known := svc.Ports[o.Port]
	if !known && !o.Waypoint {
		return
	}
	set, _ := s.workloads.endpoints.get(svc.Key)
	c := chooser{svc: svc, o: o, target: target, known: known}
	best := -1
	for _, ep := range set.all() {
		if rank, ok := c.rank(ep); ok {
			best = max(best, rank)
		}
	}
	for _, ep := range set.all() {
		if rank, ok := c.rank(ep); !ok || rank != best || ep.Workload.Capacity == 0 {
			continue
		}
		if port, ok := endpointPort(ep, o.Port, target); ok {
			fn(ep.Workload, port)
		}
	}
}

// Serves reports whether svc has an endpoint for a service port, be it healthy or
// not.
func (s *Snapshot) Serves(svc *Service, port uint16) bool {
	set, _ := s.workloads.endpoints.get(svc.Key)
	target, known := svc.Ports[port]
	return known && slices.ContainsFunc(set.all(), func(ep *Endpoint) bool { return target != 0 || ep.Ports[port] != 0 })
}

// chooser holds what one Pick goes by.
type chooser struct {
	svc    *Service
	o      PickOptions
	target uint16 // what the service says of the port; 0: named
	known  bool   // the service has the port
}

const (
	// manyEndpoints is from how many on drawing is tried before scanning: our
	// choice. Measured: BenchmarkPick, 3 us to scan 100 and 300 us to scan 10,000.
	manyEndpoints = 64
	// draws is how often it is tried: our choice. When half of the endpoints will
	// do, scanning remains necessary once in 256 times.
	draws = 8
)

// draw takes endpoints by chance until one will do, which makes the same choice
// as weighing all that will do. It returns nil when it had no luck, and for
// services that are small or rank their endpoints.
func (c *chooser) draw(set *endpointSet) *Endpoint {
	if len(set.all()) < manyEndpoints || c.ranks() {
		return nil
	}
	for range draws {
		if ep := set.draw(c.o.Rand); ep != nil && c.candidate(ep) {
			return ep
		}
	}
	return nil
}

// scan weighs all endpoints of the best rank. It walks the list twice and keeps
// nothing.
func (c *chooser) scan(list []*Endpoint) *Endpoint {
	bestRank, total := -1, uint64(0)
	for _, ep := range list {
		rank, ok := c.rank(ep)
		if !ok || rank < bestRank {
			continue
		}
		if rank > bestRank {
			bestRank, total = rank, 0
		}
		total += uint64(ep.Workload.Capacity)
	}
	if total == 0 {
		return nil
	}
	n := c.o.Rand(total)
	for _, ep := range list {
		if rank, ok := c.rank(ep); !ok || rank != bestRank {
			continue
		}
		share := uint64(ep.Workload.Capacity)
		if n < share {
			return ep
		}
		n -= share
	}
	return nil // Rand broke its promise
}

// ranks reports whether some endpoints are better than others.
func (c *chooser) ranks() bool {
	return c.svc.Balancing.ranks() && !(c.o.Unranked && c.svc.Balancing.Mode == ModeFailover)
}

// rank says how good a candidate ep is; ok is false when it is none.
func (c *chooser) rank(ep *Endpoint) (rank int, ok bool) {
	if !c.candidate(ep) {
		return 0, false
	}
	if !c.ranks() {
		return 0, true
	}
	return c.svc.Balancing.rank(c.o.Source, ep.Workload)
}

// candidate reports whether ep could serve at all.
func (c *chooser) candidate(ep *Endpoint) bool {
	w := ep.Workload
	if !c.svc.uses(w) || (c.o.Exclude != nil && c.o.Exclude(w.UID)) {
		return false
	}
	if len(w.Addresses) == 0 && w.Hostname == "" {
		// Only a gateway leads there, and never one to our own network.
		if w.NetworkGateway == nil || w.Network == c.o.Source.Network {
			return false
		}
	}
	if c.o.Waypoint {
		return c.known || w.AppTunnel != nil
	}
	return c.target != 0 || ep.Ports[c.o.Port] != 0
}

// endpointPort maps a service port: the endpoint's own mapping counts first,
// then that of the service; with a port of an application tunnel none is needed.
func endpointPort(ep *Endpoint, port, target uint16) (uint16, bool) {
	if own := ep.Ports[port]; own != 0 {
		return own, true
	}
	if target != 0 {
		return target, true
	}
	if t := ep.Workload.AppTunnel; t != nil && t.Port != 0 {
		return port, true
	}
	return 0, false
}

// ranks reports whether some endpoints are better than others.
func (b Balancing) ranks() bool { return b.Mode == ModeStrict || b.Mode == ModeFailover }

// rank says how near w is to src: how many scopes match before the first that
// does not. When the first scope is the network, a mismatch of it does not end
// the count and a match outweighs all others. fits is false when the mode
// demands more than w has.
func (b Balancing) rank(src, w *Workload) (rank int, fits bool) {
	if !b.ranks() {
		return 0, true
	}
	networkFirst := len(b.Scopes) > 0 && b.Scopes[0] == ScopeNetwork
	bonus := 0
	for _, scope := range b.Scopes {
		same := scope.same(src, w)
		if scope == ScopeNetwork && networkFirst {
			if !same {
				continue
			}
			bonus = len(b.Scopes) - 1
		}
		if !same {
			break
		}
		rank++
	}
	if b.Mode == ModeStrict && rank != len(b.Scopes) {
		return 0, false
	}
	return rank + bonus, true
}

// same reports whether a and b are in one place of that scope.
func (s Scope) same(a, b *Workload) bool {
	switch s {
	case ScopeRegion:
		return a.Locality.Region == b.Locality.Region
	case ScopeZone:
		return a.Locality.Zone == b.Locality.Zone
	case ScopeSubzone:
		return a.Locality.Subzone == b.Locality.Subzone
	case ScopeNode:
		return a.Node == b.Node
	case ScopeCluster:
		return a.ClusterID == b.ClusterID
	case ScopeNetwork:
		return a.Network == b.Network
	}
	return false
}

// PickWaypoint chooses the waypoint of svc for one connection: a share of the
// weighted ones, else the single one. It is nil when svc has none.
func PickWaypoint(svc *Service, rand func(n uint64) uint64) *Gateway {
	var total uint64
	for _, g := range svc.Weighted {
		total += uint64(g.Weight)
	}
	if total == 0 {
		return svc.Waypoint
	}
	n := rand(total)
	for i := range svc.Weighted {
		if w := uint64(svc.Weighted[i].Weight); n < w {
			return &svc.Weighted[i].Gateway
		} else {
			n -= w
		}
	}
	return svc.Waypoint
}

// PickAddr chooses the address at which to call w for a connection to want: want
// itself if w has it; else one that families allow, of the family of want if
// there is one. ok is false when w has none.
func PickAddr(w *Workload, want netip.Addr, families Families) (_ netip.Addr, ok bool) {
	want = want.Unmap()
	if w.HasAddress(want) {
		return want, true
	}
	var pick netip.Addr
	for _, a := range w.Addresses {
		if !families.Accept(a) {
			continue
		}
		if a.Is4() == want.Is4() {
			return a, true
		}
		if !pick.IsValid() {
			pick = a
		}
	}
	return pick, pick.IsValid()
}
