package message

import (
	"net/netip"
	"strings"
)

// maxHost is the longest name of a host. Source: RFC 1035, section 2.3.4.
const maxHost = 253

// CanonicalHost reads an authority: a host, and a port if there is one. The host
// is in lower case, without a dot at the end and without the brackets of IPv6.
func CanonicalHost(authority string) (host, port string, err error) {
	host = authority
	switch {
	case strings.HasPrefix(host, "["):
		end := strings.IndexByte(host, ']')
		if end < 0 {
			return "", "", Bad("host: bracket without an end")
		}
		rest := host[end+1:]
		host = host[1:end]
		if rest != "" {
			if rest[0] != ':' || !validPort(rest[1:]) {
				return "", "", Bad("host: want a port after the bracket")
			}
			port = rest[1:]
		}
		addr, err := netip.ParseAddr(host)
		if err != nil || !addr.Is6() || addr.Zone() != "" {
			return "", "", Bad("host: no IPv6 address in brackets")
		}
		return addr.String(), port, nil
	default:
		if at := strings.IndexByte(host, ':'); at >= 0 {
			if port = host[at+1:]; !validPort(port) {
				return "", "", Bad("host: bad port")
			}
			host = host[:at]
		}
	}
	host = strings.TrimSuffix(host, ".")
	if host == "" || len(host) > maxHost {
		return "", "", Bad("host: empty or too long")
	}
	upper := false
	for i := range len(host) {
		c := host[i]
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
		case c == '.':
			if i == 0 || host[i-1] == '.' {
				return "", "", Bad("host: empty label")
			}
		case 'A' <= c && c <= 'Z':
			upper = true
		default:
			return "", "", Bad("host: character that no host name has")
		}
	}
	if upper {
		host = strings.ToLower(host)
	}
	return host, port, nil
}

// validPort reports whether text is a port from 1 to 65535, in digits.
func validPort(text string) bool {
	if len(text) == 0 || len(text) > 5 {
		return false
	}
	n := 0
	for i := range len(text) {
		if text[i] < '0' || text[i] > '9' {
			return false
		}
		n = 10*n + int(text[i]-'0')
	}
	return n > 0 && n < 1<<16
}
