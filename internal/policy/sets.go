package policy

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/internal/meshapi/securityapi"
)

// fewStrings is up to how many exact values a scan is used: our choice, about
// where hashing one string costs as much as comparing with all.
const fewStrings = 8

// stringSet is a list of comparisons, one of which has to hit.
type stringSet struct {
	presence bool // any non-empty string hits
	few      []string
	many     map[string]struct{} // instead of few, from fewStrings on
	prefixes []string
	suffixes []string
}

// compileStrings leaves out comparisons of no known kind.
func compileStrings(in []*securityapi.StringMatch) stringSet {
	var s stringSet
	for _, m := range in {
		switch v := m.GetMatchType().(type) {
		case *securityapi.StringMatch_Exact:
			s.few = append(s.few, v.Exact)
		case *securityapi.StringMatch_Prefix:
			s.prefixes = append(s.prefixes, v.Prefix)
		case *securityapi.StringMatch_Suffix:
			s.suffixes = append(s.suffixes, v.Suffix)
		case *securityapi.StringMatch_Presence:
			s.presence = true
		}
	}
	if len(s.few) > fewStrings {
		s.many = make(map[string]struct{}, len(s.few))
		for _, v := range s.few {
			s.many[v] = struct{}{}
		}
		s.few = nil
	}
	return s
}

// empty reports whether there is no comparison at all.
func (s *stringSet) empty() bool {
	return !s.presence && len(s.few) == 0 && len(s.many) == 0 && len(s.prefixes) == 0 && len(s.suffixes) == 0
}

func (s *stringSet) contains(v string) bool {
	if s.presence && v != "" {
		return true
	}
	if slices.Contains(s.few, v) {
		return true
	}
	if _, ok := s.many[v]; ok {
		return true
	}
	for _, p := range s.prefixes {
		if strings.HasPrefix(v, p) {
			return true
		}
	}
	for _, p := range s.suffixes {
		if strings.HasSuffix(v, p) {
			return true
		}
	}
	return false
}

// fewPrefixes is up to how many prefixes a scan is used: our choice. Beyond it
// the cost is one look-up per prefix length in use, at most 33 or 129.
const fewPrefixes = 16

// prefixSet is a list of address ranges, one of which has to hit.
type prefixSet struct {
	few     []netip.Prefix
	many    map[netip.Prefix]struct{} // instead of few, from fewPrefixes on
	lengths [2][]int                  // of many, by family: IPv4, IPv6
}

// compilePrefixes leaves out what is not a range: address bytes other than 4 or
// 16, or a length beyond them.
func compilePrefixes(in []*securityapi.Address) prefixSet {
	var s prefixSet
	for _, a := range in {
		addr, ok := netip.AddrFromSlice(a.GetAddress())
		if !ok || a.GetLength() > uint32(addr.BitLen()) {
			continue
		}
		s.few = append(s.few, netip.PrefixFrom(addr, int(a.GetLength())).Masked())
	}
	if len(s.few) <= fewPrefixes {
		return s
	}
	s.many = make(map[netip.Prefix]struct{}, len(s.few))
	for _, p := range s.few {
		s.many[p] = struct{}{}
		f := family(p.Addr())
		if !slices.Contains(s.lengths[f], p.Bits()) {
			s.lengths[f] = append(s.lengths[f], p.Bits())
		}
	}
	s.few = nil
	return s
}

// family is 0 for IPv4 and 1 for IPv6.
func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// empty reports whether there is no range at all.
func (s *prefixSet) empty() bool { return len(s.few) == 0 && len(s.many) == 0 }

// contains expects an unmapped address; the zero Addr is in no range.
func (s *prefixSet) contains(a netip.Addr) bool {
	for _, p := range s.few {
		if p.Contains(a) {
			return true
		}
	}
	if len(s.many) == 0 || !a.IsValid() {
		return false
	}
	a = a.WithZone("")
	for _, bits := range s.lengths[family(a)] {
		p := netip.PrefixFrom(a, bits).Masked()
		if _, ok := s.many[p]; ok {
			return true
		}
	}
	return false
}

// compilePorts cuts each port to 16 bits, as the ambient ecosystem does.
func compilePorts(in []uint32) []uint16 {
	out := make([]uint16, 0, len(in))
	for _, p := range in {
		out = append(out, uint16(p))
	}
	slices.Sort(out)
	return out
}

func containsPort(sorted []uint16, port uint16) bool {
	_, ok := slices.BinarySearch(sorted, port)
	return ok
}

// compileAccounts keeps all.
func compileAccounts(in []*securityapi.ServiceAccountMatch) []account {
	out := make([]account, 0, len(in))
	for _, m := range in {
		out = append(out, account{m.GetNamespace(), m.GetServiceAccount()})
	}
	return out
}
