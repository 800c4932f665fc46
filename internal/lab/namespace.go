package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ambit-mesh/ambit/internal/netns"
)

// netnsDir is where iproute2 looks for named namespaces, so that
// `ip netns exec NAME` works on ours.
const netnsDir = "/run/netns"

// Namespace is a network namespace with a name that `ip netns` knows. The zero
// value is none. It may be used from many goroutines.
type Namespace struct {
	Name string
}

// String is the name.
func (n Namespace) String() string { return n.Name }

// Path is the file that holds the namespace.
func (n Namespace) Path() string { return filepath.Join(netnsDir, n.Name) }

// Do runs fn on a thread inside the namespace; see [netns.NS.Do]. Programs that
// fn starts belong to the namespace too.
func (n Namespace) Do(fn func() error) error {
	ns, err := netns.Open(n.Path())
	if err != nil {
		return err
	}
	defer ns.Close()
	return ns.Do(fn)
}

// dial connects from inside the namespace.
func (n Namespace) dial(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	doErr := n.Do(func() error {
		conn, err = new(net.Dialer).DialContext(ctx, network, addr)
		return nil
	})
	return conn, errors.Join(doErr, err)
}

// exists reports whether the namespace has its file.
func (n Namespace) exists() bool {
	_, err := os.Stat(n.Path())
	return err == nil
}

// create makes the namespace with its loopback up. One that is left under the
// same name by an earlier lab is replaced.
func (n Namespace) create() error {
	if err := n.remove(); err != nil {
		return err
	}
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(n.Path(), os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	f.Close()
	result := make(chan error, 1)
	go func() {
		// Never unlocked: the thread belongs to the new namespace and ends with
		// this goroutine.
		runtime.LockOSThread()
		result <- n.bindNew()
	}()
	if err := <-result; err != nil {
		return errors.Join(fmt.Errorf("create namespace %s: %w", n.Name, err), os.Remove(n.Path()))
	}
	return nil
}

// bindNew moves the calling thread into a new namespace and binds that to the
// file.
func (n Namespace) bindNew() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	if err := unix.Mount("/proc/thread-self/ns/net", n.Path(), "none", unix.MS_BIND, ""); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// remove takes the name away. The kernel ends the namespace when its last
// process and socket have gone. Removing what is not there is no error.
func (n Namespace) remove() error {
	err := unix.Unmount(n.Path(), unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", n.Path(), err)
	}
	if err := os.Remove(n.Path()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
