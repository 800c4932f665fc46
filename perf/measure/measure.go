package measure

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// ticksPerSecond is the unit of processor time in /proc. Source: proc(5) and
// sysconf(3), _SC_CLK_TCK, which is 100 on every architecture that Linux has.
const ticksPerSecond = 100

// Process is one to be looked at.
type Process struct {
	Name string // unique among those of one sample
	PID  int
}

// Counts are what the kernel has counted for a process.
type Counts struct {
	CPU      time.Duration // of all its threads, in user space and in the kernel, in steps of 10 ms
	Running  time.Duration // of the threads that live, exact: for what is nearly idle
	Switches uint64        // context switches of the threads that live
	Resident int64         // bytes in memory now
}

// Sample is the state of processes and machine at a moment.
type Sample struct {
	At        time.Time
	Processes map[string]Counts
	Busy      time.Duration // of all processors together, since boot
	Idle      time.Duration
	Stolen    time.Duration // taken by the host of a virtual machine
}

// Take reads a sample. A process that has ended is an error: what it did would
// be missing.
func Take(processes []Process) (Sample, error) {
	s := Sample{At: time.Now(), Processes: make(map[string]Counts, len(processes))}
	raw, err := os.ReadFile("/proc/stat")
	if err != nil {
		return Sample{}, err
	}
	if err := s.readMachine(raw); err != nil {
		return Sample{}, err
	}
	for _, p := range processes {
		c, err := countsOf(p.PID)
		if err != nil {
			return Sample{}, fmt.Errorf("%s: %w", p.Name, err)
		}
		s.Processes[p.Name] = c
	}
	return s, nil
}

// readMachine reads the first line of /proc/stat. Source: proc_stat(5): user,
// nice, system, idle, iowait, irq, softirq, steal; guests are in user already.
func (s *Sample) readMachine(raw []byte) error {
	line, _, _ := strings.Cut(string(raw), "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return fmt.Errorf("/proc/stat begins with %q", line)
	}
	var v [8]time.Duration
	for i := range v {
		t, err := strconv.ParseUint(fields[i+1], 10, 64)
		if err != nil {
			return fmt.Errorf("/proc/stat: %w", err)
		}
		v[i] = ticks(t)
	}
	s.Busy = v[0] + v[1] + v[2] + v[5] + v[6]
	s.Idle = v[3] + v[4]
	s.Stolen = v[7]
	return nil
}

func ticks(n uint64) time.Duration { return time.Duration(n) * time.Second / ticksPerSecond }

// countsOf reads what the kernel has counted for a process.
func countsOf(pid int) (Counts, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return Counts{}, err
	}
	var c Counts
	if err := c.readStat(stat); err != nil {
		return Counts{}, fmt.Errorf("%s/stat: %w", dir, err)
	}
	return c, c.readThreads(dir)
}

// readStat reads processor time and memory. Source: proc_pid_stat(5), fields 14
// and 15 (utime, stime) and 24 (rss); the name in field 2 may hold anything.
func (c *Counts) readStat(raw []byte) error {
	end := bytes.LastIndexByte(raw, ')')
	fields := strings.Fields(string(raw[end+1:]))
	if end < 0 || len(fields) < 22 {
		return fmt.Errorf("%d fields after the name", len(fields))
	}
	var v [3]uint64
	for i, field := range []int{14, 15, 24} {
		var err error
		if v[i], err = strconv.ParseUint(fields[field-3], 10, 63); err != nil {
			return fmt.Errorf("field %d: %w", field, err)
		}
	}
	c.CPU = ticks(v[0] + v[1])
	c.Resident = int64(v[2]) * int64(os.Getpagesize())
	return nil
}

// readThreads adds up what is counted per thread.
func (c *Counts) readThreads(dir string) error {
	threads, err := os.ReadDir(filepath.Join(dir, "task"))
	if err != nil {
		return err
	}
	for _, thread := range threads {
		switches, running, err := threadCounts(filepath.Join(dir, "task", thread.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // the thread has ended
		}
		if err != nil {
			return err
		}
		c.Switches += switches
		c.Running += running
	}
	return nil
}

// threadCounts reads the context switches of a thread, and its processor time
// from the first field of schedstat. Source: the kernel's sched-stats.rst.
func threadCounts(dir string) (switches uint64, running time.Duration, err error) {
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return 0, 0, err
	}
	if switches, err = switchesIn(string(status)); err != nil {
		return 0, 0, fmt.Errorf("%s/status: %w", dir, err)
	}
	stat, err := os.ReadFile(filepath.Join(dir, "schedstat"))
	if err != nil {
		return 0, 0, err
	}
	first, _, _ := strings.Cut(string(stat), " ")
	ns, err := strconv.ParseInt(first, 10, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("%s/schedstat: %w", dir, err)
	}
	return switches, time.Duration(ns), nil
}

// switchesIn reads the two lines of a status file that count context switches.
func switchesIn(status string) (uint64, error) {
	var sum uint64
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(line, ":")
		if name != "voluntary_ctxt_switches" && name != "nonvoluntary_ctxt_switches" {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 63)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", name, err)
		}
		sum += n
	}
	return sum, nil
}

// Children returns the processes that a process has started and that live, for
// programs that are several.
func Children(pid int) (out []int, err error) {
	tasks := filepath.Join("/proc", strconv.Itoa(pid), "task")
	threads, err := os.ReadDir(tasks)
	if err != nil {
		return nil, err
	}
	for _, thread := range threads {
		path := filepath.Join(tasks, thread.Name(), "children")
		raw, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the thread has ended
		}
		if err != nil {
			return nil, err
		}
		for _, field := range strings.Fields(string(raw)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			out = append(out, child)
		}
	}
	return out, nil
}

// Usage is what happened between two samples.
type Usage struct {
	Took      time.Duration
	Processes map[string]Counts // Resident is that of the later sample
	Busy      time.Duration     // of all processors together
	Capacity  time.Duration     // what all processors could have done
}

// Between compares two samples of the same processes.
func Between(before, after Sample) Usage {
	u := Usage{Took: after.At.Sub(before.At), Processes: make(map[string]Counts, len(after.Processes))}
	for name, a := range after.Processes {
		b := before.Processes[name]
		var switches uint64
		if a.Switches > b.Switches { // a thread that has ended takes its count along
			switches = a.Switches - b.Switches
		}
		u.Processes[name] = Counts{CPU: a.CPU - b.CPU, Running: max(0, a.Running-b.Running), Switches: switches, Resident: a.Resident}
	}
	u.Busy = after.Busy - before.Busy
	u.Capacity = u.Busy + after.Idle - before.Idle + after.Stolen - before.Stolen
	return u
}

// Of adds up the named processes.
func (u Usage) Of(names ...string) Counts {
	var sum Counts
	for _, name := range names {
		c := u.Processes[name]
		sum.CPU += c.CPU
		sum.Running += c.Running
		sum.Switches += c.Switches
		sum.Resident += c.Resident
	}
	return sum
}

// Others is the share of the machine that went to processes that were not
// looked at, from 0 to 1: a machine that does other things gives other figures.
func (u Usage) Others() float64 {
	ours := time.Duration(0)
	for _, c := range u.Processes {
		ours += c.CPU
	}
	if u.Capacity <= 0 {
		return 0
	}
	return max(0, float64(u.Busy-ours)/float64(u.Capacity))
}
