package upstream

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
)

// proxySignature begins a header of version 2. Source: HAProxy, "The PROXY protocol",
// section 2.2.
const proxySignature = "\r\n\r\n\x00\r\nQUIT\n"

// proxyHeader tells an endpoint who has connected, before anything else is said: a
// client at from wants to. An invalid from is nobody but ourselves. Source: HAProxy, "The
// PROXY protocol", sections 2.1 and 2.2.
func proxyHeader(version waypointapi.ProxyProtocol, from, to netip.AddrPort) []byte {
	src, dst := from.Addr().Unmap(), to.Addr().Unmap()
	v6 := !src.Is4() || !dst.Is4()
	if from.IsValid() && v6 { // both have to be of one family
		src, dst = netip.AddrFrom16(src.As16()), netip.AddrFrom16(dst.As16())
	}
	if version == waypointapi.ProxyProtocol_PROXY_V1 {
		switch {
		case !from.IsValid():
			return []byte("PROXY UNKNOWN\r\n")
		case v6:
			return fmt.Appendf(nil, "PROXY TCP6 %s %s %d %d\r\n", src.WithZone(""), dst.WithZone(""), from.Port(), to.Port())
		}
		return fmt.Appendf(nil, "PROXY TCP4 %s %s %d %d\r\n", src, dst, from.Port(), to.Port())
	}
	const local, proxied, tcp4, tcp6 = 0x20, 0x21, 0x11, 0x21
	out := []byte(proxySignature)
	if !from.IsValid() {
		return append(out, local, 0, 0, 0)
	}
	family := byte(tcp4)
	if v6 {
		family = tcp6
	}
	rest := append(src.AsSlice(), dst.AsSlice()...)
	rest = binary.BigEndian.AppendUint16(rest, from.Port())
	rest = binary.BigEndian.AppendUint16(rest, to.Port())
	out = append(out, proxied, family)
	return append(binary.BigEndian.AppendUint16(out, uint16(len(rest))), rest...)
}
