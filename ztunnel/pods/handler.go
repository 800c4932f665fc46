package pods

import (
	"context"
	"errors"
	"fmt"

	"go.uber.org/zap"

	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/zds"
)

var _ zds.Handler = (*Manager)(nil)

// snapshotTask is what readiness waits for until the agent has told of its pods.
const snapshotTask = "pods of the CNI agent"

// Add starts to serve a pod. A pod that is known with the same namespace and
// the same names is nothing new; with another one it starts anew. ns belongs to
// the Manager from here on.
//
// An error means that the pod is pending: it will be tried again.
func (m *Manager) Add(ctx context.Context, uid string, info zds.Info, ns *netns.NS) error {
	err := m.ask(ctx, func(r *run) error { return m.add(r, uid, info, ns) })
	if errors.Is(err, errStopping) || (ctx.Err() != nil && err == context.Cause(ctx)) {
		ns.Close() // the owner has not seen it
	}
	return err
}

func (m *Manager) add(r *run, uid string, info zds.Info, ns *netns.NS) error {
	defer m.publish()
	if info.Name == "" || info.Namespace == "" {
		ns.Close()
		return fmt.Errorf("pod %s without a name and a namespace", uid)
	}
	if p := m.pods[uid]; p != nil {
		if p.ns.ID() == ns.ID() && p.info == info {
			ns.Close()
			if p.proxy != nil {
				return nil
			}
			return m.start(r, p)
		}
		m.remove(uid, ErrRestarted)
	}
	p := &pod{uid: uid, info: info, ns: ns}
	m.pods[uid] = p
	m.seed(p)
	return m.start(r, p)
}

// Keep confirms a pod whose namespace the agent has lost.
func (m *Manager) Keep(ctx context.Context, uid string) error {
	return m.ask(ctx, func(*run) error {
		if m.pods[uid] == nil {
			return fmt.Errorf("pod %s cannot be kept: it is not here", uid)
		}
		return nil
	})
}

// Del ends everything of a pod at once. An unknown uid is no error.
func (m *Manager) Del(ctx context.Context, uid string) error {
	return m.ask(ctx, func(*run) error {
		m.remove(uid, ErrRemoved)
		m.publish()
		return nil
	})
}

// Snapshot ends every pod that is not in present. The first one makes us ready.
func (m *Manager) Snapshot(ctx context.Context, present map[string]bool) error {
	return m.ask(ctx, func(*run) error {
		for uid := range m.pods {
			if !present[uid] {
				m.remove(uid, ErrRemoved)
			}
		}
		if m.snapshot != nil {
			m.snapshot()
			m.snapshot = nil
		}
		m.publish()
		m.log.Info("the CNI agent has told of all its pods", zap.Int("pods", len(m.pods)))
		return nil
	})
}

// Disconnected notes that the agent is away. Pods are served as before, but we
// do not call ourselves ready: new pods would not reach us.
func (m *Manager) Disconnected(err error) {
	c := command{result: make(chan error, 1), do: func(*run) error {
		if m.snapshot == nil {
			m.snapshot = m.deps.Ready.Task(snapshotTask)
		}
		m.log.Warn("the CNI agent is away", zap.Error(err))
		return nil
	}}
	select {
	case m.commands <- c:
		<-c.result
	case <-m.stopped: // nobody asks any more whether we are ready
	}
}
