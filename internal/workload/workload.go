package workload

import (
	"net/netip"

	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/policy"
)

// Defaults of fields that the control plane leaves empty.
const (
	DefaultTrustDomain    = "cluster.local"
	DefaultServiceAccount = "default"
	DefaultClusterID      = "Kubernetes"
)

// HBONEPort is where ztunnels and waypoints accept tunnels.
const HBONEPort = 15008

// Workload is one endpoint: a pod, or something outside that acts like one. It
// never changes; whoever holds one must not write to it.
type Workload struct {
	Names
	Location
	Reach
	Role
	Owner

	// Seeded is true when only the CNI agent has told of this workload.
	Seeded bool
}

// Names say who a workload is.
type Names struct {
	UID            string
	Name           string
	Namespace      string
	ServiceAccount string      // never empty
	TrustDomain    string      // never empty
	Identity       identity.ID // zero when the names cannot make one
}

// Location says where a workload is.
type Location struct {
	Network     string
	Addresses   []netip.Addr // unmapped
	Hostname    string       // a DNS name instead of addresses
	HostNetwork bool         // the addresses are the node's, not its own
	Node        string
	ClusterID   string // never empty
	Locality    Locality
}

// Reach says how to get to a workload.
type Reach struct {
	Protocol       Protocol
	NativeTunnel   bool // the application itself accepts tunnels
	AppTunnel      *AppTunnel
	Waypoint       *Gateway // for calls of its own address
	NetworkGateway *Gateway // when it is on another network
}

// Role says what a workload does and what applies to it.
type Role struct {
	Services map[Key]Ports // membership, and ports that this endpoint maps itself
	Policies []string      // names of policies that apply besides those of its namespace
	Healthy  bool
	Capacity uint32 // weight in load balancing
}

// Owner is what a workload was made from, for metrics.
type Owner struct {
	CanonicalName     string
	CanonicalRevision string
	WorkloadName      string
	Type              Type
}

// Subject is the workload as policies know it.
func (w *Workload) Subject() policy.Subject {
	return policy.Subject{Name: w.Name, Namespace: w.Namespace, ServiceAccount: w.ServiceAccount}
}

// HasAddress reports whether a is one of the workload's addresses.
func (w *Workload) HasAddress(a netip.Addr) bool {
	for _, own := range w.Addresses {
		if own == a {
			return true
		}
	}
	return false
}

// Protocol says how to reach a workload.
type Protocol uint8

const (
	ProtocolTCP   Protocol = iota // plain
	ProtocolHBONE                 // through a tunnel
)

// String returns the name that config dumps use.
func (p Protocol) String() string {
	if p == ProtocolHBONE {
		return "HBONE"
	}
	return "TCP"
}

// Type is the kind of a workload's owner.
type Type uint8

const (
	TypeDeployment Type = iota
	TypeCronJob
	TypePod
	TypeJob
)

// String returns the word that baggage and metrics use.
func (t Type) String() string {
	switch t {
	case TypeCronJob:
		return "cronjob"
	case TypePod:
		return "pod"
	case TypeJob:
		return "job"
	case TypeDeployment:
	}
	return "deployment"
}

// Locality is a place, largest part first.
type Locality struct{ Region, Zone, Subzone string }

// AppTunnel asks for a header or another port on the last hop.
type AppTunnel struct {
	Proxy bool   // a PROXY header precedes the first byte
	Port  uint16 // zero: the port that was asked for
}

// Ports maps a service port to a port of the endpoint. Zero means "named": ask
// the endpoint.
type Ports map[uint16]uint16

// LocalWorkload is what the CNI agent knows of a pod.
type LocalWorkload struct {
	UID            string // the agent's key for Unseed
	Name           string
	Namespace      string
	ServiceAccount string
	Addresses      []netip.Addr
}
