package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/ambit-mesh/ambit/internal/lab/proc"
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
	p.Record, err = proc.Of(cmd.Process.Pid)
	if err != nil { // it has ended already, and its number says nothing
		<-p.ended
		return nil, fmt.Errorf("%s ended at once: %w\n%s", spec.name, p.err, proc.Tail(logPath, 5))
	}
	p.Record.Name, p.Record.Namespace, p.Record.Log = spec.name, spec.ns.Name, logPath
	return p, l.state.update(func(s *State) { s.Processes = append(s.Processes, p.Record) })
}

// Run starts a program of somebody else's in a namespace of the node, its own or
// that of a pod. The caller's name for it names the log file too.
func (l *Lab) Run(ctx context.Context, n *Node, ns Namespace, name, path string, args ...string) (*Process, error) {
	return l.start(ctx, processSpec{name: name, ns: ns, dir: n.Dir, path: path, args: args})
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
func (p *Process) LogTail(lines int) string { return proc.Tail(p.Record.Log, lines) }
