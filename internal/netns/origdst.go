package netns

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// soOriginalDst asks conntrack where a redirected connection was going; the
// number is the same for IPv4 and IPv6.
// Source: linux/netfilter_ipv4.h, linux/netfilter_ipv6/ip6_tables.h.
const soOriginalDst = 80

// OriginalDst returns where c was going before the pod's rules redirected it:
// the original destination that conntrack remembers, else the local address of
// c. IPv4 in IPv6 is unmapped.
func OriginalDst(c *net.TCPConn) (netip.AddrPort, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	local := unmap(c.LocalAddr().(*net.TCPAddr).AddrPort())
	var dst netip.AddrPort
	err = control(raw, func(fd int) (err error) {
		if local.Addr().Is4() {
			dst, err = originalDst4(fd)
		} else {
			dst, err = originalDst6(fd)
		}
		return err
	})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOPROTOOPT) || errors.Is(err, unix.EOPNOTSUPP) {
		return local, nil // conntrack does not know it: nobody redirected it
	}
	return dst, err
}

// originalDst4 reads a sockaddr_in. The option's struct in package unix with the
// nearest size stands in for it.
func originalDst4(fd int) (netip.AddrPort, error) {
	raw, err := unix.GetsockoptIPv6Mreq(fd, unix.SOL_IP, soOriginalDst)
	if err != nil {
		return netip.AddrPort{}, err
	}
	b := raw.Multiaddr // family, port, address: struct sockaddr_in
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[2:4])), nil
}

// originalDst6 reads a sockaddr_in6.
func originalDst6(fd int) (netip.AddrPort, error) {
	raw, err := unix.GetsockoptIPv6MTUInfo(fd, unix.SOL_IPV6, soOriginalDst)
	if err != nil {
		return netip.AddrPort{}, err
	}
	var port [2]byte
	binary.NativeEndian.PutUint16(port[:], raw.Addr.Port) // stored as it came
	return unmap(netip.AddrPortFrom(netip.AddrFrom16(raw.Addr.Addr), binary.BigEndian.Uint16(port[:]))), nil
}

// unmap makes an IPv4 address of one that is wrapped in IPv6.
func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
