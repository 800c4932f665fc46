package telemetry

import (
	"net/netip"

	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/tracing"
)

// Direction says from which end a proxy sees a connection.
type Direction uint8

const (
	// Outbound is a connection that our pod makes. Its reporter is "source".
	Outbound Direction = iota
	// Inbound is a connection that our pod gets. Its reporter is "destination".
	Inbound

	directionCount
)

// String returns "outbound" or "inbound".
func (d Direction) String() string {
	if d == Inbound {
		return "inbound"
	}
	return "outbound"
}

// Reporter returns the label value "source" or "destination".
func (d Direction) Reporter() string {
	if d == Inbound {
		return "destination"
	}
	return "source"
}

// Hop says how the bytes travelled. The zero Hop is "direct".
type Hop uint8

const (
	// HopDirect is plain TCP between the pod and the other end.
	HopDirect Hop = iota
	// HopTunnel is HBONE: mutual TLS.
	HopTunnel
	// HopLocal is from socket to socket inside this node, after the same
	// checks that a tunnel makes.
	HopLocal
)

// String returns "direct", "tunnel" or "local".
func (h Hop) String() string {
	switch h {
	case HopTunnel:
		return "tunnel"
	case HopLocal:
		return "local"
	default:
		return "direct"
	}
}

// Workload is what metrics and logs say about one end of a connection. Empty
// fields are unknown. It is comparable.
type Workload struct {
	Name              string // of the pod; only logs name it
	Namespace         string
	WorkloadName      string // of the Deployment or the like
	CanonicalService  string // also the labels source_app and destination_app
	CanonicalRevision string // also the labels source_version and destination_version
	Cluster           string
	Region            string
	Zone              string
}

// Service is the service that the client meant. Empty fields are unknown.
type Service struct {
	Host      string // fully qualified
	Namespace string
	Name      string
}

// Peer is one end of a connection.
type Peer struct {
	// Addr is the socket address. Of an outbound destination: the next hop's;
	// of a tunnelled inbound destination: the tunnel port of our pod.
	Addr     netip.AddrPort
	Workload Workload
	// Identity is what TLS has proven, on the local path what TLS would have
	// proven. The zero ID means plaintext.
	Identity identity.ID
}

// Conn describes a connection when it is opened. It is a value: what it says
// does not change, but for what [Record] has methods.
type Conn struct {
	Direction Direction
	Hop       Hop

	Source      Peer
	Destination Peer
	Service     Service

	// Pod is the uid of the pod of ours that the connection belongs to.
	Pod string
	// Authority is the target of the CONNECT request; empty without a tunnel.
	Authority string
	// OriginalDst is where the client was going, ActualDst what we dial.
	OriginalDst netip.AddrPort
	ActualDst   netip.AddrPort
	// Trace is the place of the connection in a trace; zero, or not sampled, when
	// nobody wants to see it in one.
	Trace tracing.Link
	// Policy names the rule that decided; empty when none had to.
	Policy string
}

// secured tells whether both identities were proven.
func (c *Conn) secured() bool {
	return !c.Source.Identity.IsZero() && !c.Destination.Identity.IsZero() && c.Hop != HopDirect
}
