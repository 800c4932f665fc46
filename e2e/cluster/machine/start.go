package machine

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambit-mesh/ambit/internal/lab/proc"
	"github.com/ambit-mesh/ambit/internal/netns"
)

// Machine is a machine that this process has started. One goroutine uses it.
type Machine struct {
	Record proc.Record
	dir    string
	leash  *os.File
	cmd    *exec.Cmd
}

// Config says how to start a machine.
type Config struct {
	Init   string // the program labnode
	Dir    string // of the machine; its Spec is there already
	Mark   string // NAME=value, put into the environment of all that runs there
	Cgroup string // see MakeCgroup; exists already
}

// Start makes the machine and puts it into its cgroup. It has no network yet: see
// [Machine.Wired]. It ends with this process unless [Machine.Keep] is called.
func Start(ctx context.Context, cfg Config) (*Machine, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	log, err := os.OpenFile(filepath.Join(cfg.Dir, "init.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		w.Close()
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(cfg.Init, "init", cfg.Dir)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", cfg.Mark}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{r}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
	}
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, fmt.Errorf("start %s: %w", cfg.Init, err)
	}
	m := &Machine{dir: cfg.Dir, leash: w, cmd: cmd}
	m.Record, err = proc.Of(cmd.Process.Pid)
	if err == nil {
		m.Record.Name = filepath.Base(cfg.Dir)
		err = EnterCgroup(cfg.Cgroup, cmd.Process.Pid)
	}
	if err == nil {
		err = m.say(wordPlaced)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w\n%s", err, proc.Tail(log.Name(), 5)), m.Kill())
	}
	return m, nil
}

// NetNS opens the machine's network namespace. The caller closes it.
func (m *Machine) NetNS() (*netns.NS, error) { return NetNS(m.Record.PID) }

// NetNS opens the network namespace of a machine by the number of its init.
func NetNS(pid int) (*netns.NS, error) { return netns.Open(fmt.Sprintf("/proc/%d/ns/net", pid)) }

// Wired says that the network is there: services start.
func (m *Machine) Wired() error { return m.say(wordWired) }

// Keep lets the machine live longer than this process.
func (m *Machine) Keep() error { return m.say(wordKeep) }

func (m *Machine) say(word string) error {
	if _, err := io.WriteString(m.leash, word+"\n"); err != nil {
		return fmt.Errorf("machine %s has ended: %w\n%s", m.Record.Name, err, proc.Tail(filepath.Join(m.dir, "init.log"), 5))
	}
	return nil
}

// Release ends this process's part in a machine that was kept.
func (m *Machine) Release() error { return errors.Join(m.leash.Close(), m.cmd.Process.Release()) }

// Kill removes the machine at once, as a power cut would, and waits for its end.
func (m *Machine) Kill() error {
	err := m.cmd.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	if err == nil {
		_ = m.cmd.Wait() // "killed", as it should be
	}
	return errors.Join(err, m.leash.Close())
}

// Ask sends a line to the socket of the machine in dir and returns the answer.
func Ask(ctx context.Context, dir, line string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, ControlFile))
	if err != nil {
		return "", err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		return "", err
	}
	reply, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("%q to %s: %w", line, filepath.Base(dir), err)
	}
	reply = strings.TrimSpace(reply)
	if text, bad := strings.CutPrefix(reply, "error: "); bad {
		return "", fmt.Errorf("%q to %s: %s", line, filepath.Base(dir), text)
	}
	return reply, nil
}

// Status asks the machine in dir for its services.
func Status(ctx context.Context, dir string) ([]ServiceStatus, error) {
	reply, err := Ask(ctx, dir, "status")
	if err != nil {
		return nil, err
	}
	var all []ServiceStatus
	return all, json.Unmarshal([]byte(reply), &all)
}

// Command is a program that runs on the machine whose init has this number: with
// its root, its network, its processes. Its environment is the machine's.
func Command(ctx context.Context, pid int, args ...string) *exec.Cmd {
	all := append([]string{"--target", fmt.Sprint(pid), "--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup", "--"}, args...)
	cmd := exec.CommandContext(ctx, "nsenter", all...)
	cmd.Env = []string{"PATH=/lab/kubernetes:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
	return cmd
}
