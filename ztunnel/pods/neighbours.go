package pods

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/ambit-mesh/ambit/internal/hbone"
	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/internal/telemetry"
	"github.com/ambit-mesh/ambit/ztunnel/inbound"
	"github.com/ambit-mesh/ambit/ztunnel/outbound"
)

var (
	_ outbound.Neighbours = (*Manager)(nil)
	_ outbound.Neighbour  = (*proxy)(nil)
	_ outbound.Visit      = visit{}
)

// Neighbour finds a pod of this node that is up, or nil.
func (m *Manager) Neighbour(s policy.Subject) outbound.Neighbour {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if x := m.index[s]; x != nil {
		return x
	}
	return nil
}

// HasAddr reports whether addr was an address of the pod when the agent handed
// it over. That it still is, the kernel is asked when the application is dialed.
func (x *proxy) HasAddr(addr netip.Addr) bool { return slices.Contains(x.addresses, addr) }

// Receive hands to the pod what a CONNECT would carry.
func (x *proxy) Receive(ctx context.Context, d outbound.Delivery) (context.Context, outbound.Visit, error) {
	ctx, v, err := x.in.Receive(ctx, inbound.Request{
		Peer: x.callers.peer(d.Source), Hop: telemetry.HopLocal,
		Client: d.Client, Local: d.Local,
		Authority: d.Request.Authority, Header: d.Request.Header,
	})
	if err != nil {
		return nil, nil, &hbone.RefusedError{Status: inbound.StatusOf(err)}
	}
	return ctx, visit{v}, nil
}

// visit is an inbound.Visit as package outbound wants it.
type visit struct{ *inbound.Visit }

// App is the socket of the application.
func (v visit) App() *net.TCPConn { return v.Visit.App }

// callers remembers the pods of this node that have called one of them, so that
// the certificate of each is verified once and not for each connection.
type callers struct {
	mu   sync.Mutex
	byID map[identity.ID]caller // one for each identity of the node
}

// caller is a peer made of a certificate.
type caller struct {
	cert *identity.Certificate
	peer *inbound.Peer
}

// peer is what TLS would say of a caller that shows cert.
func (c *callers) peer(cert *identity.Certificate) *inbound.Peer {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known, ok := c.byID[cert.ID]; ok && known.cert == cert {
		return known.peer
	}
	if c.byID == nil {
		c.byID = make(map[identity.ID]caller)
	}
	p := inbound.NewPeer(identity.Peer{ID: cert.ID, NotAfter: cert.NotAfter(), Chain: cert.Chain})
	c.byID[cert.ID] = caller{cert: cert, peer: p}
	return p
}
