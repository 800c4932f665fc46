package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/ambit-mesh/ambit/internal/lab/proc"
)

const (
	stateFileName = "state.json"
	// stateFormat is raised when an older program could not clean what a newer
	// one has written.
	stateFormat = 1
)

// ProcessRecord names a process so that it can be found again.
type ProcessRecord = proc.Record

// State is what a lab has made on this machine.
type State struct {
	Format     int             `json:"format"`
	Lab        string          `json:"lab"`
	Owner      ProcessRecord   `json:"owner"`
	Kept       bool            `json:"kept"` // the demo ended and left it standing on purpose
	Namespaces []string        `json:"namespaces"`
	Processes  []ProcessRecord `json:"processes"`
	Pods       []PodRecord     `json:"pods"`
	Nodes      []NodeRecord    `json:"nodes"`
}

// PodRecord is what a later command must know of a pod.
type PodRecord struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
	Node      string `json:"node"`
	NetNS     string `json:"netns"`
	Address   string `json:"address"`
	Control   string `json:"control"` // the socket of its programs
	Mesh      bool   `json:"mesh"`
}

// NodeRecord is what a later command must know of a node.
type NodeRecord struct {
	Name    string `json:"name"`
	NetNS   string `json:"netns"`
	Address string `json:"address"`
	PodCIDR string `json:"podCIDR"`
	Dir     string `json:"dir"`
}

// ReadState reads the state file of the lab in dir. The error is
// [fs.ErrNotExist] when there is none.
func ReadState(dir string) (State, error) {
	path := filepath.Join(dir, stateFileName)
	raw, err := os.ReadFile(path)
	if err != nil {
		return State{}, err
	}
	s, err := parseState(raw)
	if err != nil {
		return State{}, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// parseState reads what stateFile writes, and refuses what could make a
// clean-up touch things that no lab makes.
func parseState(raw []byte) (State, error) {
	var s State
	if err := json.Unmarshal(raw, &s); err != nil {
		return State{}, err
	}
	if s.Format != stateFormat {
		return State{}, fmt.Errorf("format %d, want %d: written by another version of ambit", s.Format, stateFormat)
	}
	if !validName(s.Lab) {
		return State{}, fmt.Errorf("lab name %q: want lower case letters, digits and '-'", s.Lab)
	}
	for _, ns := range s.Namespaces {
		if !ownsName(s.Lab, ns) {
			return State{}, fmt.Errorf("namespace %q: not a name of lab %q", ns, s.Lab)
		}
	}
	for _, p := range s.Processes {
		if p.PID <= 1 || p.StartTime == 0 {
			return State{}, fmt.Errorf("process %q: pid %d with start time %d cannot be one of ours", p.Name, p.PID, p.StartTime)
		}
	}
	return s, nil
}

// validName reports whether s can be the name of a lab, which becomes part of
// file and namespace names.
func validName(s string) bool {
	if s == "" || len(s) > 20 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// ownsName reports whether ns is a namespace that the lab may have made.
func ownsName(lab, ns string) bool {
	prefix := lab + "-"
	return len(ns) > len(prefix) && ns[:len(prefix)] == prefix && filepath.Base(ns) == ns
}

// stateFile keeps a [State] on disk. Each change is on disk before the call
// returns.
type stateFile struct {
	path string

	mu    sync.Mutex
	state State
}

func newStateFile(dir, lab string) (*stateFile, error) {
	f := &stateFile{path: filepath.Join(dir, stateFileName)}
	f.state = State{Format: stateFormat, Lab: lab}
	owner, err := proc.Of(os.Getpid())
	if err != nil {
		return nil, err
	}
	owner.Name = "ambit"
	return f, f.update(func(s *State) { s.Owner = owner })
}

// update changes the state and writes it.
func (f *stateFile) update(change func(*State)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.state)
	raw, err := json.MarshalIndent(f.state, "", "  ")
	if err != nil {
		return err
	}
	return writeAtomic(f.path, append(raw, '\n'), 0o600)
}

// snapshot returns a copy of the state.
func (f *stateFile) snapshot() State {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.state
	s.Namespaces = slices.Clone(s.Namespaces)
	s.Processes = slices.Clone(s.Processes)
	s.Pods = slices.Clone(s.Pods)
	s.Nodes = slices.Clone(s.Nodes)
	return s
}

// writeAtomic replaces path by a file with content: a reader sees the old or
// the new content, never a part. The temporary file has a leading dot, which
// watchers of manifests leave alone.
func writeAtomic(path string, content []byte, mode fs.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(content)
	err = errors.Join(err, tmp.Chmod(mode), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}
