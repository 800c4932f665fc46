package keys

import (
	"fmt"
	"net/netip"
)

// metadata are addresses at which clouds tell machines about themselves, beside that
// of the link (169.254.169.254). Sources: the manuals of AWS (IPv6), Alibaba Cloud,
// Azure and Oracle.
var metadata = []netip.Addr{
	netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("100.100.100.200"),
	netip.MustParseAddr("168.63.129.16"), netip.MustParseAddr("192.0.0.192"),
}

// nat64 is the prefix behind which IPv6 hides addresses of IPv4. Source: RFC 6052.
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// thisNetwork are addresses that mean the machine itself. Source: RFC 6890.
var thisNetwork = netip.MustParsePrefix("0.0.0.0/8")

// Forbidden says why nothing is fetched from an address; nil when it may be. also
// are addresses that are allowed in any case.
func Forbidden(a netip.Addr, also []netip.Prefix) error {
	a = a.Unmap().WithZone("")
	if a.Is6() && nat64.Contains(a) {
		raw := a.As16()
		a = netip.AddrFrom4([4]byte(raw[12:]))
	}
	for _, p := range also {
		if p.Contains(a) {
			return nil
		}
	}
	what := ""
	switch {
	case !a.IsValid() || a.IsUnspecified() || thisNetwork.Contains(a):
		what = "no address of a server"
	case a.IsLoopback():
		what = "an address of loopback"
	case a.IsLinkLocalUnicast():
		what = "an address of the link, where metadata services are"
	case a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		what = "no address of one server"
	}
	for _, m := range metadata {
		if a == m {
			what = "an address of a metadata service"
		}
	}
	if what == "" {
		return nil
	}
	return fmt.Errorf("%v is %s: keys are not fetched there", a, what)
}
