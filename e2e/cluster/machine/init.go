package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// Words on the pipe from the starter, one a line.
const (
	wordPlaced = "placed" // the machine is in its cgroup
	wordWired  = "wired"  // and has its network
	wordKeep   = "keep"   // it shall outlive its starter
)

// leashFD is the pipe's number in the machine's init.
const leashFD = 3

// Main is what the program of a machine's init does: stage is "init", or "init-placed"
// when it runs in its cgroup namespace. It returns only with an error.
func Main(ctx context.Context, stage, dir string) error {
	leash := os.NewFile(leashFD, "leash")
	switch stage {
	case "init":
		return enterCgroup(leash, dir)
	case "init-placed":
		return run(ctx, leash, dir)
	}
	return fmt.Errorf("stage %q: want init", stage)
}

// expect reads a word of the starter, and not a byte more: what follows is for the
// program that this one becomes.
func expect(leash io.Reader, word string) error {
	want := word + "\n"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(leash, got); err != nil {
		return fmt.Errorf("the starter has gone before it said %q: %w", word, err)
	}
	if string(got) != want {
		return fmt.Errorf("the starter said %q, want %q", got, want)
	}
	return nil
}

// enterCgroup makes the cgroup that the starter has put this process into the root
// of what it sees. A cgroup namespace belongs to a thread, so the program is run
// anew from that thread.
func enterCgroup(leash io.Reader, dir string) error {
	if err := expect(leash, wordPlaced); err != nil {
		return err
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("new cgroup namespace: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if _, err := unix.FcntlInt(leashFD, unix.F_SETFD, 0); err != nil {
		return err
	}
	return syscall.Exec(self, []string{self, "init-placed", dir}, os.Environ())
}

// run is the machine's life.
func run(ctx context.Context, leash io.Reader, dir string) error {
	spec, err := readSpec(dir)
	if err != nil {
		return err
	}
	if _, err := unix.FcntlInt(leashFD, unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
		return err
	}
	// The socket's path is of the host's root, which goes away next.
	control, err := listenControl(ctx, dir)
	if err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(spec.Hostname)); err != nil {
		return fmt.Errorf("hostname: %w", err)
	}
	if err := makeRoot(dir, spec); err != nil {
		return err
	}
	if err := makeRoom(); err != nil {
		return err
	}
	if err := expect(leash, wordWired); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	s := newSupervisor(spec.Services)
	var group lifecycle.Group
	defer group.Wait()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	group.Go(ctx, "leash", func(context.Context) {
		// The machine ends with its starter, until that has let it go.
		err := expect(leash, wordKeep)
		if err == nil {
			return
		}
		if !errors.Is(err, io.EOF) || ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, "labnode:", err)
		}
		os.Exit(1) // the kernel ends all that runs here
	})
	group.Go(ctx, "control", func(ctx context.Context) { s.serve(ctx, control) })
	s.run(ctx)
	return context.Cause(ctx)
}
