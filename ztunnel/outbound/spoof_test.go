package outbound

import (
	"context"
	"net/netip"
	"testing"

	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/internal/workload"
	"github.com/ambit-mesh/ambit/ztunnel/capture"
	"github.com/ambit-mesh/ambit/ztunnel/route"
)

var (
	podAddr = netip.MustParseAddr("10.0.0.1")
	podID   = identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "web"}
	nextID  = identity.ID{TrustDomain: "cluster.local", Namespace: "bank", ServiceAccount: "ledger"}
)

// oneNeighbour is a node with one other pod, which has any address.
type oneNeighbour struct{}

func (oneNeighbour) Neighbour(policy.Subject) Neighbour { return anywhere{} }

// anywhere is a pod at any address.
type anywhere struct{ Neighbour }

func (anywhere) HasAddr(netip.Addr) bool { return true }

// readyCerts has a certificate for everybody.
type readyCerts struct{}

func (readyCerts) Peek(identity.ID) (*identity.Certificate, bool) { return nil, true }
func (readyCerts) Get(context.Context, identity.ID) (*identity.Certificate, error) {
	return nil, nil
}

// flightFrom is a connection of the pod that shows addr as its own.
func flightFrom(addr string, known ...netip.Addr) *flight {
	return &flight{
		Conn:   &capture.Conn{Client: netip.AddrPortFrom(netip.MustParseAddr(addr), 40000)},
		source: &workload.Workload{Names: workload.Names{Identity: podID}, Location: workload.Location{Addresses: known}},
	}
}

// planNext leads to the neighbour.
var planNext = route.Plan{
	Mode: route.Tunnel, Hop: netip.MustParseAddrPort("10.0.0.2:15008"), Accept: []identity.ID{nextID},
	Destination: &workload.Workload{Names: workload.Names{Identity: nextID}},
}

// The neighbour sees the client's address and decides by it, so the local path
// is only for addresses that are the pod's by everybody's word.
func TestLocalPathIsForTheAddressesOfThePod(t *testing.T) {
	o := New(Config{}, Pod{Addresses: []netip.Addr{podAddr, netip.MustParseAddr("10.0.0.66")}}, Deps{
		Neighbours: oneNeighbour{}, Certs: readyCerts{},
	})
	for _, tt := range []struct {
		name, client string
		want         bool
	}{
		{"its address", "10.0.0.1", true},
		{"one that is not in its namespace", "10.0.0.9", false},
		{"one that it gave itself, and the control plane does not know", "10.0.0.66", false},
		{"loopback", "::1", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := o.neighbour(flightFrom(tt.client, podAddr), planNext) != nil; got != tt.want {
				t.Errorf("local path for %s: %v, want %v", tt.client, got, tt.want)
			}
		})
	}
}

// Addresses that are not the pod's do not make tunnels of their own.
func TestSpoofedAddressesShareATunnel(t *testing.T) {
	o := New(Config{}, Pod{Addresses: []netip.Addr{podAddr}}, Deps{})
	key := func(client string) any { return o.target(flightFrom(client), attempt{plan: planNext}).Key }
	if key("10.9.9.1") != key("10.9.9.2") {
		t.Error("two addresses that are not the pod's have a tunnel each")
	}
	if key("10.0.0.1") == key("10.9.9.1") {
		t.Error("an address that is not the pod's shares the tunnel of one that is")
	}
}
