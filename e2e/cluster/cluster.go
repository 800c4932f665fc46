package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/ambit-mesh/ambit/e2e/cluster/machine"
	"github.com/ambit-mesh/ambit/internal/lab/proc"
)

// Cluster is a cluster that stands. It may be used from many goroutines.
type Cluster struct {
	// Set by Up or Open, then only read; a reboot changes a node's number in nodes.
	dir   string
	state state
}

// Node is a node of a cluster, or the machine of its control plane.
type Node struct {
	Name    string
	Address netip.Addr
	PodCIDR netip.Prefix
	PID     int    // of its first process, in the host's numbers
	Dir     string // on the host; its /var is Dir/var
}

// Open finds a cluster that was built by this process or another. The error is
// [fs.ErrNotExist] when there is none. An empty name or dir means the usual one.
func Open(name, dir string) (*Cluster, error) {
	name = cmp.Or(name, defaultName)
	dir, err := dirOf(name, dir)
	if err != nil {
		return nil, err
	}
	s, err := readState(dir)
	if isNone(err) {
		return nil, errNone(name)
	}
	if err != nil {
		return nil, err
	}
	if !s.Ready {
		return nil, fmt.Errorf("cluster %q is being built, or its building was broken off: wait, or ambit lab down --name %s", name, name)
	}
	return &Cluster{dir: dir, state: s}, nil
}

// Name is the cluster's name.
func (c *Cluster) Name() string { return c.state.Name }

// Kubeconfig is the path of a file with which its administrator is known.
func (c *Cluster) Kubeconfig() string { return filepath.Join(c.dir, "kubeconfig") }

// Kubectl is a call of kubectl on the cluster.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.programs().Kubectl(), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig())
	return cmd
}

func (c *Cluster) programs() Programs { return Programs{dirs: c.state.Programs} }

// Nodes lists the nodes.
func (c *Cluster) Nodes() []Node {
	var nodes []Node
	for _, m := range c.state.Machines[1:] {
		nodes = append(nodes, c.node(m))
	}
	return nodes
}

// Control is the machine of the control plane.
func (c *Cluster) Control() Node { return c.node(c.state.Machines[0]) }

func (c *Cluster) node(m machineRecord) Node {
	return Node{Name: m.Name, Address: m.Address, PodCIDR: m.PodCIDR, PID: m.Init.PID, Dir: filepath.Join(c.dir, m.Name)}
}

// Command is a program that runs on the node: with its root, its network and its
// processes.
func (n Node) Command(ctx context.Context, args ...string) *exec.Cmd {
	return machine.Command(ctx, n.PID, args...)
}

// Root is the node's file system as the host sees it.
func (n Node) Root() string { return fmt.Sprintf("/proc/%d/root", n.PID) }

// StartService lets a service of the machine run that was stopped.
func (n Node) StartService(ctx context.Context, name string) error {
	_, err := machine.Ask(ctx, n.Dir, "start "+name)
	return err
}

// StopService ends a service of the machine and keeps it down.
func (n Node) StopService(ctx context.Context, name string) error {
	_, err := machine.Ask(ctx, n.Dir, "stop "+name)
	return err
}

// KillService ends a service with SIGKILL; it is started again a second later.
func (n Node) KillService(ctx context.Context, name string) error {
	_, err := machine.Ask(ctx, n.Dir, "kill "+name)
	return err
}

// Status is what can be said of a cluster without asking its API server, and what
// that says of its nodes.
type Status struct {
	Name       string          `json:"name"`
	Ready      bool            `json:"ready"` // built to the end, and all of it lives
	Kubeconfig string          `json:"kubeconfig"`
	Server     string          `json:"server"`
	Machines   []MachineStatus `json:"machines"`
}

// MachineStatus is the state of a machine.
type MachineStatus struct {
	Name     string                  `json:"name"`
	Address  netip.Addr              `json:"address"`
	PodCIDR  netip.Prefix            `json:"podCIDR,omitzero"`
	PID      int                     `json:"pid"`
	Alive    bool                    `json:"alive"`
	Node     string                  `json:"node,omitempty"` // Ready, NotReady, Unknown
	Services []machine.ServiceStatus `json:"services,omitempty"`
}

// StatusOf says how the cluster of this name is. The error is [fs.ErrNotExist] when
// there is none.
func StatusOf(ctx context.Context, name, dir string) (Status, error) {
	name = cmp.Or(name, defaultName)
	dir, err := dirOf(name, dir)
	if err != nil {
		return Status{}, err
	}
	s, err := readState(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return Status{}, errNone(name)
	}
	if err != nil {
		return Status{}, err
	}
	c := &Cluster{dir: dir, state: s}
	status := Status{Name: name, Ready: s.Ready, Kubeconfig: c.Kubeconfig()}
	conditions := map[string]string{}
	for i, m := range s.Machines {
		ms := MachineStatus{Name: m.Name, Address: m.Address, PodCIDR: m.PodCIDR, PID: m.Init.PID, Alive: m.Init.Alive()}
		if ms.Alive {
			// A machine that does not answer has no services to show.
			ms.Services, _ = machine.Status(ctx, filepath.Join(dir, m.Name))
		}
		if i == 0 {
			status.Server = "https://" + netip.AddrPortFrom(m.Address, 6443).String()
			if ms.Alive && s.Ready {
				conditions = c.nodeConditions(ctx)
			}
		} else {
			ms.Node = cmp.Or(conditions[m.Name], "Unknown")
			status.Ready = status.Ready && ms.Node == "Ready"
		}
		status.Ready = status.Ready && ms.Alive
		status.Machines = append(status.Machines, ms)
	}
	return status, nil
}

// nodeConditions asks the API server which nodes are ready. It says nothing of a
// node when there is no answer.
func (c *Cluster) nodeConditions(ctx context.Context) map[string]string {
	out, err := c.Kubectl(ctx, "get", "nodes", "-o", "json", "--request-timeout=5s").Output()
	if err != nil {
		return nil
	}
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Status   struct {
				Conditions []struct{ Type, Status string }
			}
		}
	}
	if json.Unmarshal(out, &list) != nil {
		return nil
	}
	conditions := map[string]string{}
	for _, n := range list.Items {
		for _, cond := range n.Status.Conditions {
			if cond.Type != "Ready" {
				continue
			}
			conditions[n.Metadata.Name] = map[string]string{"True": "Ready", "False": "NotReady"}[cond.Status]
		}
	}
	return conditions
}

// alive reports which of the recorded machines still run.
func (s state) alive() []proc.Record {
	var living []proc.Record
	for _, m := range s.Machines {
		if m.Init.Alive() {
			living = append(living, m.Init)
		}
	}
	return living
}

// InNetworkOf is a program of the host that runs in the network of a process, for
// example of a pod.
func InNetworkOf(ctx context.Context, pid int, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--target", fmt.Sprint(pid), "--net", "--"}, args...)...)
}
