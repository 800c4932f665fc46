package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// ID names a network namespace for as long as somebody holds it: the device and
// inode of its file. Comparable. The zero ID means none.
type ID struct {
	Dev   uint64 `json:"dev"`
	Inode uint64 `json:"inode"`
}

// String returns the id as "net:[inode]" does in /proc, with the device.
func (id ID) String() string { return fmt.Sprintf("net:[%d:%d]", id.Dev, id.Inode) }

// NS is an open network namespace.
type NS struct {
	// Set by newNS, then only read.
	name string
	id   ID
	file *os.File
	raw  syscall.RawConn // of file: keeps the descriptor while it is in use
	home *os.File        // where threads of this process belong
	same bool            // it is home

	// route guards the rtnetlink socket of HasAddr.
	route routeSocket
	// track guards the netfilter socket of OriginalPacketDst.
	track trackSocket

	close sync.Once
	err   error // of close
}

// Open opens the namespace that is mounted at path, such as /run/netns/NAME or
// /proc/PID/ns/net. A path of another kind of file is refused.
func Open(path string) (*NS, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return newNS(file, path)
}

// FromFD takes over fd, a descriptor of a network namespace. It closes fd when
// it fails.
func FromFD(fd int) (*NS, error) {
	name := fmt.Sprintf("fd %d", fd)
	unix.CloseOnExec(fd)
	return newNS(os.NewFile(uintptr(fd), name), name)
}

// Current opens the namespace in which the calling thread stands: that of the
// process, and inside [NS.Do] that of the visited one.
func Current() (*NS, error) { return Open(threadNS) }

// threadNS is the namespace of the calling thread. /proc/self would be that of
// the first thread, wherever that happens to be.
const threadNS = "/proc/thread-self/ns/net"

// ErrNotNamespace says that a file is there and is not a network namespace: for
// one, the place of a namespace that was unmounted.
var ErrNotNamespace = errors.New("not a network namespace")

// nsGetNSType asks a namespace file for its kind. Source: ioctl_nsfs(2).
const nsGetNSType = 0xb703

// newNS checks that file is a network namespace, and owns it from here on.
func newNS(file *os.File, name string) (*NS, error) {
	n := &NS{name: name, file: file}
	if err := n.prepare(); err != nil {
		file.Close()
		if n.home != nil {
			n.home.Close()
		}
		return nil, err
	}
	return n, nil
}

// prepare fills in what an NS needs beside its file.
func (n *NS) prepare() error {
	var err error
	if n.raw, err = n.file.SyscallConn(); err != nil {
		return err
	}
	var st unix.Stat_t
	var kind int
	err = n.WithFD(func(fd int) error {
		if err := unix.Fstat(fd, &st); err != nil {
			return fmt.Errorf("stat %s: %w", n.name, err)
		}
		kind, _ = unix.IoctlRetInt(fd, nsGetNSType) // fails for other files
		return nil
	})
	if err != nil {
		return err
	}
	if kind != unix.CLONE_NEWNET {
		return fmt.Errorf("open %s: %w", n.name, ErrNotNamespace)
	}
	n.id = ID{Dev: st.Dev, Inode: st.Ino}
	if n.home, err = openHome(); err != nil {
		return err
	}
	home, err := n.home.Stat()
	if err != nil {
		return err // it names the act and the path
	}
	if st, ok := home.Sys().(*syscall.Stat_t); ok {
		n.same = ID{Dev: st.Dev, Inode: st.Ino} == n.id
	}
	return nil
}

// openHome opens the namespace of the process. A fresh goroutine is not locked
// to any thread, and a thread that is not locked is at home.
func openHome() (*os.File, error) {
	type result struct {
		file *os.File
		err  error
	}
	done := make(chan result, 1)
	go func() {
		file, err := os.Open(threadNS)
		done <- result{file, err}
	}()
	r := <-done
	return r.file, r.err
}

// ID returns what tells this namespace from every other that is alive.
func (n *NS) ID() ID { return n.id }

// String returns the name under which the namespace was opened, and its id.
func (n *NS) String() string { return n.name + " " + n.id.String() }

// WithFD calls fn with the descriptor of the namespace, which stays open until
// fn returns even if Close is called meanwhile. fn must not close it.
func (n *NS) WithFD(fn func(fd int) error) error {
	var err error
	if ctl := n.raw.Control(func(fd uintptr) { err = fn(int(fd)) }); ctl != nil {
		return fmt.Errorf("netns %s: %w", n.name, os.ErrClosed)
	}
	return err
}

// Clone opens the same namespace once more; each is closed by itself.
func (n *NS) Clone() (*NS, error) {
	dup := -1
	err := n.WithFD(func(fd int) (err error) {
		dup, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	return newNS(os.NewFile(uintptr(dup), n.name), n.name)
}

// Close lets go of the namespace. What was made inside it lives on.
func (n *NS) Close() error {
	n.close.Do(func() {
		n.err = errors.Join(n.file.Close(), n.route.close(), n.track.close(), n.home.Close())
	})
	return n.err
}

// Do runs fn on a thread that stands inside the namespace, and returns its
// error. What fn does on other goroutines happens outside: it must neither start
// any that need the namespace, nor look up names, nor wait for long.
//
// The namespace of the process itself is entered without a privilege.
func (n *NS) Do(fn func() error) error {
	result := make(chan error, 1)
	go func() { result <- n.visit(fn) }()
	return <-result
}

// errStranded says that a thread could not come home.
var errStranded = errors.New("the thread is lost")

// visit goes in, runs fn, and comes back. If it cannot come back it leaves the
// thread locked, and the runtime ends the thread with the goroutine. Both
// descriptors stay open for the time of the visit.
func (n *NS) visit(fn func() error) error {
	home, err := n.home.SyscallConn()
	if err != nil {
		return fmt.Errorf("netns %s: %w", n.name, os.ErrClosed)
	}
	ctl := home.Control(func(home uintptr) {
		err = n.WithFD(func(fd int) error { return n.visitFrom(int(home), fd, fn) })
	})
	if ctl != nil {
		return fmt.Errorf("netns %s: %w", n.name, os.ErrClosed)
	}
	return err
}

// visitFrom is visit with the descriptors of home and of the namespace at hand.
func (n *NS) visitFrom(home, fd int, fn func() error) (err error) {
	runtime.LockOSThread()
	if err := enter(fd); err != nil {
		defer runtime.UnlockOSThread() // we never left
		if n.same && errors.Is(err, unix.EPERM) {
			return fn() // who may not leave home is there
		}
		return fmt.Errorf("enter netns %s: %w", n.name, err)
	}
	defer func() { // also when fn panics: nobody may recover in a foreign stack
		if back := enter(home); back != nil {
			err = errors.Join(err, fmt.Errorf("leave netns %s: %w: %w", n.name, errStranded, back))
			return
		}
		runtime.UnlockOSThread()
	}()
	return fn()
}

// enter moves the calling thread, which is locked, into the namespace fd.
func enter(fd int) error {
	err := unix.Setns(fd, unix.CLONE_NEWNET)
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: needs CAP_SYS_ADMIN", err)
	}
	return err
}
