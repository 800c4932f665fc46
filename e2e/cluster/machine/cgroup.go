package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// CgroupTree is a cgroup hierarchy that is mounted on the host.
type CgroupTree struct {
	Path    string // where it is mounted
	Options string // what names it in a mount, for example "memory" or "name=systemd"
	Unified bool   // version 2
}

// CgroupTrees lists the hierarchies that are mounted below /sys/fs/cgroup.
func CgroupTrees() ([]CgroupTree, error) {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return parseCgroupTrees(string(raw)), nil
}

// parseCgroupTrees reads mountinfo. Source: proc_pid_mountinfo(5).
func parseCgroupTrees(mountinfo string) []CgroupTree {
	var trees []CgroupTree
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) < 3 || !strings.HasPrefix(left[4], "/sys/fs/cgroup") {
			continue
		}
		switch right[0] {
		case "cgroup2":
			trees = append(trees, CgroupTree{Path: left[4], Unified: true})
		case "cgroup":
			trees = append(trees, CgroupTree{Path: left[4], Options: hierarchy(right[2])})
		}
	}
	return trees
}

// hierarchy keeps of a mount's options those that say which hierarchy it is.
func hierarchy(options string) string {
	general := []string{"rw", "ro", "noprefix", "clone_children", "xattr", "cpuset_v2_mode"}
	return strings.Join(slices.DeleteFunc(strings.Split(options, ","), func(o string) bool {
		return slices.Contains(general, o) || strings.HasPrefix(o, "release_agent=")
	}), ",")
}

// MakeCgroup makes the cgroup name, for example "ambit-lab-x/node-1", in every
// hierarchy, so that processes can be in it.
func MakeCgroup(name string) error {
	trees, err := CgroupTrees()
	if err != nil {
		return err
	}
	if len(trees) == 0 {
		return errors.New("no cgroups are mounted below /sys/fs/cgroup: mount them first")
	}
	for _, t := range trees {
		at := t.Path
		for part := range strings.SplitSeq(name, "/") {
			if err := t.prepare(at); err != nil {
				return err
			}
			parent := at
			at = filepath.Join(at, part)
			if err := os.MkdirAll(at, 0o755); err != nil {
				return err
			}
			if err := t.inherit(parent, at); err != nil {
				return err
			}
		}
	}
	return nil
}

// prepare lets the children of a cgroup have controllers.
func (t CgroupTree) prepare(parent string) error {
	if !t.Unified {
		return nil
	}
	raw, err := os.ReadFile(filepath.Join(parent, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for c := range strings.FieldsSeq(string(raw)) {
		if err := os.WriteFile(filepath.Join(parent, "cgroup.subtree_control"), []byte("+"+c), 0); err != nil {
			return fmt.Errorf("give %s to the children of %s: %w", c, parent, err)
		}
	}
	return nil
}

// inherit gives a new cgroup what version 1 leaves empty: no process can enter a
// cpuset without processors and memory.
func (t CgroupTree) inherit(parent, child string) error {
	if t.Unified {
		return nil
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		raw, err := os.ReadFile(filepath.Join(parent, file))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(child, file), raw, 0)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// systemCgroup is the cgroup of what is not a pod, in version 2 and where processors
// are shared out.
const systemCgroup = "system"

// openServiceCgroup makes and opens the cgroup of version 2 of a service, as every
// service has one of its own where an init such as systemd runs. Nil means that there
// is no version 2.
func openServiceCgroup(name string) (*os.File, error) {
	trees, err := CgroupTrees()
	if err != nil {
		return nil, err
	}
	for _, t := range trees {
		if !t.Unified {
			continue
		}
		at := filepath.Join(t.Path, systemCgroup, name)
		if err := os.MkdirAll(at, 0o755); err != nil {
			return nil, err
		}
		return os.Open(at)
	}
	return nil, nil
}

// makeRoom moves this process, and what it will start, out of the root of those of its
// cgroups where it must not be: in version 2 a cgroup that has processes cannot give
// controllers to its children; and where processors are shared out, each process of
// the root would count as much as half of all pods, which on a node with an init such
// as systemd they do together.
func makeRoom() error {
	trees, err := CgroupTrees()
	if err != nil {
		return err
	}
	for _, t := range trees {
		if !t.Unified && !slices.Contains(strings.Split(t.Options, ","), "cpu") {
			continue
		}
		at := filepath.Join(t.Path, systemCgroup)
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
		if err := t.inherit(t.Path, at); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(at, "cgroup.procs"), []byte("0"), 0); err != nil {
			return err
		}
	}
	return nil
}

// EnterCgroup moves a process into a cgroup of every hierarchy.
func EnterCgroup(name string, pid int) error {
	trees, err := CgroupTrees()
	if err != nil {
		return err
	}
	for _, t := range trees {
		file := filepath.Join(t.Path, name, "cgroup.procs")
		if err := os.WriteFile(file, []byte(strconv.Itoa(pid)), 0); err != nil {
			return fmt.Errorf("move process %d to %s: %w", pid, filepath.Dir(file), err)
		}
	}
	return nil
}

// RemoveCgroup removes a cgroup and those below it from every hierarchy. What is
// not there is no error.
func RemoveCgroup(name string) error {
	trees, err := CgroupTrees()
	if err != nil {
		return err
	}
	var errs []error
	for _, t := range trees {
		errs = append(errs, removeTree(filepath.Join(t.Path, name)))
	}
	return errors.Join(errs...)
}

// removeTree removes directories from the leaves up. A cgroup's files go with it.
func removeTree(at string) error {
	entries, err := os.ReadDir(at)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(at, e.Name())); err != nil {
				return err
			}
		}
	}
	err = syscall.Rmdir(at)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove cgroup %s: %w", at, err)
	}
	return nil
}
