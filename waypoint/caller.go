package waypoint

import (
	"crypto/tls"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/internal/telemetry"
	"github.com/ambit-mesh/ambit/internal/tracing"
	"github.com/ambit-mesh/ambit/waypoint/filter"
	"github.com/ambit-mesh/ambit/waypoint/jwt"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

// peer is the proven client of one tunnel connection.
type peer struct {
	identity.Peer

	// trusted is the newest certificate of ours under whose roots it was found
	// good.
	trusted atomic.Pointer[identity.Certificate]
}

// vouched reports why the roots of own do not vouch for the peer now.
func (p *peer) vouched(own *identity.Certificate, now time.Time) error {
	if p.trusted.Load() == own {
		return nil
	}
	if err := p.TrustedBy(own, now); err != nil {
		return err
	}
	p.trusted.Store(own)
	return nil
}

// authenticate says who is at the other end of a tunnel connection.
func authenticate(cs tls.ConnectionState) (any, error) {
	p, err := identity.PeerOf(&cs)
	if err != nil {
		return nil, err
	}
	return &peer{Peer: p}, nil
}

// caller is who talks to what on one stream.
type caller struct {
	id     identity.ID
	addr   netip.AddrPort // of the client: the other end of the tunnel's TCP connection
	source telemetry.Peer
	target target
	trace  tracing.Context // of the tunnel's stream; zero when it said none
}

// subject is what policies decide about. dest is where a request will really go; req
// is nil for a connection that is not HTTP.
func (c *caller) subject(dest netip.AddrPort, req *message.Request, tokens *jwt.Result, approved []string) *filter.Subject {
	s := &filter.Subject{
		Conn:     policy.FactsOf(policy.Request{SourceIP: c.addr.Addr(), Peer: c.id, Destination: dest}),
		HTTP:     req,
		RemoteIP: c.addr.Addr(),
		Approved: approved,
	}
	if tokens != nil {
		s.Token = tokens.Token
	}
	return s
}
