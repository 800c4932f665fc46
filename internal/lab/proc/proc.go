package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// Record names a process so that it can be found again: numbers are used
// again by the kernel, a number with its start time is not.
type Record struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	PID       int    `json:"pid"`
	StartTime uint64 `json:"startTime"` // clock ticks since boot
	Log       string `json:"log,omitempty"`
}

// Of reads the start time of a running process.
func Of(pid int) (Record, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Record{}, err
	}
	start, err := parseStartTime(raw)
	if err != nil {
		return Record{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	return Record{PID: pid, StartTime: start}, nil
}

// parseStartTime takes field 22 out of /proc/PID/stat. The name of the program,
// field 2, stands in parentheses and may itself hold blanks and parentheses.
// Source: proc_pid_stat(5).
func parseStartTime(stat []byte) (uint64, error) {
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, errors.New("no program name in parentheses")
	}
	fields := bytes.Fields(stat[end+1:]) // from field 3 on
	if len(fields) < 20 {
		return 0, fmt.Errorf("%d fields after the program name, want at least 20", len(fields))
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}

// Alive reports whether r still runs: the same number and the same start time.
func (r Record) Alive() bool {
	now, err := Of(r.PID)
	return err == nil && now.StartTime == r.StartTime && !zombie(r.PID)
}

// zombie reports whether the process has ended and only waits to be reaped.
func zombie(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	end := bytes.LastIndexByte(raw, ')')
	return end > 0 && len(raw) > end+2 && raw[end+2] == 'Z'
}

// End kills a recorded process and waits until it is gone. It does nothing to a process
// that has got its number since.
func (r Record) End(ctx context.Context) error {
	// FindProcess holds a pidfd: from here on the number cannot come to mean
	// another process between the check and the signal.
	proc, err := os.FindProcess(r.PID)
	if err != nil {
		return nil
	}
	defer proc.Release()
	if !r.Alive() {
		return nil
	}
	if err := proc.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end %s (pid %d): %w", r.Name, r.PID, err)
	}
	for r.Alive() {
		if err := lifecycle.Sleep(ctx, 5*time.Millisecond); err != nil {
			return fmt.Errorf("wait for %s (pid %d) to end: %w", r.Name, r.PID, err)
		}
	}
	return nil
}

// Marked finds the processes whose environment holds mark, a NAME=value.
func Marked(mark string) ([]Record, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []Record
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		env, err := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if err != nil || !slices.ContainsFunc(bytes.Split(env, []byte{0}), func(v []byte) bool { return string(v) == mark }) {
			continue
		}
		if r, err := Of(pid); err == nil {
			r.Name = "process marked " + mark
			found = append(found, r)
		}
	}
	return found, nil
}

// Tail returns the last lines of a file, or why it cannot.
func Tail(path string, lines int) string {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	if err != nil {
		return err.Error()
	}
	all := bytes.Split(bytes.TrimRight(raw, "\n"), []byte{'\n'})
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return string(bytes.Join(all, []byte{'\n'}))
}
