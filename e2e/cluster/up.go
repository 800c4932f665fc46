package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/ambit-mesh/ambit/e2e/cluster/machine"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

const (
	// readyWithin is how long nodes have to become ready after their start.
	readyWithin = 120 * time.Second
	// pollEvery is how often a condition is looked at.
	pollEvery = 100 * time.Millisecond
)

// builder makes one cluster.
type builder struct {
	cfg      Config
	programs Programs
	state    state
	ca       *authority
	machines []*machine.Machine
	images   []string // archives of the lab's own images
}

// Up builds a cluster and returns when its nodes are ready and its name server is
// about to start. One that was left under the same name by a crash is removed first;
// one that stands is an error. When Up fails, what it has built is removed again.
func Up(ctx context.Context, cfg Config) (*Cluster, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := preflight(); err != nil {
		return nil, err
	}
	b := &builder{cfg: cfg}
	// Before the lock: two people may build programs at the same time.
	if b.programs, err = Build(ctx, cfg); err != nil {
		return nil, err
	}
	held, err := lock(ctx, cfg.Name)
	if err != nil {
		return nil, err
	}
	defer held.Close()
	if err := b.makeWay(ctx); err != nil {
		return nil, err
	}
	c, err := b.build(ctx)
	if err != nil {
		// A machine that was not kept ends here at the latest.
		for _, m := range b.machines {
			err = errors.Join(err, m.Kill())
		}
		_, derr := remove(context.WithoutCancel(ctx), cfg.Name, cfg.Dir)
		return nil, errors.Join(err, derr)
	}
	return c, nil
}

// makeWay removes what a crash has left, and refuses to build over a living cluster.
func (b *builder) makeWay(ctx context.Context) error {
	s, err := readState(b.cfg.Dir)
	if err == nil && s.Ready && len(s.alive()) == len(s.Machines) {
		return fmt.Errorf("cluster %q stands already: use it, or ambit lab down --name %s, or another --name: %w", b.cfg.Name, b.cfg.Name, fs.ErrExist)
	}
	removed, err := remove(ctx, b.cfg.Name, b.cfg.Dir)
	if err != nil {
		return fmt.Errorf("remove what was left of cluster %q: %w", b.cfg.Name, err)
	}
	if removed != (Removed{}) {
		b.cfg.Progress("an earlier cluster of this name had not ended well: " + removed.String())
	}
	return nil
}

// build makes everything, in the order in which it depends on each other.
func (b *builder) build(ctx context.Context) (*Cluster, error) {
	if err := b.plan(); err != nil {
		return nil, err
	}
	b.cfg.Progress(fmt.Sprintf("control plane and %d nodes at %v", b.cfg.Nodes, b.state.Subnet))
	if err := b.startMachines(ctx); err != nil {
		return nil, err
	}
	c := &Cluster{dir: b.cfg.Dir, state: b.state}
	if err := b.loadImages(ctx, c); err != nil {
		return nil, err
	}
	b.cfg.Progress("waiting for the API server and the nodes")
	if err := c.applyAddons(ctx); err != nil {
		return nil, err
	}
	if err := c.waitNodes(ctx); err != nil {
		return nil, err
	}
	for _, m := range b.machines {
		if err := m.Keep(); err != nil {
			return nil, err
		}
	}
	b.state.Ready = true
	c.state = b.state
	err := b.state.write(b.cfg.Dir)
	for _, m := range b.machines {
		err = errors.Join(err, m.Release())
	}
	return c, err
}

// plan decides on names and addresses and writes what the machines need.
func (b *builder) plan() (err error) {
	subnet := b.cfg.Subnet
	if !subnet.IsValid() {
		if subnet, err = freeSubnet(); err != nil {
			return err
		}
	}
	b.state = state{Name: b.cfg.Name, Subnet: subnet, Source: b.cfg.Source, Cache: b.cfg.Cache, Programs: b.programs.dirs}
	b.state.Machines = []machineRecord{{Name: controlName, Address: addressAt(subnet, 1)}}
	for i := 1; i <= b.cfg.Nodes; i++ {
		b.state.Machines = append(b.state.Machines, machineRecord{
			Name: fmt.Sprintf("node-%d", i), Address: addressAt(subnet, byte(10+i)), PodCIDR: podCIDROf(i),
		})
	}
	if err := os.MkdirAll(b.cfg.Dir, 0o711); err != nil {
		return err
	}
	if b.ca, err = newAuthority(b.cfg.Name); err != nil {
		return err
	}
	if err := b.writeControl(); err != nil {
		return err
	}
	for _, m := range b.state.Machines[1:] {
		if err := b.writeNode(m); err != nil {
			return err
		}
	}
	b.images, err = makeImages(b.programs, b.cfg.Dir)
	return err
}

func (b *builder) machineDir(name string) string { return filepath.Join(b.cfg.Dir, name) }

func (b *builder) kubeconfig() string { return filepath.Join(b.cfg.Dir, "kubeconfig") }

// startMachines brings all machines up and connects them.
func (b *builder) startMachines(ctx context.Context) error {
	for i := range b.state.Machines {
		r := &b.state.Machines[i]
		m, err := startMachine(ctx, b.cfg.Dir, b.state, r.Name)
		if err != nil {
			return fmt.Errorf("start machine %s: %w", r.Name, err)
		}
		b.machines = append(b.machines, m)
		r.Init = m.Record
	}
	// Written before the network is made: it hangs on the machines.
	if err := b.state.write(b.cfg.Dir); err != nil {
		return err
	}
	if err := wire(b.state); err != nil {
		return err
	}
	for _, m := range b.machines {
		if err := m.Wired(); err != nil {
			return err
		}
	}
	return nil
}

// startMachine starts one machine in a new cgroup.
func startMachine(ctx context.Context, dir string, s state, name string) (*machine.Machine, error) {
	group := filepath.Join(cgroupOf(s.Name), name)
	if err := machine.MakeCgroup(group); err != nil {
		return nil, err
	}
	return machine.Start(ctx, machine.Config{
		Init: Programs{dirs: s.Programs}.path(groupOurs, "labnode"),
		Dir:  filepath.Join(dir, name), Mark: markEnv + "=" + dir, Cgroup: group,
	})
}

// cgroupOf is the cgroup that holds those of a cluster's machines.
func cgroupOf(name string) string { return "ambit-lab-" + name }

// waitNodes returns when all nodes are ready.
func (c *Cluster) waitNodes(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	for {
		conditions, ready := c.nodeConditions(ctx), 0
		for _, n := range c.Nodes() {
			if conditions[n.Name] == "Ready" {
				ready++
			}
		}
		if ready == len(c.Nodes()) {
			return nil
		}
		if err := lifecycle.Sleep(ctx, pollEvery); err != nil {
			return fmt.Errorf("nodes after %v: %d of %d ready (%v); their logs are in %s/node-*/var/log: %w",
				readyWithin, ready, len(c.Nodes()), conditions, c.dir, err)
		}
	}
}

// RebootNode removes everything that runs on a node, with its mounts and its network,
// as a power cut would, and starts the machine anew with the same disk. before is
// called when the new machine has its network and nothing runs on it yet; it may be nil.
func (c *Cluster) RebootNode(ctx context.Context, name string, before func(Node) error) error {
	for i := range c.state.Machines {
		r := &c.state.Machines[i]
		if r.Name != name || i == 0 {
			continue
		}
		if err := r.Init.End(ctx); err != nil {
			return err
		}
		if err := removeCgroup(ctx, filepath.Join(cgroupOf(c.state.Name), name)); err != nil {
			return err
		}
		m, err := startMachine(ctx, c.dir, c.state, name)
		if err != nil {
			return fmt.Errorf("start machine %s again: %w", name, err)
		}
		r.Init = m.Record
		err = c.state.write(c.dir)
		if err == nil {
			err = plugNode(c.state, *r)
		}
		if err == nil && before != nil {
			err = before(c.node(*r))
		}
		if err == nil {
			err = errors.Join(m.Wired(), m.Keep())
		}
		if err != nil {
			return errors.Join(err, m.Kill())
		}
		return m.Release()
	}
	return fmt.Errorf("no node %q in cluster %s", name, c.state.Name)
}
