package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ambit-mesh/ambit/internal/lab/proc"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
)

// asStarter is set for a copy of the test program that starts a machine and is killed.
const asStarter = "MACHINE_TEST_STARTER"

// The test program is also the init of the machines that it starts.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && strings.HasPrefix(os.Args[1], "init") {
		if err := Main(context.Background(), os.Args[1], os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	if dir := os.Getenv(asStarter); dir != "" {
		if err := startAndWait(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// startAndWait starts a machine and waits to be killed.
func startAndWait(dir string) error {
	m, err := start(context.Background(), dir)
	if err != nil {
		return err
	}
	fmt.Println(m.Record.PID)
	_, err = io.Copy(io.Discard, os.Stdin) // until whoever started us has gone
	return err
}

// start starts the machine in dir with a network that is only its loopback.
func start(ctx context.Context, dir string) (*Machine, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if err := MakeCgroup(groupOf(dir)); err != nil {
		return nil, err
	}
	m, err := Start(ctx, Config{Init: self, Dir: dir, Mark: "MACHINE_TEST=" + dir, Cgroup: groupOf(dir)})
	if err != nil {
		return nil, err
	}
	return m, m.Wired()
}

func groupOf(dir string) string {
	return "machine-test-" + strings.ReplaceAll(strings.Trim(dir, "/"), "/", "-")
}

// newDir makes a machine's directory; at the end nothing of the machine may be left.
func newDir(t *testing.T) string {
	t.Helper()
	netnstest.Require(t)
	dir := t.TempDir()
	spec := Spec{Hostname: "testbed", Services: []Service{
		{Name: "sleeper", Path: "/bin/sleep", Args: []string{"1000"}},
		{Name: "late", Path: "/bin/sh", Args: []string{"-c", "trap '' TERM; touch /var/late; sleep 1000"}, After: "/var/go"},
	}}
	if err := spec.Write(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		for {
			left, err := proc.Marked("MACHINE_TEST=" + dir)
			if err == nil && len(left) == 0 {
				err = RemoveCgroup(groupOf(dir))
			}
			if err == nil && len(left) == 0 {
				break
			}
			if lifecycle.Sleep(ctx, 10*time.Millisecond) != nil {
				t.Errorf("left of the machine: processes %v, %v", left, err)
				break
			}
		}
		if now := mountsNow(t); strings.Contains(now, dir) {
			t.Errorf("mounts of the machine are seen on the host:\n%s", now)
		}
	})
	return dir
}

func mountsNow(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// until waits for a condition.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for !done() {
		if lifecycle.Sleep(ctx, 5*time.Millisecond) != nil {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// serviceOf waits until a service of the machine is as asked.
func serviceOf(t *testing.T, dir, name string, is func(ServiceStatus) bool) ServiceStatus {
	t.Helper()
	var found ServiceStatus
	until(t, "state of "+name, func() bool {
		all, err := Status(t.Context(), dir)
		if err != nil {
			return false
		}
		for _, s := range all {
			if s.Name == name && is(s) {
				found = s
				return true
			}
		}
		return false
	})
	return found
}

func runs(s ServiceStatus) bool { return s.PID != 0 }

func TestMachineIsAWorldOfItsOwn(t *testing.T) {
	dir := newDir(t)
	m, err := start(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Kill()
	serviceOf(t, dir, "sleeper", runs)
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, script, want string }{
		{"hostname", "hostname", "testbed"},
		{"only its own interfaces", "ls /sys/class/net", "lo"},
		{"its init is number 1", "tr '\\0' ' ' < /proc/1/cmdline | grep -o init-placed", "init-placed"},
		{"its own cgroup is the root", "grep -c machine-test /proc/self/cgroup || true", "0"},
		{"settings of the kernel look as a kubelet wants them", "cat /proc/sys/vm/overcommit_memory /proc/sys/kernel/panic", "1\n10"},
		{"it forwards", "cat /proc/sys/net/ipv4/ip_forward", "1"},
		{"programs of the host cannot be changed", "touch /usr/x 2>/dev/null; echo $?", "1"},
		{"the host's files are not there", "ls " + dir + " 2>/dev/null | wc -l", "0"},
		{"its own are", "echo kept > /var/kept; cat /var/kept", "kept"},
		{"/var/run is /run", "readlink /var/run", "/run"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, err := Command(t.Context(), m.Record.PID, "sh", "-c", tt.script).CombinedOutput()
			if got := strings.TrimSpace(string(out)); err != nil || got != tt.want {
				t.Errorf("%s: %q, %v, want %q", tt.script, got, err, tt.want)
			}
		})
	}
	if now, err := os.Hostname(); err != nil || now != host {
		t.Errorf("the host is called %q, was %q", now, host)
	}
	if raw, err := os.ReadFile(filepath.Join(dir, "var/kept")); err != nil || string(raw) != "kept\n" {
		t.Errorf("the machine's disk on the host: %q, %v", raw, err)
	}
}

func TestServicesHaveCgroupsOfTheirOwn(t *testing.T) {
	dir := newDir(t)
	trees, err := CgroupTrees()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(trees, func(tree CgroupTree) bool { return tree.Unified }) {
		t.Skip("this host has no cgroup v2")
	}
	m, err := start(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Kill()
	for range 2 { // also when it is started again
		pid := serviceOf(t, dir, "sleeper", runs).PID
		out, err := Command(t.Context(), m.Record.PID, "grep", "-o", "^0::.*", fmt.Sprintf("/proc/%d/cgroup", pid)).CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || !strings.HasSuffix(got, "/system/sleeper") {
			t.Errorf("the service is in %q, %v; want a cgroup of its own", got, err)
		}
		if _, err := Ask(t.Context(), dir, "kill sleeper"); err != nil {
			t.Fatal(err)
		}
		serviceOf(t, dir, "sleeper", func(s ServiceStatus) bool { return runs(s) && s.PID != pid })
	}
}

func TestServices(t *testing.T) {
	dir := newDir(t)
	m, err := start(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Kill()
	first := serviceOf(t, dir, "sleeper", runs)
	ask := func(line string) {
		t.Helper()
		if _, err := Ask(t.Context(), dir, line); err != nil {
			t.Fatal(err)
		}
	}
	ask("kill sleeper")
	again := serviceOf(t, dir, "sleeper", func(s ServiceStatus) bool { return runs(s) && s.Starts == 2 })
	if again.PID == first.PID {
		t.Errorf("killed, and its number is still %d", again.PID)
	}
	ask("stop sleeper")
	if s := serviceOf(t, dir, "sleeper", func(ServiceStatus) bool { return true }); runs(s) || !s.Stopped {
		t.Errorf("stopped, and its state is %+v", s)
	}
	ask("start sleeper")
	serviceOf(t, dir, "sleeper", runs)

	if s := serviceOf(t, dir, "late", func(ServiceStatus) bool { return true }); runs(s) {
		t.Errorf("runs before what it waits for: %+v", s)
	}
	if err := os.WriteFile(filepath.Join(dir, "var/go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	serviceOf(t, dir, "late", runs)
	until(t, "late is at work", func() bool { _, err := os.Stat(filepath.Join(dir, "var/late")); return err == nil })
	ask("stop late") // it ignores SIGTERM

	for _, bad := range []string{"stop nobody", "dance sleeper", "status sleeper now", ""} {
		if reply, err := Ask(t.Context(), dir, bad); err == nil {
			t.Errorf("%q is answered %q", bad, reply)
		}
	}
}

func TestKilledMachineLeavesNothing(t *testing.T) {
	dir := newDir(t)
	m, err := start(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	serviceOf(t, dir, "sleeper", runs)
	// A child of a child, in a session of its own, with a mount.
	script := "mkdir -p /run/x && mount -t tmpfs x /run/x && (setsid sleep 1000 >/dev/null 2>&1 &) && ip link add dummy0 type veth peer name dummy1"
	if out, err := Command(t.Context(), m.Record.PID, "sh", "-c", script).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := m.Kill(); err != nil {
		t.Fatal(err)
	}
	// newDir looks for what is left.
}

func TestMachineEndsWithItsStarter(t *testing.T) {
	dir := newDir(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	starter := exec.Command(self)
	starter.Env = append(os.Environ(), asStarter+"="+dir)
	in, err := starter.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := starter.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := starter.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscanln(out, &pid); err != nil {
		t.Fatal(err)
	}
	serviceOf(t, dir, "sleeper", runs)
	init, err := proc.Of(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := starter.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = starter.Wait() // killed
	until(t, "end of the machine", func() bool { return !init.Alive() })
}

func TestKeptMachineOutlivesItsStarterAndCanBeStartedAgain(t *testing.T) {
	dir := newDir(t)
	m, err := start(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	serviceOf(t, dir, "sleeper", runs)
	if err := errors.Join(m.Keep(), m.leash.Close()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "var/disk"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// It still answers after its leash has gone.
	serviceOf(t, dir, "sleeper", runs)
	if err := m.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = m.cmd.Wait() // killed
	if m, err = start(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	defer m.Kill()
	serviceOf(t, dir, "sleeper", runs)
	out, err := Command(t.Context(), m.Record.PID, "ls", "/var/disk").CombinedOutput()
	if err != nil {
		t.Errorf("after a reboot: %v: %s", err, out)
	}
}

func TestParseCgroupTrees(t *testing.T) {
	const info = `25 30 0:23 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
26 25 0:24 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
27 25 0:25 / /sys/fs/cgroup/systemd rw shared:9 - cgroup cgroup rw,xattr,name=systemd
28 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
29 25 0:26 / /elsewhere rw - cgroup cgroup rw,memory
broken
`
	want := []CgroupTree{
		{Path: "/sys/fs/cgroup/unified", Unified: true},
		{Path: "/sys/fs/cgroup/systemd", Options: "name=systemd"},
		{Path: "/sys/fs/cgroup/cpu,cpuacct", Options: "cpu,cpuacct"},
	}
	if got := parseCgroupTrees(info); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func FuzzParseCgroupTrees(f *testing.F) {
	f.Add("26 25 0:24 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n")
	f.Fuzz(func(t *testing.T, info string) {
		for _, tree := range parseCgroupTrees(info) {
			if !strings.HasPrefix(tree.Path, "/sys/fs/cgroup") {
				t.Errorf("%q: a tree at %q", info, tree.Path)
			}
		}
	})
}

func TestRemoveCgroupOfNothing(t *testing.T) {
	netnstest.Require(t)
	if err := RemoveCgroup("machine-test-never-was"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat("/sys/fs/cgroup/machine-test-never-was"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
