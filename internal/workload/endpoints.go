package workload

import (
	"cmp"
	"slices"
	"sync"
)

// endpointSet holds the endpoints of one service, healthy or not. It never
// changes; with and without make others that share its table.
type endpointSet struct {
	members table[string, *Endpoint] // by workload UID

	once sync.Once
	list []*Endpoint // by workload UID; made when first asked for
	sums []uint64    // of list: the capacities up to and with each; made with it
}

// with returns the set with ep in it, in place of an older one of its workload.
func (s *endpointSet) with(e *edit, ep *Endpoint) *endpointSet {
	if s == nil {
		s = &endpointSet{members: newTable[string, *Endpoint]()}
	}
	return &endpointSet{members: s.members.set(e, ep.Workload.UID, ep)}
}

// without returns the set without that workload, or nil when nothing is left.
func (s *endpointSet) without(e *edit, uid string) *endpointSet {
	if s == nil {
		return nil
	}
	members := s.members.del(e, uid)
	if members.len() == 0 {
		return nil
	}
	return &endpointSet{members: members}
}

// all returns the endpoints in the order of their UIDs. The first call after a
// change sorts them; a connection then only walks them.
func (s *endpointSet) all() []*Endpoint {
	if s == nil {
		return nil
	}
	s.once.Do(func() {
		s.list = make([]*Endpoint, 0, s.members.len())
		for _, ep := range s.members.all() {
			s.list = append(s.list, ep)
		}
		slices.SortFunc(s.list, func(a, b *Endpoint) int { return cmp.Compare(a.Workload.UID, b.Workload.UID) })
		s.sums = make([]uint64, len(s.list))
		var sum uint64
		for i, ep := range s.list {
			sum += uint64(ep.Workload.Capacity)
			s.sums[i] = sum
		}
	})
	return s.list
}

// draw returns a random endpoint, weighted by capacity, or nil when none has
// any. all must have been called.
func (s *endpointSet) draw(rand func(n uint64) uint64) *Endpoint {
	total := s.sums[len(s.sums)-1]
	if total == 0 {
		return nil
	}
	i, _ := slices.BinarySearch(s.sums, rand(total)+1)
	return s.list[i]
}

// Endpoints returns the endpoints that svc may use, by UID: the healthy ones, or
// all if its health policy says so.
func (s *Snapshot) Endpoints(svc *Service) []*Endpoint {
	set, _ := s.workloads.endpoints.get(svc.Key)
	var out []*Endpoint
	for _, ep := range set.all() {
		if svc.uses(ep.Workload) {
			out = append(out, ep)
		}
	}
	return out
}

// Endpoint returns w in its part as an endpoint of svc, or nil when it is none
// or svc may not use it.
func (s *Snapshot) Endpoint(svc *Service, uid string) *Endpoint {
	set, ok := s.workloads.endpoints.get(svc.Key)
	if !ok {
		return nil
	}
	ep, ok := set.members.get(uid)
	if !ok || !svc.uses(ep.Workload) {
		return nil
	}
	return ep
}

// uses reports whether the health policy of svc lets it use w.
func (svc *Service) uses(w *Workload) bool {
	return w.Healthy || svc.Balancing.AllowUnhealthy
}
