package redirect

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ambit-mesh/ambit/internal/netns"
)

// setting is a file below /proc/sys that belongs to a network namespace.
type setting struct{ path, value, without string }

// settings are what a namespace needs before rules are written into it.
var settings = []setting{
	// Rules that look at connections make the kernel begin to track them. By
	// default it then takes those that stand for new ones, and redirects them: they
	// would break. Without this they stay what they are, outside of the mesh, until
	// they end. It also keeps a stranger from having a connection tracked, and so
	// let go, before its first packet is judged. Source: nf_conntrack-sysctl,
	// nf_conntrack_tcp_loose.
	{"net/netfilter/nf_conntrack_tcp_loose", "0", "connections that stand will break"},

	// A listener that closes leaves what waits in its accept queue to another one
	// on the same port; otherwise those connections are reset when one proxy takes
	// over from another. Source: ip-sysctl, tcp_migrate_req; Linux 5.14.
	{"net/ipv4/tcp_migrate_req", "1", "connections that wait while one proxy takes over from another will be lost"},
}

// procSys are the places of settings: our own, and that of the node's first
// process, for in a container ours cannot be written.
var procSys = []string{"/proc/sys", "/proc/1/root/proc/sys"}

// Prepare makes the settings that Apply relies on. It is to be called before
// Apply, and only once for a pod; the error says what will suffer, and Apply
// works without. Remove leaves them: they change nothing for a pod whose
// connections nobody tracks, and whose listeners share no port.
func Prepare(ns *netns.NS) error {
	var errs []error
	for _, s := range settings {
		if err := ns.Do(s.write); err != nil {
			errs = append(errs, fmt.Errorf("%s in %v: %w", s.without, ns, err))
		}
	}
	return errors.Join(errs...)
}

// write makes one setting, in the namespace of the thread. Kernels that lack it
// do without.
func (s setting) write() error {
	have, err := os.ReadFile(filepath.Join(procSys[0], s.path))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil || strings.TrimSpace(string(have)) == s.value {
		return err
	}
	for _, root := range procSys {
		var here error
		if here = os.WriteFile(filepath.Join(root, s.path), []byte(s.value), 0); here == nil {
			return nil
		}
		err = errors.Join(err, here)
	}
	return err
}
