package workload

import (
	"net/netip"
	"strings"

	"github.com/ambit-mesh/ambit/internal/identity"
)

// Key names a service: its namespace and host name. It is comparable.
type Key struct{ Namespace, Hostname string }

// String returns "namespace/hostname", the resource name.
func (k Key) String() string { return k.Namespace + "/" + k.Hostname }

// ParseKey reads "namespace/hostname".
func ParseKey(s string) (Key, bool) {
	ns, host, ok := strings.Cut(s, "/")
	if !ok || host == "" || strings.Contains(host, "/") {
		return Key{}, false
	}
	return Key{Namespace: ns, Hostname: host}, true
}

// Service is a name with addresses and ports, spread over workloads. It never
// changes; its endpoints are asked from the [Snapshot].
type Service struct {
	Key
	Name          string // for display
	VIPs          []VIP  // none: headless
	Ports         Ports
	SANs          []identity.ID // further identities that may answer
	Balancing     Balancing
	Families      Families
	Waypoint      *Gateway
	Weighted      []WeightedGateway // shares of a canary; zero weights: Waypoint
	Canonical     bool              // wins among services of one host name
	NamespaceOnly bool              // clients of other namespaces do not see it
}

// VisibleTo reports whether a client of that namespace may see the service.
func (s *Service) VisibleTo(namespace string) bool {
	return !s.NamespaceOnly || s.Namespace == namespace
}

// VIP is an address, or a range of them, at which a service is called.
type VIP struct {
	Network string
	Prefix  netip.Prefix // masked; a single address has all its bits
}

// NetworkAddr is an address in a named network. It is comparable.
type NetworkAddr struct {
	Network string
	Addr    netip.Addr // unmapped
}

// Families restricts which addresses of endpoints a service uses.
type Families uint8

const (
	FamiliesAny Families = iota
	FamiliesIPv4
	FamiliesIPv6
	FamiliesDual
)

// Accept reports whether a has a family that f uses.
func (f Families) Accept(a netip.Addr) bool {
	switch f {
	case FamiliesIPv4:
		return a.Is4()
	case FamiliesIPv6:
		return a.Is6()
	case FamiliesAny, FamiliesDual:
	}
	return true
}

// String returns the name that config dumps use; "" when any family will do.
func (f Families) String() string {
	switch f {
	case FamiliesIPv4:
		return "IPv4"
	case FamiliesIPv6:
		return "IPv6"
	case FamiliesDual:
		return "Dual"
	case FamiliesAny:
	}
	return ""
}

// Balancing says which endpoints of a service are preferred. The zero Balancing
// takes any healthy one, by capacity.
type Balancing struct {
	Mode           Mode
	Scopes         []Scope // most important first
	AllowUnhealthy bool
}

// Mode says what the preference means.
type Mode uint8

const (
	ModeStandard    Mode = iota // any endpoint
	ModeStrict                  // only endpoints that match every scope
	ModeFailover                // the best group that has endpoints
	ModePassthrough             // the original destination
)

// String returns the name that config dumps use.
func (m Mode) String() string {
	switch m {
	case ModeStrict:
		return "Strict"
	case ModeFailover:
		return "Failover"
	case ModePassthrough:
		return "Passthrough"
	case ModeStandard:
	}
	return "Standard"
}

// Scope is one thing that source and endpoint may have in common.
type Scope uint8

const (
	ScopeRegion Scope = iota + 1
	ScopeZone
	ScopeSubzone
	ScopeNode
	ScopeCluster
	ScopeNetwork
)

// String returns the name that config dumps use.
func (s Scope) String() string {
	switch s {
	case ScopeRegion:
		return "Region"
	case ScopeZone:
		return "Zone"
	case ScopeSubzone:
		return "Subzone"
	case ScopeNode:
		return "Node"
	case ScopeCluster:
		return "Cluster"
	case ScopeNetwork:
		return "Network"
	}
	return "unknown"
}

// Gateway is where a waypoint or a network gateway is: by host name or by
// address.
type Gateway struct {
	Host Key         // zero when Addr is set
	Addr NetworkAddr // zero when Host is set
	Port uint16      // where it accepts tunnels; never zero
}

// ByAddr reports whether the gateway is given by address.
func (g Gateway) ByAddr() bool { return g.Addr.Addr.IsValid() }

// String names the gateway for people.
func (g Gateway) String() string {
	if g.ByAddr() {
		return netip.AddrPortFrom(g.Addr.Addr, g.Port).String()
	}
	return g.Host.String()
}

// WeightedGateway is one share of a canary between waypoints.
type WeightedGateway struct {
	Gateway Gateway
	Weight  uint32
}

// Endpoint is one workload in its part as an endpoint of a service.
type Endpoint struct {
	Workload *Workload
	Ports    Ports // what the endpoint maps itself
}
