package machine

import (
	"encoding/json"
	"os"
	"path/filepath"
)

// Files of a machine's directory on the host.
const (
	specFile    = "machine.json"
	ControlFile = "control.sock"
	LogDir      = "log"
)

// Spec says what a machine is.
type Spec struct {
	Hostname string    `json:"hostname"`
	Programs []Program `json:"programs"` // directories of the host that are seen on the machine, read-only
	Services []Service `json:"services"`
}

// Program is a directory of programs of the host at a path of the machine.
type Program struct {
	Host string `json:"host"`
	Path string `json:"path"`
}

// Service is a program that runs as long as the machine does. It is started again
// one second after it has ended.
type Service struct {
	Name string   `json:"name"`
	Path string   `json:"path"`
	Args []string `json:"args"`
	// After is a file that must be there before the service starts, for example the
	// socket of another one. Empty means at once.
	After string `json:"after,omitempty"`
}

// ServiceStatus is the state of a service.
type ServiceStatus struct {
	Name    string `json:"name"`
	PID     int    `json:"pid"`     // in the machine's own numbers; 0 when it does not run
	Starts  int    `json:"starts"`  // how often it was started
	Stopped bool   `json:"stopped"` // it was asked to stop
}

// Write puts the spec where the machine's init finds it.
func (s Spec) Write(dir string) error {
	raw, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, specFile), append(raw, '\n'), 0o600)
}

// readSpec reads what Write has written.
func readSpec(dir string) (Spec, error) {
	var s Spec
	raw, err := os.ReadFile(filepath.Join(dir, specFile))
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(raw, &s)
}
