package workload

import "net/netip"

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
	best, bestRank, total := []*Endpoint(nil), -1, uint64(0)
	for _, ep := range set.all() {
		if !candidate(svc, ep, o, target, known) {
			continue
		}
		rank, fits := svc.Balancing.rank(o.Source, ep.Workload)
		if !fits || rank < bestRank {
			continue
		}
		if rank > bestRank {
			best, bestRank, total = best[:0], rank, 0
		}
		best = append(best, ep)
		total += uint64(ep.Workload.Capacity)
	}
	if total == 0 {
		return nil, 0, false
	}
	ep := weighted(best, o.Rand(total))
	port, ok = endpointPort(ep, o.Port, target)
	if !ok {
		return nil, 0, false
	}
	return ep.Workload, port, true
}

// candidate reports whether ep could serve at all.
func candidate(svc *Service, ep *Endpoint, o PickOptions, target uint16, known bool) bool {
	w := ep.Workload
	if !svc.uses(w) || (o.Exclude != nil && o.Exclude(w.UID)) {
		return false
	}
	if len(w.Addresses) == 0 && w.Hostname == "" {
		// Only a gateway leads there, and never one to our own network.
		if w.NetworkGateway == nil || w.Network == o.Source.Network {
			return false
		}
	}
	if o.Waypoint {
		return known || w.AppTunnel != nil
	}
	return target != 0 || ep.Ports[o.Port] != 0
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

// rank says how near w is to src: how many scopes match before the first that
// does not. When the first scope is the network, a mismatch of it does not end
// the count and a match outweighs all others. fits is false when the mode
// demands more than w has.
func (b Balancing) rank(src, w *Workload) (rank int, fits bool) {
	if b.Mode != ModeStrict && b.Mode != ModeFailover {
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

// weighted returns the endpoint in whose share n falls. n is below the sum of
// the capacities.
func weighted(list []*Endpoint, n uint64) *Endpoint {
	for _, ep := range list {
		if c := uint64(ep.Workload.Capacity); n < c {
			return ep
		} else {
			n -= c
		}
	}
	return list[len(list)-1]
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
