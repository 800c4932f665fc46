package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/internal/lab/proc"
)

// Removed says what a clean-up has found and removed.
type Removed struct {
	Processes  int
	Namespaces int
	Dir        bool
}

func (r Removed) String() string {
	if r == (Removed{}) {
		return "nothing was left"
	}
	return fmt.Sprintf("removed %d processes, %d network namespaces and the lab's directory", r.Processes, r.Namespaces)
}

// Clean removes what a lab of this name has left on the machine, whether its
// process ended well, crashed, or kept it. It fails with [ErrBusy] while another
// process is at work on it. An empty dir means the lab's usual one.
func Clean(ctx context.Context, name, dir string) (Removed, error) {
	name = cmp.Or(name, defaultName)
	if !validName(name) {
		return Removed{}, fmt.Errorf("lab name %q: want at most 20 lower case letters, digits and '-'", name)
	}
	lock, err := takeLock(ctx, name)
	if err != nil {
		return Removed{}, err
	}
	defer lock.Close()
	return clean(ctx, name, cmp.Or(dir, DefaultDir(name)))
}

// clean is Clean for the holder of the lock. It goes on after an error, so that
// one thing that cannot be removed does not keep the others.
func clean(ctx context.Context, name, dir string) (Removed, error) {
	var removed Removed
	state, err := ReadState(dir)
	if errors.Is(err, fs.ErrPermission) {
		return removed, fmt.Errorf("%w: a lab belongs to root, so does its removal: sudo %s", err, strings.Join(os.Args, " "))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return removed, fmt.Errorf("%w; look at it, then remove %s by hand", err, dir)
	}
	var errs []error
	procs := slices.Clone(state.Processes)
	marked, err := proc.Marked(labEnv + "=" + dir)
	errs = append(errs, err)
	procs = append(procs, marked...)
	// The newest first: apps and proxies before what they depend on.
	for _, p := range slices.Backward(procs) {
		if p.Alive() {
			removed.Processes++
			errs = append(errs, p.End(ctx))
		}
	}
	names, err := leftNamespaces(name, state)
	errs = append(errs, err)
	for _, ns := range names {
		removed.Namespaces++
		errs = append(errs, Namespace{ns}.remove())
	}
	if err := errors.Join(errs...); err != nil {
		return removed, err // the state file stays: it names what is still there
	}
	if _, err := os.Stat(dir); err == nil {
		removed.Dir = true
		return removed, os.RemoveAll(dir)
	}
	return removed, nil
}

// leftNamespaces lists the namespaces of the lab that are still there: those in
// its state file, and only those when there is one. Without a state file (it was
// on a file system that went away) the fixed names of every lab tell.
func leftNamespaces(name string, state State) ([]string, error) {
	entries, err := os.ReadDir(netnsDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	wanted := state.Namespaces
	if state.Lab == "" {
		wanted = []string{name + "-fabric", name + "-control"}
		for i := range 9 {
			wanted = append(wanted, fmt.Sprintf("%s-node-%d", name, i+1))
		}
		for _, p := range meshPods() {
			wanted = append(wanted, podNamespace(name, p).Name)
		}
	}
	var left []string
	for _, e := range entries {
		if slices.Contains(wanted, e.Name()) {
			left = append(left, e.Name())
		}
	}
	slices.SortFunc(left, strings.Compare)
	return left, nil
}
