package scenario

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
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
	guest   bool // the lab belongs to another site
	// entries are where clients call instead of the pod, by port; nil: the pod.
	entries map[uint16]netip.AddrPort
	// hops are the programs that carry bytes and are no ztunnels, one per node.
	hops []*lab.Process
	// waypoint is the one of hops that is one; see hop.go.
	waypoint *lab.Waypoint
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

// raceSettings names the settings of programs that were built with the race detector:
// they end a second late unless told otherwise.
var raceSettings = []string{"GORACE"}

// startSite builds what a variant needs. Yardsticks that are plain proxies stand in
// the lab of none, which has been built before.
func startSite(ctx context.Context, cfg Config, variant string, none *site) (*site, error) {
	if y := yardstickNamed(variant); y != nil {
		return y.start(ctx, cfg, none)
	}
	lc := lab.Config{
		Name: cfg.Name + "-" + shortName(variant), BinDir: cfg.BinDir, App: cfg.App,
		// Nothing is renewed while it is measured.
		SecretTTL: 24 * time.Hour,
		PassEnv:   raceSettings,
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
	s := &site{variant: variant, lab: l}
	if err := s.settle(ctx, same, across); err != nil {
		return nil, errors.Join(err, s.close(ctx))
	}
	return s, nil
}

// shortName keeps the names of a lab below what an interface may have.
func shortName(variant string) string {
	switch variant {
	case report.OursEncrypted:
		return "enc"
	case report.WireGuardGo:
		return "wggo"
	case report.WireGuard:
		return "wg"
	}
	return variant
}

// close removes the lab, or what the site has added to another's.
func (s *site) close(ctx context.Context) error {
	if !s.guest {
		return s.lab.Close(context.WithoutCancel(ctx))
	}
	var errs []error
	for _, h := range s.hops {
		errs = append(errs, h.Stop())
	}
	return errors.Join(errs...)
}

// settle waits until requests get through.
func (s *site) settle(ctx context.Context, ways ...way) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for _, w := range ways {
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
	return load.NewClient(s.lab.Pod(pod[0], pod[1]).Control())
}

// address is where a port of the far end of w is.
func (s *site) address(w way, port uint16) string {
	if at, ok := s.entries[port]; ok {
		return at.String()
	}
	return s.lab.Pod(w.to[0], w.to[1]).At(port).String()
}

// mesh says whether ztunnels stand on the ways.
func (s *site) mesh() bool { return s.lab.Istiod() != nil }

// proxies are the programs that carry the bytes of a way.
func (s *site) proxies(w way) (out []measure.Process, err error) {
	for i, n := range s.lab.Nodes() {
		if s.mesh() && slices.Contains(w.nodes, i+1) {
			out = append(out, measure.Process{Name: "ztunnel " + n.Name, PID: n.Ztunnel.Record.PID})
		}
	}
	for i, h := range s.hops {
		name := fmt.Sprintf("%s node-%d", s.variant, i+1)
		out = append(out, measure.Process{Name: name, PID: h.Record.PID})
		children, err := measure.Children(h.Record.PID)
		if err != nil {
			return nil, err
		}
		for j, pid := range children {
			out = append(out, measure.Process{Name: fmt.Sprintf("%s, %d", name, j+1), PID: pid})
		}
	}
	return out, nil
}

// processes are all programs of the site that work while w is loaded, and the names
// of those that carry its bytes.
func (s *site) processes(w way) (all []measure.Process, proxies []string, err error) {
	carriers, err := s.proxies(w)
	if err != nil {
		return nil, nil, err
	}
	for _, p := range carriers {
		proxies = append(proxies, p.Name)
	}
	all = append(carriers,
		measure.Process{Name: "client", PID: s.lab.Pod(w.from[0], w.from[1]).Programs.Record.PID},
		measure.Process{Name: "server", PID: s.lab.Pod(w.to[0], w.to[1]).Programs.Record.PID})
	for _, pod := range w.between(s) {
		all = append(all, measure.Process{Name: "server " + pod.Name, PID: pod.Programs.Record.PID})
	}
	if !s.mesh() {
		return all, proxies, nil
	}
	all = append(all, measure.Process{Name: "istiod-lite", PID: s.lab.Istiod().Record.PID})
	for i, n := range s.lab.Nodes() {
		all = append(all, measure.Process{Name: "agent " + n.Name, PID: n.Agent.Record.PID})
		if !slices.Contains(w.nodes, i+1) {
			all = append(all, measure.Process{Name: "ztunnel " + n.Name, PID: n.Ztunnel.Record.PID})
		}
	}
	return all, proxies, nil
}

// restart gives the site fresh proxies: what an earlier load has made them hold
// is gone.
func (s *site) restart(ctx context.Context) error {
	for _, n := range s.lab.Nodes() {
		if err := s.restartNode(ctx, n); err != nil {
			return err
		}
	}
	for _, n := range s.lab.Nodes() {
		if err := s.lab.WaitZtunnel(ctx, n); err != nil {
			return err
		}
	}
	return s.settle(ctx, same, across)
}

// restartNode ends the ztunnel of a node and starts another one.
func (s *site) restartNode(ctx context.Context, n *lab.Node) error {
	if err := n.Ztunnel.Stop(); err != nil {
		return err
	}
	return s.lab.StartZtunnel(ctx, n)
}
