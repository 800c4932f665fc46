package lab

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Pin lets a process run on some processors only, counted from 0: each thread that
// it has, and so each that these start. A thread that ends meanwhile is no error.
func Pin(pid int, cpus ...int) error {
	var set unix.CPUSet
	for _, cpu := range cpus {
		set.Set(cpu)
	}
	// A thread may start another before it is told: look until none is new.
	told := map[int]bool{}
	for {
		threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			return err
		}
		fresh := false
		for _, t := range threads {
			tid, err := strconv.Atoi(t.Name())
			if err != nil || told[tid] {
				continue
			}
			fresh, told[tid] = true, true
			if err := unix.SchedSetaffinity(tid, &set); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("pin thread %d of %d to %v: %w", tid, pid, cpus, err)
			}
		}
		if !fresh {
			return nil
		}
	}
}
