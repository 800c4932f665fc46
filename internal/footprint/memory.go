package footprint

import (
	"errors"
	"io/fs"
	"math"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
)

// memoryShare is the part of the cgroup's limit that the Go heap may have, in
// percent. The rest is for what the kernel counts against the same limit: socket
// buffers and pipes of a proxy's connections, and thread stacks. It is our
// choice; GOMEMLIMIT overrides it.
const memoryShare = 80

// minMemory is the smallest limit that is passed on, in bytes. Below it the
// collector would run without end and do no good: our choice, about twice what
// an idle proxy needs.
const minMemory = 32 << 20

// LimitMemory tells the garbage collector how much memory the cgroup of this
// process has, so that it works harder before the kernel ends the process. root
// is the root of the file system; environ is of the process. It returns the
// limit that it has set, in bytes, or 0 when it set none: because GOMEMLIMIT is
// set already, or the cgroup has no limit.
//
// An error means that the limit could not be read; nothing is set then.
func LimitMemory(root fs.FS, environ []string) (int64, error) {
	for _, kv := range environ {
		if v, ok := strings.CutPrefix(kv, "GOMEMLIMIT="); ok && v != "" {
			return 0, nil // the runtime has read it
		}
	}
	limit, err := cgroupMemory(root)
	if err != nil || limit == 0 {
		return 0, err
	}
	limit = max(limit/100*memoryShare, minMemory)
	debug.SetMemoryLimit(limit)
	return limit, nil
}

// cgroupMemory returns the memory limit of this process' cgroup in bytes: the
// least of its own and its ancestors', 0 for none.
//
// Source: cgroups(7), /proc/pid/cgroup; memory.max of cgroup v2 and
// memory.limit_in_bytes of v1 in the kernel's admin guide.
func cgroupMemory(root fs.FS) (int64, error) {
	text, err := fs.ReadFile(root, "proc/self/cgroup")
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil // a kernel without cgroups
	}
	if err != nil {
		return 0, err // it names the act and the path
	}
	least := int64(math.MaxInt64)
	for line := range strings.Lines(string(text)) {
		id, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, group, _ := strings.Cut(rest, ":")
		var tree, file string
		switch {
		case id == "0" && controllers == "":
			tree, file = "sys/fs/cgroup", "memory.max"
		case hasController(controllers, "memory"):
			tree, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		default:
			continue
		}
		limit, err := leastOnPath(root, tree, group, file)
		if err != nil {
			return 0, err
		}
		least = min(least, limit)
	}
	// v1 says "no limit" as the largest multiple of a page.
	if least >= math.MaxInt64-(1<<20) {
		return 0, nil
	}
	return least, nil
}

// hasController tells whether list, with commas, has name.
func hasController(list, name string) bool {
	for c := range strings.SplitSeq(list, ",") {
		if c == name {
			return true
		}
	}
	return false
}

// leastOnPath returns the least limit of a group and its ancestors. Files that
// are not there do not count: the root of v2 has none, and inside a container
// the path is that of the host.
func leastOnPath(root fs.FS, tree, group, file string) (int64, error) {
	least := int64(math.MaxInt64)
	for dir := path.Clean("/" + group); ; dir = path.Dir(dir) {
		text, err := fs.ReadFile(root, path.Join(tree, dir, file))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, err
		}
		if value := strings.TrimSpace(string(text)); err == nil && value != "max" {
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return 0, &fs.PathError{Op: "parse", Path: path.Join("/", tree, dir, file), Err: err}
			}
			least = min(least, n)
		}
		if dir == "/" {
			return least, nil
		}
	}
}
