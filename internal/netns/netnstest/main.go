package netnstest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// Main is TestMain: it runs the tests and fails when they leave a goroutine, a
// descriptor, a mounted namespace, or a thread in a foreign namespace behind.
func Main(m *testing.M) { MainSparing(m, nil) }

// MainSparing is Main for packages whose code keeps descriptors for later use:
// spare says how many of a kind, such as "pipe:", may stay.
func MainSparing(m *testing.M, spare map[string]int) {
	warmUp()
	before, err := descriptors()
	code := m.Run()
	for kind, n := range spare {
		before[kind] += n
	}
	if code == 0 {
		err = errors.Join(err, goleak.Find(), settled(before))
		if err != nil {
			fmt.Fprintln(os.Stderr, "left behind by the tests:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// warmUp makes the descriptors that the runtime keeps for itself.
func warmUp() {
	r, w, err := os.Pipe() // starts the poller
	if err == nil {
		r.Close()
		w.Close()
	}
}

// settleTime is how long threads and descriptors may take to go after the last
// test: the runtime ends threads behind our back.
const settleTime = 3 * time.Second

// settled waits until nothing is left but the descriptors counted before.
func settled(before map[string]int) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	var err error
	for deadline := time.Now().Add(settleTime); time.Now().Before(deadline); <-tick.C {
		if err = errors.Join(leftDescriptors(before), leftMounts(), leftThreads()); err == nil {
			return nil
		}
		runtime.GC() // the runtime keeps the pipes of splice until it collects
	}
	return err
}

// descriptors counts the open descriptors of this process by what they are.
func descriptors() (map[string]int, error) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	count := map[string]int{}
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name()))
		if err != nil || strings.HasPrefix(target, "/proc/") {
			continue // the directory that is being read
		}
		kind, _, _ := strings.Cut(target, "[") // net:[4026], socket:[77], anon_inode:[eventpoll]
		count[kind]++
	}
	return count, nil
}

// leftDescriptors names what is open now and was not before.
func leftDescriptors(before map[string]int) error {
	now, err := descriptors()
	if err != nil {
		return err
	}
	var errs []error
	for kind, n := range now {
		if n > before[kind] {
			errs = append(errs, fmt.Errorf("%d open descriptors of %s, %d before", n, kind, before[kind]))
		}
	}
	return errors.Join(errs...)
}

// leftMounts names namespaces that Mount has mounted and that still are.
func leftMounts() error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[3], "net:[") && strings.Contains(f[4], "/"+mountPrefix()) {
			return fmt.Errorf("a namespace is still mounted at %s", f[4])
		}
	}
	return nil
}

// leftThreads finds threads that stand in another namespace than the first.
func leftThreads() error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return err
	}
	for _, task := range tasks {
		ns, err := os.Readlink(filepath.Join("/proc/self/task", task.Name(), "ns/net"))
		if err == nil && ns != home {
			return fmt.Errorf("thread %s stands in %s, not in %s", task.Name(), ns, home)
		}
	}
	return nil
}
