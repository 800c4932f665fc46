package workload

import (
	"net/netip"
	"slices"
	"time"
)

const (
	// GoneFor is how long an address is known for that of a workload of the mesh that
	// is no more. It is our choice: longer than clients keep an answer of a cluster's
	// DNS (30 s at most), shorter than who takes over an address without a word of the
	// control plane would notice.
	GoneFor = time.Minute

	// maxGone bounds how many are known. Of more the oldest are forgotten.
	maxGone = 4096
)

// LookupGone says whether an address that nobody has was that of a workload which
// takes tunnels, until less than [GoneFor] before now. Who still has the address
// means that workload, and what is there next may be anybody.
func (s *Snapshot) LookupGone(network string, ip netip.Addr, now time.Time) bool {
	since, ok := s.gone.get(NetworkAddr{network, ip.Unmap()})
	return ok && now.Sub(since) < GoneFor
}

// farewell is an address that a workload has left.
type farewell struct {
	addr NetworkAddr
	when time.Time
}

// leave notes which addresses nobody has any more now that next is there instead of
// old; nil means that next is nobody.
func (c *changes) leave(old, next *Workload) {
	if old != nil && old.Protocol == ProtocolHBONE && !old.HostNetwork {
		for _, a := range old.Addresses {
			stays := next != nil && next.Network == old.Network && slices.Contains(next.Addresses, a)
			if !stays {
				c.left = append(c.left, NetworkAddr{old.Network, a})
			}
		}
	}
	if next == nil || c.next.gone.len() == 0 {
		return
	}
	for _, a := range next.Addresses {
		c.next.gone = c.next.gone.del(c.edit, NetworkAddr{next.Network, a})
	}
}

// bury makes known what has left, and forgets what did so long ago. It takes and
// returns the list of those that are known, the oldest first.
func (c *changes) bury(known []farewell, now time.Time) []farewell {
	for _, a := range c.left {
		if first(c.next.workloads.byAddr, a) == nil {
			c.next.gone = c.next.gone.set(c.edit, a, now)
			known = append(known, farewell{a, now})
		}
	}
	for len(known) > 0 && (len(known) > maxGone || now.Sub(known[0].when) >= GoneFor) {
		// One that has come back and left again is known by its last farewell.
		if when, ok := c.next.gone.get(known[0].addr); ok && when.Equal(known[0].when) {
			c.next.gone = c.next.gone.del(c.edit, known[0].addr)
		}
		known = known[1:]
	}
	return known
}
