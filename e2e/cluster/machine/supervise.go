package machine

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

const (
	// restartAfter is how long a service that has ended stays down.
	restartAfter = time.Second
	// stopGrace is how long a service has after SIGTERM.
	stopGrace = 5 * time.Second
	// orphanEvery is how often children of other processes, which the kernel has
	// given to init, are looked after.
	orphanEvery = time.Second
)

// supervisor runs the services of a machine.
type supervisor struct {
	services []*service
}

// service is one of them.
type service struct {
	spec Service
	wake chan struct{} // told when want has changed

	mu     sync.Mutex
	want   bool // it shall run
	pid    int  // 0 when it does not run
	starts int
}

func newSupervisor(specs []Service) *supervisor {
	s := &supervisor{}
	for _, spec := range specs {
		s.services = append(s.services, &service{spec: spec, want: true, wake: make(chan struct{}, 1)})
	}
	return s
}

// run runs all services until ctx ends.
func (s *supervisor) run(ctx context.Context) {
	var group lifecycle.Group
	defer group.Wait()
	for _, svc := range s.services {
		group.Go(ctx, svc.spec.Name, svc.keep)
	}
	group.Go(ctx, "orphans", s.reapOrphans)
}

// reapOrphans buries processes whose parents have ended. Those that a service's
// exec.Cmd waits for are left to it: they are asked for by number, never by
// "any child".
func (s *supervisor) reapOrphans(ctx context.Context) {
	for lifecycle.Sleep(ctx, orphanEvery) == nil {
		children, err := zombieChildren()
		if err != nil {
			fmt.Fprintln(os.Stderr, "labnode: look for orphans:", err)
			continue
		}
		for _, pid := range children {
			if !s.owns(pid) {
				_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil) // gone already is fine too
			}
		}
	}
}

// zombieChildren lists the ended children of this process.
func zombieChildren() ([]int, error) {
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		return nil, err
	}
	var zombies []int
	for _, task := range tasks {
		raw, err := os.ReadFile(task)
		if err != nil {
			continue // a thread that has ended
		}
		for field := range strings.FieldsSeq(string(raw)) {
			var pid int
			if _, err := fmt.Sscan(field, &pid); err != nil {
				return nil, err
			}
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if err == nil && strings.Contains(string(stat), ") Z ") {
				zombies = append(zombies, pid)
			}
		}
	}
	return zombies, nil
}

// owns reports whether pid is a service's own process.
func (s *supervisor) owns(pid int) bool {
	for _, svc := range s.services {
		if svc.status().PID == pid {
			return true
		}
	}
	return false
}

// keep runs the service whenever it is wanted, until ctx ends.
func (s *service) keep(ctx context.Context) {
	for ctx.Err() == nil {
		if !s.wanted() {
			select {
			case <-s.wake:
			case <-ctx.Done():
			}
			continue
		}
		if err := s.once(ctx); err != nil {
			fmt.Fprintf(os.Stderr, "labnode: %s: %v\n", s.spec.Name, err)
		}
		if s.wanted() && lifecycle.Sleep(ctx, restartAfter) != nil {
			return
		}
	}
}

// once runs the service to its end.
func (s *service) once(ctx context.Context) error {
	for s.spec.After != "" {
		if _, err := os.Stat(s.spec.After); err == nil {
			break
		}
		if err := lifecycle.Sleep(ctx, 20*time.Millisecond); err != nil {
			return nil // the machine ends
		}
	}
	log, err := os.OpenFile(filepath.Join("/var/log", s.spec.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(s.spec.Path, s.spec.Args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "HOME=/root")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	group, err := openServiceCgroup(s.spec.Name)
	if err != nil {
		return err
	}
	if group != nil {
		defer group.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(group.Fd())
	}
	// The number is known before the process can be taken for an orphan.
	s.mu.Lock()
	if err := cmd.Start(); err != nil {
		s.mu.Unlock()
		return err
	}
	s.pid = cmd.Process.Pid
	s.starts++
	s.mu.Unlock()
	err = cmd.Wait()
	s.mu.Lock()
	s.pid = 0
	wanted := s.want
	s.mu.Unlock()
	if wanted {
		fmt.Fprintf(log, "labnode: ended: %v; again in %v\n", err, restartAfter)
	}
	return nil
}

func (s *service) wanted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.want
}

// setWanted changes whether the service shall run, and sends sig to it if it runs
// and shall not.
func (s *service) setWanted(want bool, sig syscall.Signal) error {
	s.mu.Lock()
	s.want = want
	pid := s.pid
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
	if sig == 0 || pid == 0 {
		return nil
	}
	if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

func (s *service) status() ServiceStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	return ServiceStatus{Name: s.spec.Name, PID: s.pid, Starts: s.starts, Stopped: !s.want}
}

// waitStopped returns when the service's process has ended; it is killed when it
// takes longer than the grace.
func (s *service) waitStopped(ctx context.Context) error {
	deadline := time.Now().Add(stopGrace)
	for s.status().PID != 0 {
		if time.Now().After(deadline) {
			if err := s.setWanted(false, syscall.SIGKILL); err != nil {
				return err
			}
		}
		if err := lifecycle.Sleep(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// listenControl opens the socket of the machine.
func listenControl(ctx context.Context, dir string) (net.Listener, error) {
	path := filepath.Join(dir, ControlFile)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return new(net.ListenConfig).Listen(ctx, "unix", path)
}

// serve answers the machine's socket until ctx ends.
func (s *supervisor) serve(ctx context.Context, ln net.Listener) {
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	var group lifecycle.Group
	defer group.Wait()
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		group.Go(ctx, "control", func(ctx context.Context) {
			defer c.Close()
			line, err := bufio.NewReader(c).ReadString('\n')
			if err != nil {
				return
			}
			reply, err := s.obey(ctx, strings.Fields(line))
			if err != nil {
				reply = "error: " + err.Error()
			}
			fmt.Fprintln(c, reply)
		})
	}
}

// obey does what a line of the control socket says.
func (s *supervisor) obey(ctx context.Context, words []string) (string, error) {
	if len(words) == 1 && words[0] == "status" {
		var all []ServiceStatus
		for _, svc := range s.services {
			all = append(all, svc.status())
		}
		raw, err := json.Marshal(all)
		return string(raw), err
	}
	if len(words) != 2 {
		return "", fmt.Errorf("%q: want status, or start, stop or kill and a service", words)
	}
	for _, svc := range s.services {
		if svc.spec.Name != words[1] {
			continue
		}
		switch words[0] {
		case "start":
			return "ok", svc.setWanted(true, 0)
		case "stop":
			err := svc.setWanted(false, syscall.SIGTERM)
			return "ok", errors.Join(err, svc.waitStopped(ctx))
		case "kill":
			return "ok", svc.setWanted(true, syscall.SIGKILL)
		}
		return "", fmt.Errorf("%q: want status, start, stop or kill", words[0])
	}
	return "", fmt.Errorf("no service %q on this machine", words[1])
}
