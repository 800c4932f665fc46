package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/ambit-mesh/ambit/e2e/cluster/machine"
	"github.com/ambit-mesh/ambit/internal/lab/proc"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// removeWithin is how long the kernel has to take apart what an ended machine held.
const removeWithin = 30 * time.Second

// Removed says what a removal has found.
type Removed struct {
	Machines int
	Dir      bool
}

func (r Removed) String() string {
	if r == (Removed{}) {
		return "nothing was left"
	}
	return fmt.Sprintf("removed %d machines and the cluster's directory", r.Machines)
}

// Down removes the cluster.
func (c *Cluster) Down(ctx context.Context) error {
	_, err := Down(ctx, c.state.Name, c.dir)
	return err
}

// Down removes what a cluster of this name has left on the machine, whether it stands
// or was broken off at any point. Empty means the usual name and directory.
func Down(ctx context.Context, name, dir string) (Removed, error) {
	name = cmp.Or(name, defaultName)
	dir, err := dirOf(name, dir)
	if err != nil {
		return Removed{}, err
	}
	if os.Geteuid() != 0 {
		return Removed{}, errors.New("missing: root: a lab belongs to root, so does its removal (sudo)")
	}
	held, err := lock(ctx, name)
	if err != nil {
		return Removed{}, err
	}
	defer held.Close()
	return remove(ctx, name, dir)
}

// remove is Down for the holder of the lock.
func remove(ctx context.Context, name, dir string) (Removed, error) {
	var removed Removed
	s, err := readState(dir)
	if err != nil && !isNone(err) {
		return removed, fmt.Errorf("%w; look at it, then remove %s by hand", err, dir)
	}
	ctx, cancel := context.WithTimeout(ctx, removeWithin)
	defer cancel()
	// What hangs on a machine ends with it. Marked processes are those of a machine
	// that was started in the moment before a crash.
	marked, err := proc.Marked(markEnv + "=" + dir)
	if err != nil {
		return removed, err
	}
	var errs []error
	for _, r := range s.alive() {
		removed.Machines++
		errs = append(errs, r.End(ctx))
	}
	for _, r := range marked {
		errs = append(errs, r.End(ctx))
	}
	errs = append(errs, waitLinkGone(ctx, HostLink(name)), removeCgroup(ctx, cgroupOf(name)))
	if err := errors.Join(errs...); err != nil {
		return removed, err // the state file stays: it names what is still there
	}
	if _, err := os.Stat(dir); isNone(err) {
		return removed, nil
	}
	if err := checkNoMounts(dir); err != nil {
		return removed, err
	}
	removed.Dir = true
	err = os.RemoveAll(dir)
	if err == nil && dir == filepath.Join(baseDir, name) {
		_ = os.Remove(baseDir) // stays as long as another cluster is in it
	}
	return removed, err
}

// waitLinkGone returns when the host's end of the veth has gone with the other end;
// one whose other end was lost in a crash is removed.
func waitLinkGone(ctx context.Context, name string) error {
	for {
		link, err := netlink.LinkByName(name)
		if _, none := errors.AsType[netlink.LinkNotFoundError](err); none {
			return nil
		}
		if err == nil {
			err = netlink.LinkDel(link)
		}
		if serr := lifecycle.Sleep(ctx, pollEvery); serr != nil {
			return errors.Join(fmt.Errorf("interface %s is still there: %w", name, serr), err)
		}
	}
}

// removeCgroup removes a cgroup when its processes have been buried.
func removeCgroup(ctx context.Context, name string) error {
	for {
		err := machine.RemoveCgroup(name)
		if err == nil {
			return nil
		}
		if serr := lifecycle.Sleep(ctx, pollEvery); serr != nil {
			return err
		}
	}
}

// checkNoMounts makes sure that removing dir removes nothing of the host. A cluster's
// mounts are never seen outside its machines; one that is was made by somebody else.
func checkNoMounts(dir string) error {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(raw)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			return fmt.Errorf("%s is mounted inside %s: unmount it, then try again", fields[4], dir)
		}
	}
	return nil
}
