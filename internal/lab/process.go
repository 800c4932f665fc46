package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

const (
	// labEnv marks each process that a lab starts; its value is the lab's
	// directory. It finds one that was started in the moment before a crash,
	// when its number was not yet written down.
	labEnv = "AMBIT_LAB_DIR"

	// stopGrace is how long a process has after SIGTERM.
	stopGrace = 3 * time.Second
)

// Process is a program that the lab has started.
type Process struct {
	// Set by start, then only read.
	Record ProcessRecord
	lab    *Lab
	cmd    *exec.Cmd
	ended  chan struct{} // closed when the process has been reaped
	err    error         // why it ended; valid when ended is closed
}

// processSpec says what to start.
type processSpec struct {
	name string    // also names the log file
	ns   Namespace // where
	path string
	args []string
	env  []string // added to a small fixed environment
	dir  string   // where its log goes
}

// start runs a program inside its namespace, as a session of its own so that
// Ctrl-C reaches only the lab, which then ends it in order.
func (l *Lab) start(ctx context.Context, spec processSpec) (*Process, error) {
	logPath := filepath.Join(spec.dir, spec.name+".log")
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(spec.path, spec.args...)
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + l.dir,
		"TMPDIR=" + l.dir,
		labEnv + "=" + l.dir,
	}, spec.env...)
	for _, name := range l.cfg.PassEnv {
		if v, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	cmd.Dir = spec.dir
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := spec.ns.Do(cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.name, err)
	}
	p := &Process{lab: l, cmd: cmd, ended: make(chan struct{})}
	l.reapers.Go(context.WithoutCancel(ctx), "reap-"+spec.name, func(context.Context) {
		p.err = cmd.Wait()
		close(p.ended)
	})
	p.Record, err = recordOf(cmd.Process.Pid)
	if err != nil { // it has ended already, and its number says nothing
		<-p.ended
		return nil, fmt.Errorf("%s ended at once: %w\n%s", spec.name, p.err, tailOf(logPath, 5))
	}
	p.Record.Name, p.Record.Namespace, p.Record.Log = spec.name, spec.ns.Name, logPath
	return p, l.state.update(func(s *State) { s.Processes = append(s.Processes, p.Record) })
}

// Ended is closed when the process has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Signal sends sig to the process; one that has ended is no error.
func (p *Process) Signal(sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s: %w", p.Record.Name, err)
	}
	return nil
}

// Kill ends the process with SIGKILL and waits until it is gone.
func (p *Process) Kill() error {
	err := p.Signal(syscall.SIGKILL)
	if err == nil {
		<-p.ended
		err = p.forget()
	}
	return err
}

// Stop asks the process to end, and kills it when it takes longer than a grace
// of 3 seconds. It returns when the process is gone.
func (p *Process) Stop() error {
	// A stopped process would not see SIGTERM.
	if err := errors.Join(p.Signal(syscall.SIGTERM), p.Signal(syscall.SIGCONT)); err != nil {
		return err
	}
	grace := time.NewTimer(stopGrace)
	defer grace.Stop()
	select {
	case <-p.ended:
		return p.forget()
	case <-grace.C:
		return p.Kill()
	}
}

// forget takes the process out of the state file.
func (p *Process) forget() error {
	return p.lab.state.update(func(s *State) {
		s.Processes = slices.DeleteFunc(s.Processes, func(r ProcessRecord) bool { return r == p.Record })
	})
}

// LogTail returns the last lines of what the process has written.
func (p *Process) LogTail(lines int) string { return tailOf(p.Record.Log, lines) }

// recordOf reads the start time of a running process.
func recordOf(pid int) (ProcessRecord, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ProcessRecord{}, err
	}
	start, err := parseStartTime(raw)
	if err != nil {
		return ProcessRecord{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	return ProcessRecord{PID: pid, StartTime: start}, nil
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

// alive reports whether r still runs: the same number and the same start time.
func (r ProcessRecord) alive() bool {
	now, err := recordOf(r.PID)
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

// end stops a recorded process of an earlier lab, and does nothing to a process
// that has got its number since.
func (r ProcessRecord) end(ctx context.Context) error {
	// FindProcess holds a pidfd: from here on the number cannot come to mean
	// another process between the check and the signal.
	proc, err := os.FindProcess(r.PID)
	if err != nil {
		return nil
	}
	defer proc.Release()
	if !r.alive() {
		return nil
	}
	if err := proc.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end %s (pid %d): %w", r.Name, r.PID, err)
	}
	for r.alive() {
		if err := lifecycle.Sleep(ctx, 5*time.Millisecond); err != nil {
			return fmt.Errorf("wait for %s (pid %d) to end: %w", r.Name, r.PID, err)
		}
	}
	return nil
}

// strays finds processes that carry the mark of the lab in dir.
func strays(dir string) ([]ProcessRecord, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	mark := []byte(labEnv + "=" + dir)
	var found []ProcessRecord
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		env, err := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if err != nil || !slices.ContainsFunc(bytes.Split(env, []byte{0}), func(v []byte) bool { return bytes.Equal(v, mark) }) {
			continue
		}
		if r, err := recordOf(pid); err == nil {
			r.Name = "process marked " + string(mark)
			found = append(found, r)
		}
	}
	return found, nil
}

// tailOf returns the last lines of a file, or why it cannot.
func tailOf(path string, lines int) string {
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
