package workload

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// bestService picks of services with one name or address, in the order of their
// keys, the one that a client means: of its own namespace before others, then
// canonical before others, then the first. What the client must not see is left
// out; an empty clientNamespace sees all and prefers none.
func bestService(list []*Service, clientNamespace string) *Service {
	var best *Service
	bestRank := -1
	for _, svc := range list {
		rank := 0
		if clientNamespace != "" {
			if !svc.VisibleTo(clientNamespace) {
				continue
			}
			if svc.Namespace == clientNamespace {
				rank = 2
			}
		}
		if svc.Canonical {
			rank++
		}
		if rank > bestRank {
			best, bestRank = svc, rank
		}
	}
	return best
}

// compareHolders orders workloads that claim one address, best first: a pod
// with HBONE, another pod, something else with HBONE, the rest; then by UID.
func compareHolders(a, b *Workload) int {
	return cmp.Or(cmp.Compare(holderRank(a), holderRank(b)), compareUIDs(a, b))
}

func holderRank(w *Workload) int {
	rank := 3
	if isPod(w) {
		rank -= 2
	}
	if w.Protocol == ProtocolHBONE {
		rank--
	}
	return rank
}

// isPod reports whether a UID is that of a real pod, the only thing a UID is
// ever read for.
func isPod(w *Workload) bool { return strings.Contains(w.UID, "//Pod/") }

// comparePods orders local workloads of one name, best first: real pods, then by
// UID.
func comparePods(a, b *Workload) int {
	switch {
	case isPod(a) == isPod(b):
		return compareUIDs(a, b)
	case isPod(a):
		return -1
	}
	return 1
}

// insertSorted returns a copy of list with v at its place.
func insertSorted[T any](list []T, v T, compare func(a, b T) int) []T {
	i, _ := slices.BinarySearchFunc(list, v, compare)
	out := make([]T, 0, len(list)+1)
	out = append(out, list[:i]...)
	out = append(out, v)
	return append(out, list[i:]...)
}

// without returns a copy of list that does not hold v.
func without[T comparable](list []T, v T) []T {
	out := make([]T, 0, len(list))
	for _, x := range list {
		if x != v {
			out = append(out, x)
		}
	}
	return out
}

// ranges find services by VIPs that are longer ranges. They are rebuilt whole
// when one of them changes: there are few, and a look-up costs one map access
// per prefix length in use.
type ranges struct {
	byPrefix map[VIP][]*Service // by key
	lengths  map[string][]int   // by network: prefix lengths, longest first
}

// newRanges indexes the ranges of all services.
func newRanges(services table[Key, *Service]) *ranges {
	r := &ranges{byPrefix: make(map[VIP][]*Service), lengths: make(map[string][]int)}
	for _, svc := range services.all() {
		for _, v := range svc.VIPs {
			if v.Prefix.IsSingleIP() {
				continue
			}
			if !slices.Contains(r.byPrefix[v], svc) {
				r.byPrefix[v] = insertSorted(r.byPrefix[v], svc, compareServices)
			}
			if !slices.Contains(r.lengths[v.Network], v.Prefix.Bits()) {
				r.lengths[v.Network] = append(r.lengths[v.Network], v.Prefix.Bits())
			}
		}
	}
	for _, l := range r.lengths {
		slices.SortFunc(l, func(a, b int) int { return cmp.Compare(b, a) })
	}
	return r
}

// lookup finds the service that a client means by ip: one of its own namespace,
// then of the longer range, then a canonical one, then the first.
func (r *ranges) lookup(network string, ip netip.Addr, clientNamespace string) *Service {
	var best *Service
	for _, bits := range r.lengths[network] {
		prefix, err := ip.Prefix(bits)
		if err != nil {
			continue // longer than an address of this family
		}
		svc := bestService(r.byPrefix[VIP{network, prefix}], clientNamespace)
		switch {
		case svc == nil:
		case clientNamespace != "" && svc.Namespace == clientNamespace:
			return svc // none is longer, and the namespace counts first
		case best == nil:
			best = svc
		}
	}
	return best
}

// hasRange reports whether svc has a VIP that is a longer range.
func hasRange(svc *Service) bool {
	return svc != nil && slices.ContainsFunc(svc.VIPs, func(v VIP) bool { return !v.Prefix.IsSingleIP() })
}
