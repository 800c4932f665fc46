package netns

import "net/netip"

// The target of a self-test, an address that documentation has for itself, and a
// port that no mesh leads to. Source: RFC 5737, section 3; RFC 3849, section 2.
var (
	selfTest4 = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), 15001)
	selfTest6 = netip.AddrPortFrom(netip.AddrFrom16([16]byte{0: 0x20, 1: 0x01, 2: 0x0d, 3: 0xb8, 15: 1}), 15001)
)

// SelfTest is where a connection goes that only asks whether the rules of a pod
// lead to a proxy that takes connections. The proxy closes it at once and tells
// nobody; without rules or without a proxy it fails.
func SelfTest(ipv6 bool) netip.AddrPort {
	if ipv6 {
		return selfTest6
	}
	return selfTest4
}

// IsSelfTest says whether target is that of a self-test.
func IsSelfTest(target netip.AddrPort) bool { return target == selfTest4 || target == selfTest6 }
