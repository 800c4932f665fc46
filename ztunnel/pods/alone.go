package pods

import (
	"context"

	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/zds"
)

// aloneTask is what readiness waits for where there is no agent.
const aloneTask = "listeners of the workload"

// ServeAlone starts to serve the one pod of a proxy that has no agent, and makes
// us ready. ns belongs to the Manager from here on.
//
// An error means that the pod is not served: nobody else would be told, so the
// caller should give up.
func (m *Manager) ServeAlone(ctx context.Context, uid string, info zds.Info, ns *netns.NS) error {
	seen := false
	err := m.ask(ctx, func(r *run) error {
		seen = true
		if err := m.add(r, uid, info, ns); err != nil {
			return err
		}
		m.snapshot()
		return nil
	})
	if err != nil && !seen {
		ns.Close()
	}
	return err
}
