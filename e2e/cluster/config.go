package cluster

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
)

// Config says what cluster to build. The zero Config is the usual one.
type Config struct {
	// Name tells clusters apart: at most 12 lower case letters, digits and '-'.
	// Empty means "lab".
	Name string
	// Nodes is how many nodes it has. Zero means 2; at most 8.
	Nodes int
	// Dir is where all of the cluster's files go. Empty means a directory with its
	// name below /var/lib/ambit-lab.
	Dir string
	// Cache is where programs that were built stay. Empty means "ambit/lab" in the
	// user's cache directory.
	Cache string
	// Source is a checkout of this repository, out of which programs are built. Empty
	// means the one that the working directory is in.
	Source string
	// Subnet is where the nodes have their addresses, a /24. The zero prefix means the
	// first of 10.55.0.0/24, 10.55.1.0/24 and so on that is free on this machine.
	Subnet netip.Prefix
	// Images are archives that are loaded into each node besides the lab's own.
	Images []string
	// Progress is told what is done next. Nil means nobody is told.
	Progress func(string)
}

const (
	defaultName = "lab"
	baseDir     = "/var/lib/ambit-lab"
	maxNodes    = 8
)

// nameForm leaves room in names of interfaces and in paths of sockets.
var nameForm = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,10}[a-z0-9])?$`)

// dirOf is where the cluster of this name has its files.
func dirOf(name, dir string) (string, error) {
	if !nameForm.MatchString(name) {
		return "", fmt.Errorf("cluster name %q: want at most 12 lower case letters, digits and '-', a letter first", name)
	}
	return cmp.Or(dir, filepath.Join(baseDir, name)), nil
}

// withDefaults returns the configuration that is in force.
func (c Config) withDefaults() (Config, error) {
	c.Name = cmp.Or(c.Name, defaultName)
	dir, err := dirOf(c.Name, c.Dir)
	if err != nil {
		return c, err
	}
	if c.Dir, err = filepath.Abs(dir); err != nil {
		return c, err
	}
	c.Nodes = cmp.Or(c.Nodes, 2)
	if c.Nodes < 1 || c.Nodes > maxNodes {
		return c, fmt.Errorf("%d nodes: want 1 to %d", c.Nodes, maxNodes)
	}
	if c.Cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return c, fmt.Errorf("%w; say where built programs shall stay: --cache DIR", err)
		}
		c.Cache = filepath.Join(user, "ambit", "lab")
	}
	if c.Source == "" {
		if c.Source, err = findSource(); err != nil {
			return c, err
		}
	}
	if c.Subnet.IsValid() && (!c.Subnet.Addr().Is4() || c.Subnet.Bits() != 24) {
		return c, fmt.Errorf("subnet %v: want an IPv4 prefix of length 24", c.Subnet)
	}
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
	return c, nil
}

// findSource looks upwards from the working directory for a checkout.
func findSource() (string, error) {
	at, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		_, err := os.Stat(filepath.Join(at, toolsDir, "go.mod"))
		if err == nil {
			return at, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		up := filepath.Dir(at)
		if up == at {
			return "", errors.New("a lab builds Kubernetes from source: run this inside a checkout of ambit, or name one with --source DIR")
		}
		at = up
	}
}
