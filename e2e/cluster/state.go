package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/ambit-mesh/ambit/internal/lab/proc"
)

const (
	stateFile = "state.json"
	// stateFormat is raised when an older program could not remove what a newer one
	// has made.
	stateFormat = 1
	// markEnv is in the environment of each process of a cluster; its value is the
	// cluster's directory.
	markEnv = "AMBIT_LAB_CLUSTER"
)

// controlName is the machine of the API server.
const controlName = "control"

// state is what a cluster has made on this machine.
type state struct {
	Format   int               `json:"format"`
	Name     string            `json:"name"`
	Subnet   netip.Prefix      `json:"subnet"`
	Source   string            `json:"source"`
	Cache    string            `json:"cache"`
	Programs map[string]string `json:"programs"` // directories by group
	Ready    bool              `json:"ready"`    // it was built to the end
	Machines []machineRecord   `json:"machines"` // the control plane first
}

// machineRecord is what another process must know of a machine.
type machineRecord struct {
	Name    string       `json:"name"`
	Address netip.Addr   `json:"address"`
	PodCIDR netip.Prefix `json:"podCIDR,omitzero"`
	Init    proc.Record  `json:"init"`
}

// readState reads the state file in dir; the error is [fs.ErrNotExist] when there is none.
func readState(dir string) (state, error) {
	path := filepath.Join(dir, stateFile)
	raw, err := os.ReadFile(path)
	if err != nil {
		return state{}, err
	}
	s, err := parseState(raw)
	if err != nil {
		return state{}, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// parseState reads what write writes, and refuses what could make a removal touch
// things that no cluster makes.
func parseState(raw []byte) (state, error) {
	var s state
	if err := json.Unmarshal(raw, &s); err != nil {
		return state{}, err
	}
	if s.Format != stateFormat {
		return state{}, fmt.Errorf("format %d, want %d: written by another version of ambit", s.Format, stateFormat)
	}
	if !nameForm.MatchString(s.Name) {
		return state{}, fmt.Errorf("cluster name %q: not a name of a cluster", s.Name)
	}
	for _, m := range s.Machines {
		if !nameForm.MatchString(m.Name) {
			return state{}, fmt.Errorf("machine name %q: not a name of a machine", m.Name)
		}
		if m.Init.PID <= 1 || m.Init.StartTime == 0 {
			return state{}, fmt.Errorf("machine %s: pid %d with start time %d cannot be one of ours", m.Name, m.Init.PID, m.Init.StartTime)
		}
	}
	return s, nil
}

// write replaces the state file in dir.
func (s state) write(dir string) error {
	s.Format = stateFormat
	raw, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(dir, stateFile)
	if err := os.WriteFile(path+".tmp", append(raw, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

// lock makes sure that one process at a time builds or removes the cluster of this
// name. It ends with the process at the latest.
func lock(ctx context.Context, name string) (net.Listener, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "unix", "@ambit-lab-cluster/"+name)
	if err != nil {
		return nil, fmt.Errorf("another process builds or removes cluster %q: wait for it to end, or use another --name", name)
	}
	return ln, nil
}

// errNone says that there is no such cluster.
func errNone(name string) error {
	return fmt.Errorf("no cluster %q stands: ambit lab up --name %s: %w", name, name, fs.ErrNotExist)
}

// isNone reports whether err says that there is no such cluster.
func isNone(err error) bool { return errors.Is(err, fs.ErrNotExist) }
