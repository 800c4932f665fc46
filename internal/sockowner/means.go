package sockowner

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/ambit-mesh/ambit/internal/netns"
)

// Means are what tells the kubelet's sockets from others while there is no agent to
// ask. The agent of a node hands them over ([Client.Run]). What they cannot tell is
// not the kubelet's: a kubelet that has been started anew, in another cgroup, waits
// for the next agent. A cgroup's number is not given away again before the node
// starts anew, so that what was learned long ago is no other's today.
type Means struct {
	Sockets *netns.Diag // of the node's own namespace
	Cgroups []uint64    // in one of which each process of the kubelet is, and no pod's
	Any     bool        // every socket of the node counts as the kubelet's
}

// errNotByCgroup is why a socket of the node is not known for the kubelet's.
var errNotByCgroup = errors.New("without the agent the kubelet is known by its cgroup alone, and this is a socket of another")

// Owner is [Client.Owner] by these means. It waits for nothing.
func (m Means) Owner(client, server netip.AddrPort) (Owner, error) {
	s, found, err := m.Sockets.Socket(client, server)
	switch {
	case err != nil || !found:
		return Owner{}, err
	case m.Any || s.Cgroup != 0 && slices.Contains(m.Cgroups, s.Cgroup):
		return Owner{Found: true, Kubelet: true}, nil
	}
	return Owner{Found: true}, errNotByCgroup
}

// check says why nothing can be told by m.
func (m Means) check() error {
	if m.Any {
		return nil
	}
	if len(m.Cgroups) == 0 || len(m.Cgroups) > maxCgroups || slices.Contains(m.Cgroups, 0) {
		return fmt.Errorf("the kubelet is said to be in the cgroups %v, want 1 to %d of them", m.Cgroups, maxCgroups)
	}
	return nil
}
