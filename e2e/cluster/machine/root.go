package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Persistent are the directories of a machine that outlive a reboot; they lie in the
// machine's directory on the host.
var persistent = []string{"etc", "var", "opt", "root", "home"}

// fakeSysctls are settings of the whole kernel that a kubelet wants to change. The
// machine shows it the values that it wants, and the host keeps its own.
var fakeSysctls = map[string]string{
	"vm/overcommit_memory":      "1",
	"vm/panic_on_oom":           "0",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/keys/root_maxbytes": "25000000",
}

// makeRoot builds the file system of the machine and makes it the root of this
// process: the programs of the host, read-only, and directories of its own.
func makeRoot(dir string, spec Spec) error {
	// Nothing that is mounted here may be seen by the host.
	if err := mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	root := filepath.Join(dir, "root.mnt")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	if err := mount("tmpfs", root, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	err := errors.Join(
		bindSystem(root),
		bindOwn(dir, root),
		bindPrograms(root, spec.Programs),
		mountKernel(root),
	)
	if err != nil {
		return err
	}
	if err := fakeKernel(dir, root); err != nil {
		return err
	}
	old := filepath.Join(root, ".old")
	if err := os.Mkdir(old, 0o700); err != nil {
		return err
	}
	if err := unix.PivotRoot(root, old); err != nil {
		return fmt.Errorf("pivot root to %s: %w", root, err)
	}
	if err := errors.Join(os.Chdir("/"), unix.Unmount("/.old", unix.MNT_DETACH), os.Remove("/.old")); err != nil {
		return fmt.Errorf("leave the host's root: %w", err)
	}
	// Between the parts of the machine mounts must spread, as they do on a real one:
	// the agent sees the namespaces of pods that came after it.
	if err := mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return err
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
}

// bindSystem shows the host's programs and libraries.
func bindSystem(root string) error {
	for _, name := range []string{"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"} {
		info, err := os.Lstat("/" + name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		to := filepath.Join(root, name)
		if info.Mode()&fs.ModeSymlink != 0 { // merged into /usr
			target, err := os.Readlink("/" + name)
			if err == nil {
				err = os.Symlink(target, to)
			}
			if err != nil {
				return err
			}
			continue
		}
		if err := bind("/"+name, to, true); err != nil {
			return err
		}
	}
	return nil
}

// bindOwn gives the machine directories of its own.
func bindOwn(dir, root string) error {
	for _, name := range persistent {
		from := filepath.Join(dir, name)
		if err := os.MkdirAll(from, 0o755); err != nil {
			return err
		}
		if err := bind(from, filepath.Join(root, name), false); err != nil {
			return err
		}
	}
	for name, mode := range map[string]string{"run": "mode=755", "tmp": "mode=1777"} {
		to := filepath.Join(root, name)
		if err := os.Mkdir(to, 0o755); err != nil {
			return err
		}
		if err := mount("tmpfs", to, "tmpfs", 0, mode); err != nil {
			return err
		}
	}
	for _, name := range []string{"lib", "log", "tmp", "cache"} {
		if err := os.MkdirAll(filepath.Join(root, "var", name), 0o755); err != nil {
			return err
		}
	}
	err := os.Symlink("/run", filepath.Join(root, "var/run"))
	if errors.Is(err, fs.ErrExist) {
		err = nil // the machine has been up before
	}
	return err
}

// bindPrograms shows the cluster's programs.
func bindPrograms(root string, programs []Program) error {
	for _, p := range programs {
		if err := bind(p.Host, filepath.Join(root, p.Path), true); err != nil {
			return err
		}
	}
	return nil
}

// mountKernel mounts what shows the kernel: processes and network of this machine,
// devices of the host.
func mountKernel(root string) error {
	proc, sys, dev := filepath.Join(root, "proc"), filepath.Join(root, "sys"), filepath.Join(root, "dev")
	for _, d := range []string{proc, sys, dev} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	if err := mount("proc", proc, "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	if err := mount("sysfs", sys, "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	if err := mount("/dev", dev, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	if err := mount("", dev, "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	return mountCgroups(filepath.Join(sys, "fs/cgroup"))
}

// mountCgroups shows the part of the cgroup trees that belongs to this machine,
// in the form that the host has.
func mountCgroups(to string) error {
	trees, err := CgroupTrees()
	if err != nil {
		return err
	}
	if len(trees) == 1 && trees[0].Unified && trees[0].Path == "/sys/fs/cgroup" {
		return mount("cgroup2", to, "cgroup2", 0, "")
	}
	if err := mount("tmpfs", to, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	for _, t := range trees {
		at := filepath.Join(to, filepath.Base(t.Path))
		if err := os.Mkdir(at, 0o755); err != nil {
			return err
		}
		kind := "cgroup"
		if t.Unified {
			kind = "cgroup2"
		}
		if err := mount(kind, at, kind, 0, t.Options); err != nil {
			return err
		}
	}
	return nil
}

// fakeKernel hides the settings in fakeSysctls behind files of the machine.
func fakeKernel(dir, root string) error {
	fakes := filepath.Join(dir, "sysctl")
	for name, value := range fakeSysctls {
		at := filepath.Join(root, "proc/sys", name)
		if _, err := os.Stat(at); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		from := filepath.Join(fakes, strings.ReplaceAll(name, "/", "."))
		err := errors.Join(os.MkdirAll(fakes, 0o755), os.WriteFile(from, []byte(value+"\n"), 0o600))
		if err == nil {
			err = mount(from, at, "", unix.MS_BIND, "")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// bind shows from at to, which is made.
func bind(from, to string, readOnly bool) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	if err := mount(from, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	if readOnly {
		return mount("", to, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
	}
	return nil
}

// mount is mount(2) with an error that names both ends.
func mount(from, to, kind string, flags uintptr, options string) error {
	if err := unix.Mount(from, to, kind, flags, options); err != nil {
		return fmt.Errorf("mount %s (%s) at %s: %w", from, kind, to, err)
	}
	return nil
}
