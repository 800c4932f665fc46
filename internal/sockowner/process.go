package sockowner

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// podCgroups is in the path of every cgroup that a kubelet makes for pods. Who is
// below it is a pod's process, whatever it calls itself.
const podCgroups = "kubepods"

// isPodCgroup says whether a cgroup's path is that of a pod. Seen from a cgroup
// namespace of a pod, those of others may show only the part that names the pod:
// "pod" and its uid.
func isPodCgroup(path string) bool {
	for part := range strings.SplitSeq(path, "/") {
		if uid, ok := strings.CutPrefix(part, "pod"); strings.Contains(part, podCgroups) || ok && len(uid) >= podUIDSize {
			return true
		}
	}
	return false
}

// podUIDSize is the least length of a pod's uid: that of static pods is a hash
// without dashes.
const podUIDSize = 32

// process is one that may be the kubelet.
type process struct {
	pid    int
	start  string // since boot; tells it from a later process with its number
	cgroup uint64 // inode of its cgroup v2; 0 when that tells nobody apart, or is not found
}

// findKubelets returns the processes that are a kubelet: of our user, by one of
// these names, and outside of all pods.
func findKubelets(proc, cgroups string, names []string) ([]process, error) {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil, fmt.Errorf("list processes of the node: %w", err)
	}
	var all []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		dir := filepath.Join(proc, e.Name())
		comm, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil || !slices.Contains(names, strings.TrimSuffix(string(comm), "\n")) {
			continue // another, or gone meanwhile
		}
		st, err := os.Stat(dir)
		if err != nil {
			continue
		}
		if sys, ok := st.Sys().(*syscall.Stat_t); !ok || int(sys.Uid) != os.Geteuid() {
			continue
		}
		unified, inPod, err := cgroupOf(dir)
		if err != nil || inPod {
			continue
		}
		all = append(all, process{pid: pid, start: startOf(dir), cgroup: cgroupID(proc, cgroups, unified, pid)})
	}
	return all, nil
}

// cgroupOf reads the path of the process's cgroup v2, and whether any of its
// cgroups is a pod's. Source: cgroups(7).
func cgroupOf(dir string) (unified string, inPod bool, err error) {
	raw, err := os.ReadFile(filepath.Join(dir, "cgroup"))
	if err != nil {
		return "", false, err
	}
	for line := range bytes.Lines(raw) {
		fields := strings.SplitN(strings.TrimSpace(string(line)), ":", 3)
		if len(fields) != 3 {
			continue
		}
		if fields[0] == "0" {
			unified = fields[2]
		}
		inPod = inPod || isPodCgroup(fields[2])
	}
	return unified, inPod, nil
}

// cgroupID is the number by which sockets know the cgroup v2 of process pid, which
// is at path below root: the inode of its directory. It is 0 when the number tells
// nobody apart: that of the root, that of a cgroup in which a pod's process is too
// (beside cgroup v1 a runtime leaves its containers where it is itself), and that
// of a directory which is not the process's.
func cgroupID(proc, root, path string, pid int) uint64 {
	// Seen from a cgroup namespace of our own the path leads up out of it first.
	for {
		rest, up := strings.CutPrefix(path, "/..")
		if !up {
			break
		}
		path = rest
	}
	if root == "" || path == "" || path == "/" {
		return 0
	}
	dir := filepath.Join(root, path)
	st, err := os.Stat(dir)
	if err != nil {
		return 0
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok || !isAlone(proc, dir, pid) {
		return 0
	}
	return sys.Ino
}

// isAlone says whether process pid is in the cgroup v2 at dir, and no process of a
// pod.
func isAlone(proc, dir string, pid int) bool {
	raw, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return false
	}
	here := false
	for field := range strings.FieldsSeq(string(raw)) {
		if field == strconv.Itoa(pid) {
			here = true
			continue
		}
		_, inPod, err := cgroupOf(filepath.Join(proc, field))
		if inPod || err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ESRCH) {
			return false
		}
	}
	return here
}

// startOf is when the process started, in ticks since boot, or "". Source:
// proc_pid_stat(5), field 22; the name before it may hold anything.
func startOf(dir string) string {
	raw, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(raw[bytes.LastIndexByte(raw, ')')+1:]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return ""
	}
	return fields[19]
}

// holds says whether the process has the socket with this inode open.
func (p process) holds(proc string, inode uint32) (bool, error) {
	fds := filepath.Join(proc, strconv.Itoa(p.pid), "fd")
	dir, err := os.Open(fds)
	if err != nil {
		return false, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return false, err
	}
	want := fmt.Sprintf("socket:[%d]", inode)
	for _, name := range names {
		if link, err := os.Readlink(filepath.Join(fds, name)); err == nil && link == want {
			return true, nil
		}
	}
	return false, nil
}
