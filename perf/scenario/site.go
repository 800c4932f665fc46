package scenario

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/internal/lab"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/perf/load"
	"github.com/ambit-mesh/ambit/perf/measure"
	"github.com/ambit-mesh/ambit/perf/report"
)

// readyTimeout is how long a mesh may take until the first request gets
// through.
const readyTimeout = 20 * time.Second

// site is one variant that stands.
type site struct {
	variant string
	lab     *lab.Lab
	control map[string]string // sockets of the pods' programs, by namespace/name
}

// way is a way through the mesh.
type way struct {
	name, title string
	from, to    [2]string // pods: namespace, name
	nodes       []int     // whose proxies are on the way
}

// The ways; see the package comment.
var (
	same   = way{"same", "two pods of one node", [2]string{"shop", "web"}, [2]string{"books", "api-1"}, []int{1}}
	across = way{"across", "two nodes", [2]string{"shop", "web"}, [2]string{"shop", "cart"}, []int{1, 2}}
)

// startSite builds the lab of a variant.
func startSite(ctx context.Context, cfg Config, variant string) (*site, error) {
	lc := lab.Config{
		Name: "perf-" + strings.TrimPrefix(variant, "ours-"), BinDir: cfg.BinDir, App: cfg.App,
		// Nothing is renewed while it is measured.
		SecretTTL: 24 * time.Hour,
	}
	switch variant {
	case report.None:
		lc.NoMesh = true
	case report.Ours:
		lc.ZtunnelEnv = cfg.OursEnv
	case report.OursEncrypted:
		lc.ZtunnelEnv = append([]string{"AMBIT_LOCAL_PATH=off"}, cfg.OursEnv...)
	case report.Peer:
		lc.Ztunnels = map[string]string{"node-1": cfg.Ztunnel, "node-2": cfg.Ztunnel}
	}
	l, err := lab.Up(ctx, lc)
	if err != nil {
		return nil, fmt.Errorf("lab %s: %w", lc.Name, err)
	}
	s := &site{variant: variant, lab: l, control: map[string]string{}}
	state, err := lab.ReadState(l.Dir())
	if err == nil {
		for _, p := range state.Pods {
			s.control[p.Namespace+"/"+p.Name] = p.Control
		}
		err = s.settle(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, s.close(ctx))
	}
	return s, nil
}

// close removes the lab.
func (s *site) close(ctx context.Context) error { return s.lab.Close(context.WithoutCancel(ctx)) }

// settle waits until requests get through on both ways.
func (s *site) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for _, w := range []way{same, across} {
		c := s.client(w.from)
		defer c.Close()
		for {
			run, err := c.Start(ctx, load.Order{Kind: load.Hold, Address: s.address(w, load.WebPort), Connections: 1})
			if err == nil {
				run.Stop()
				break
			}
			if lifecycle.Sleep(ctx, 50*time.Millisecond) != nil {
				return fmt.Errorf("%s: nothing gets through between %s: %w", s.variant, w.title, err)
			}
		}
	}
	return nil
}

// client gives orders to the programs of a pod.
func (s *site) client(pod [2]string) *load.Client {
	return load.NewClient(s.control[pod[0]+"/"+pod[1]])
}

// address is where a port of the far end of w is.
func (s *site) address(w way, port uint16) string {
	return netip.AddrPortFrom(s.lab.Pod(w.to[0], w.to[1]).Address, port).String()
}

// proxies are the ztunnels on a way.
func (s *site) proxies(w way) (names []string) {
	if s.variant == report.None {
		return nil
	}
	for _, i := range w.nodes {
		names = append(names, proxyName(i))
	}
	return names
}

func proxyName(node int) string { return fmt.Sprintf("ztunnel node-%d", node) }

// processes are all programs of the site that work while w is loaded.
func (s *site) processes(w way) []measure.Process {
	all := []measure.Process{
		{Name: "client", PID: s.lab.Pod(w.from[0], w.from[1]).Programs.Record.PID},
		{Name: "server", PID: s.lab.Pod(w.to[0], w.to[1]).Programs.Record.PID},
	}
	if s.variant == report.None {
		return all
	}
	all = append(all, measure.Process{Name: "istiod-lite", PID: s.lab.Istiod().Record.PID})
	for i, n := range s.lab.Nodes() {
		all = append(all,
			measure.Process{Name: proxyName(i + 1), PID: n.Ztunnel.Record.PID},
			measure.Process{Name: "agent " + n.Name, PID: n.Agent.Record.PID})
	}
	return all
}

// restart gives the site fresh proxies: what an earlier load has made them hold
// is gone.
func (s *site) restart(ctx context.Context) error {
	for _, n := range s.lab.Nodes() {
		if err := n.Ztunnel.Stop(); err != nil {
			return err
		}
		if err := s.lab.StartZtunnel(ctx, n); err != nil {
			return err
		}
	}
	for _, n := range s.lab.Nodes() {
		if err := s.lab.WaitZtunnel(ctx, n); err != nil {
			return err
		}
	}
	return s.settle(ctx)
}
