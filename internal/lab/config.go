package lab

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Config says which lab to build. The zero Config, with BinDir set, is the lab
// of the demo.
type Config struct {
	// Name prefixes all names that the lab makes. Zero means "ambit". Labs of
	// different names stand side by side.
	Name string
	// Dir holds the state file, sockets, manifests and logs. Zero means
	// /run/<Name>-lab.
	Dir string
	// BinDir holds the programs: ztunnel, istiod-lite, ambit-cni,
	// ambit-cni-agent, bridge, host-local.
	BinDir string
	// App is the command that runs the programs of a pod. Zero means the running
	// program with the argument lab-app.
	App []string
	// Nodes is how many nodes there are. Zero means 2.
	Nodes int
	// SecretTTL is how long certificates of workloads live. Zero means a day, as
	// in a cluster.
	SecretTTL time.Duration
	// Ztunnels names another program than BinDir/ztunnel for single nodes.
	Ztunnels map[string]string
	// ZtunnelEnv is added to the environment of each ztunnel.
	ZtunnelEnv []string
	// WaypointEnv is added to the environment of each waypoint of ours.
	WaypointEnv []string
	// PassEnv names variables of our own environment that all programs get.
	PassEnv []string
	// NoMesh builds nodes and pods without anything of ours in the chain.
	NoMesh bool
	// Progress is told what is being done; nil means nobody.
	Progress func(string)
}

// defaultName is the name of the lab of a person who names none.
const defaultName = "ambit"

// withDefaults returns the configuration that is in force.
func (c Config) withDefaults() (Config, error) {
	c.Name = cmp.Or(c.Name, defaultName)
	c.Nodes = cmp.Or(c.Nodes, 2)
	c.SecretTTL = cmp.Or(c.SecretTTL, 24*time.Hour)
	if !validName(c.Name) {
		return Config{}, fmt.Errorf("lab name %q: want at most 20 lower case letters, digits and '-'", c.Name)
	}
	if c.Nodes < 1 || c.Nodes > 9 {
		return Config{}, fmt.Errorf("%d nodes: want 1 to 9", c.Nodes)
	}
	c.Dir = cmp.Or(c.Dir, DefaultDir(c.Name))
	if !filepath.IsAbs(c.Dir) {
		return Config{}, fmt.Errorf("lab directory %q: want an absolute path", c.Dir)
	}
	// A path of a Unix socket has at most 107 bytes; ours add up to 40.
	if len(c.Dir) > 60 {
		return Config{}, fmt.Errorf("lab directory %q: longer than 60 bytes, sockets in it could not be opened", c.Dir)
	}
	if len(c.App) == 0 {
		self, err := os.Executable()
		if err != nil {
			return Config{}, err
		}
		c.App = []string{self, "lab-app"}
	}
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
	return c, nil
}

// DefaultDir is where the lab of a name keeps its things.
func DefaultDir(name string) string { return filepath.Join("/run", name+"-lab") }

// programs is what must lie in BinDir.
func (c Config) programs() []string {
	names := []string{"bridge", "host-local"}
	if !c.NoMesh {
		names = append(names, "ztunnel", "istiod-lite", "ambit-cni", "ambit-cni-agent")
	}
	return names
}

// checkPrograms reports all programs that are missing at once.
func (c Config) checkPrograms() error {
	var missing []string
	for _, name := range c.programs() {
		info, err := os.Stat(filepath.Join(c.BinDir, name))
		if err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("no %s in %s: run `make build`, or name the directory that has them with --bin-dir",
			strings.Join(missing, ", "), cmp.Or(c.BinDir, "(no directory given)"))
	}
	return nil
}

// ErrBusy says that another process is at work on a lab of the same name.
var ErrBusy = errors.New("another ambit works on this lab")
