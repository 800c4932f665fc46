package hbone

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"

	"golang.org/x/net/http2/hpack"
)

// Header is the header of a CONNECT request or of its answer, without the
// pseudo headers. Names are in lower case.
type Header []hpack.HeaderField

// Get returns the first value of name, "" when there is none.
func (h Header) Get(name string) string {
	for _, f := range h {
		if f.Name == name {
			return f.Value
		}
	}
	return ""
}

// Values returns every value of name in the order of arrival.
func (h Header) Values(name string) []string {
	var all []string
	for _, f := range h {
		if f.Name == name {
			all = append(all, f.Value)
		}
	}
	return all
}

// Request asks a peer for a TCP stream to Authority.
type Request struct {
	Authority Authority
	Header    Header // sent as it is; names must be in lower case
}

// Key says which requests may share a connection. It is comparable; Source and
// Destinations are opaque here.
type Key struct {
	Source       string         // the identity we speak as
	Destinations string         // the identities the peer may have
	Address      netip.AddrPort // the peer's address
	SourceIP     netip.Addr     // our address: a pod may have several
}

// Target is a peer and the way to reach it. The functions are called only when
// a new connection is needed.
type Target struct {
	Key Key
	// Dial makes the TCP connection. hbone does the TLS handshake on it.
	Dial func(ctx context.Context) (net.Conn, error)
	// TLS is the client configuration, fetched anew for each connection. It
	// must offer "h2".
	TLS func(ctx context.Context) (*tls.Config, error)
}
