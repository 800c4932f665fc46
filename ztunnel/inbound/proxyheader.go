package inbound

import (
	"encoding/binary"
	"net/netip"

	"github.com/ambit-mesh/ambit/internal/identity"
)

// Numbers of the PROXY protocol, version 2. Source: the PROXY protocol,
// section 2.2.
const (
	proxySignature = "\r\n\r\n\x00\r\nQUIT\n"
	proxyCommand   = 0x21 // version 2, PROXY
	proxyTCP4      = 0x11 // AF_INET, STREAM
	proxyTCP6      = 0x21 // AF_INET6, STREAM

	// proxyIdentity is the TLV that holds the caller's SPIFFE ID. Source: the
	// ambient ecosystem.
	proxyIdentity = 0xD0
)

// proxyHeader announces client, which wants to reach target, and who it has
// proven to be.
func proxyHeader(client, target netip.AddrPort, id identity.ID) []byte {
	from, to, family := client.Addr().Unmap(), target.Addr().Unmap(), byte(proxyTCP4)
	if !from.Is4() || !to.Is4() {
		// Both must be of one family; an IPv4 address can stand in IPv6.
		from, to, family = netip.AddrFrom16(from.As16()), netip.AddrFrom16(to.As16()), proxyTCP6
	}
	var body []byte
	body = append(body, from.AsSlice()...)
	body = append(body, to.AsSlice()...)
	body = binary.BigEndian.AppendUint16(body, client.Port())
	body = binary.BigEndian.AppendUint16(body, target.Port())
	if text := id.String(); text != "" {
		body = append(body, proxyIdentity)
		body = binary.BigEndian.AppendUint16(body, uint16(len(text)))
		body = append(body, text...)
	}
	out := append([]byte(proxySignature), proxyCommand, family)
	out = binary.BigEndian.AppendUint16(out, uint16(len(body)))
	return append(out, body...)
}
