package cases

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/ambit-mesh/ambit/e2e/cluster"
	"github.com/ambit-mesh/ambit/internal/lab/proc"
)

// labCases are about the cluster itself.
func labCases() []Case {
	return []Case{
		{Name: "lab-leaves-nothing", Plain: true, About: "a cluster that was broken off while it was built, killed, or taken down leaves nothing on the machine", Run: labLeavesNothing},
	}
}

// crashName is the cluster that is crashed.
const crashName = "e2e-crash"

func labLeavesNothing(ctx context.Context, e *Env) (string, error) {
	e.Undo(func(ctx context.Context) error {
		_, err := cluster.Down(ctx, crashName, "")
		return err
	})
	before, err := traces()
	if err != nil {
		return "", err
	}
	// What has changed is built before, which is not what is broken off.
	if _, err := cluster.Build(ctx, cluster.Config{}); err != nil {
		return "", err
	}
	for _, stage := range []string{"control plane and", "loading images", "waiting for"} {
		if err := e.breakOff(ctx, stage); err != nil {
			return "", err
		}
		if err := e.labDown(ctx, before); err != nil {
			return "", fmt.Errorf("broken off at %q: %w", stage, err)
		}
	}
	// One that stands, all of whose machines are killed at once.
	if out, err := e.Run(ctx, "lab", "up", "--name", crashName, "--nodes", "1"); err != nil {
		return "", fmt.Errorf("%w:\n%s", err, out)
	}
	c, err := cluster.Open(crashName, "")
	if err != nil {
		return "", err
	}
	for _, n := range append(c.Nodes(), c.Control()) {
		if err := syscall.Kill(n.PID, syscall.SIGKILL); err != nil {
			return "", err
		}
	}
	if err := e.labDown(ctx, before); err != nil {
		return "", fmt.Errorf("killed: %w", err)
	}
	return fmt.Sprintf("broken off at three places and killed once: processes, mounts, links, cgroups and files (%d traces looked for) are as before", len(before)), nil
}

// breakOff kills a `lab up` when it says that it is at a stage.
func (e *Env) breakOff(ctx context.Context, stage string) error {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, e.Ambit, "lab", "up", "--name", crashName, "--nodes", "1")
	out, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	seen := false
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if strings.Contains(lines.Text(), stage) {
			seen = true
			break
		}
	}
	err = cmd.Process.Kill()
	_ = cmd.Wait() // killed
	if !seen {
		return errors.Join(fmt.Errorf("lab up ended before it was at %q", stage), err)
	}
	return err
}

// labDown takes the crashed cluster down and compares with what was before.
func (e *Env) labDown(ctx context.Context, before map[string]bool) error {
	if out, err := e.Run(ctx, "lab", "down", "--name", crashName); err != nil {
		return fmt.Errorf("%w:\n%s", err, out)
	}
	now, err := traces()
	if err != nil {
		return err
	}
	var left []string
	for trace := range now {
		if !before[trace] {
			left = append(left, trace)
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("left behind: %s", strings.Join(left, ", "))
	}
	return nil
}

// traces lists what of clusters is on this machine, and of the crashed one in particular.
func traces() (map[string]bool, error) {
	found := map[string]bool{}
	marked, err := proc.Marked("AMBIT_LAB_CLUSTER=/var/lib/ambit-lab/" + crashName)
	if err != nil {
		return nil, err
	}
	for _, p := range marked {
		found[fmt.Sprintf("process %d", p.PID)] = true
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "ambit-lab/"+crashName) {
			found["mount "+strings.TrimSpace(line)] = true
		}
	}
	links, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		if l.Attrs().Name == cluster.HostLink(crashName) { // of others some may come and go
			found["link "+l.Attrs().Name] = true
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup/ambit-lab-" + crashName, "/sys/fs/cgroup/*/ambit-lab-" + crashName, "/var/lib/ambit-lab/" + crashName} {
		paths, err := filepath.Glob(pattern)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, p := range paths {
			found["file "+p] = true
		}
	}
	return found, nil
}
