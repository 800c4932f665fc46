package hbone

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// maxHostBytes is the longest host name in an authority, in bytes.
// Source: RFC 1035, section 2.3.4, without the root label.
const maxHostBytes = 253

// Authority is the target of a CONNECT request: an address or a host, and a
// port. The zero Authority means "none". It is comparable.
type Authority struct {
	addr netip.Addr // unmapped, without zone; invalid when host is set
	host string     // lower case, no trailing dot; empty when addr is set
	port uint16     // 1 to 65535
}

// ParseAuthority reads the :authority of a CONNECT request. It is the only way
// from outside input to an Authority. Source: RFC 9113, section 8.5.
func ParseAuthority(s string) (Authority, error) {
	host, portText, err := net.SplitHostPort(s)
	if err != nil {
		return Authority{}, fmt.Errorf("authority %s: want host:port: %w", quoteShort(s), err)
	}
	port, ok := parsePort(portText)
	if !ok {
		return Authority{}, fmt.Errorf("authority %s: want a port from 1 to 65535", quoteShort(s))
	}
	bracketed := strings.HasPrefix(s, "[")
	if addr, err := netip.ParseAddr(host); err == nil {
		if addr.Zone() != "" || bracketed != addr.Is6() {
			return Authority{}, fmt.Errorf("authority %s: want ip:port or [ip6]:port without a zone", quoteShort(s))
		}
		return Authority{addr: addr.Unmap(), port: port}, nil
	}
	if bracketed {
		return Authority{}, fmt.Errorf("authority %s: no IPv6 address between the brackets", quoteShort(s))
	}
	return AuthorityFromHost(host, port)
}

// AuthorityFrom is the authority of an address. The zero AddrPort gives the
// zero Authority.
func AuthorityFrom(ap netip.AddrPort) Authority {
	if !ap.IsValid() || ap.Port() == 0 {
		return Authority{}
	}
	return Authority{addr: ap.Addr().Unmap().WithZone(""), port: ap.Port()}
}

// AuthorityFromHost is the authority of a host name. An IP address as host is
// taken as an address.
func AuthorityFromHost(host string, port uint16) (Authority, error) {
	if port == 0 {
		return Authority{}, fmt.Errorf("authority of host %s: port is 0", quoteShort(host))
	}
	if addr, err := netip.ParseAddr(host); err == nil && addr.Zone() == "" {
		return Authority{addr: addr.Unmap(), port: port}, nil
	}
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	if !validHost(name) {
		return Authority{}, fmt.Errorf("authority: %s is neither an IP address nor a host name", quoteShort(host))
	}
	return Authority{host: name, port: port}, nil
}

// AddrPort is the address, when the authority is one.
func (a Authority) AddrPort() (netip.AddrPort, bool) {
	if !a.addr.IsValid() {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(a.addr, a.port), true
}

// Host is the host name in lower case, when the authority is one.
func (a Authority) Host() (string, bool) { return a.host, a.host != "" }

// Port is the port; 0 only for the zero Authority.
func (a Authority) Port() uint16 { return a.port }

// IsZero reports whether there is no authority.
func (a Authority) IsZero() bool { return a == Authority{} }

// String is the text that goes on the wire; "" for the zero Authority.
func (a Authority) String() string {
	switch {
	case a.host != "":
		return a.host + ":" + strconv.Itoa(int(a.port))
	case a.addr.IsValid():
		return netip.AddrPortFrom(a.addr, a.port).String()
	}
	return ""
}

// parsePort reads a port in plain decimal digits, without a sign.
func parsePort(s string) (uint16, bool) {
	if len(s) == 0 || len(s) > 5 {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil && n > 0
}

// validHost reports whether s is a lower case host name: labels of letters,
// digits, '-' and '_' (Kubernetes and SRV names have it), of 1 to 63 bytes.
// A name whose last label is a number would be read as an IPv4 address by
// others and is none. Source: RFC 1123, section 2.1; RFC 3986, section 3.2.2.
func validHost(s string) bool {
	if s == "" || len(s) > maxHostBytes {
		return false
	}
	last := ""
	for label := range strings.SplitSeq(s, ".") {
		if !validLabel(label) {
			return false
		}
		last = label
	}
	return strings.Trim(last, "0123456789") != ""
}

// validLabel reports whether s can stand between the dots of a host name.
func validLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, b := range []byte(s) {
		if (b < 'a' || b > 'z') && (b < '0' || b > '9') && b != '-' && b != '_' {
			return false
		}
	}
	return true
}

// quoteShort quotes outside input for an error text, at most 80 bytes of it.
func quoteShort(s string) string {
	if len(s) > 80 {
		return strconv.Quote(s[:80]) + "..."
	}
	return strconv.Quote(s)
}
