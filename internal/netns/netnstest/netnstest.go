// Package netnstest gives tests network namespaces of their own: made, joined by
// veth pairs and bridges, and gone when the test ends.
package netnstest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/vishvananda/netlink"
	vns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Require says that the test needs namespaces. Where they cannot be made the
// test is skipped, and fails when CI is set.
func Require(t testing.TB) {
	t.Helper()
	err := possible()
	if err == nil {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("this test makes network namespaces: %v; needs root (CAP_SYS_ADMIN and CAP_NET_ADMIN)", err)
	}
	t.Skipf("this test makes network namespaces: %v; run it as root", err)
}

// possible says why network namespaces cannot be made here.
func possible() error {
	ns, err := create()
	if err != nil {
		return err
	}
	return ns.Close()
}

// create makes a network namespace on a thread that comes back afterwards.
func create() (*netns.NS, error) {
	home, err := netns.Current()
	if err != nil {
		return nil, err
	}
	defer home.Close()
	var ns *netns.NS
	err = home.WithFD(func(home int) error {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread() // we never left
			return os.NewSyscallError("unshare", err)
		}
		var current error
		ns, current = netns.Current()
		if err := unix.Setns(home, unix.CLONE_NEWNET); err != nil {
			return errors.Join(current, fmt.Errorf("come back: %w", err)) // nobody else gets this thread
		}
		runtime.UnlockOSThread()
		return current
	})
	return ns, err
}

// New makes a network namespace with lo up. The test's end closes it.
func New(t testing.TB) *netns.NS {
	t.Helper()
	Require(t)
	ns, err := create()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	Up(t, ns, "lo")
	return ns
}

// Mount gives ns a path, as a container runtime does. The test's end unmounts
// it.
func Mount(t testing.TB, ns *netns.NS) string {
	t.Helper()
	dir, err := os.MkdirTemp("", mountPrefix())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "netns")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err = ns.Do(func() error {
		return os.NewSyscallError("mount", unix.Mount("/proc/thread-self/ns/net", path, "none", unix.MS_BIND, ""))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { Unmount(t, path) })
	return path
}

// mountPrefix begins the names of the directories in which this process mounts
// namespaces.
func mountPrefix() string { return fmt.Sprintf("netns-%d-", os.Getpid()) }

// Unmount takes the path of Mount away before the test's end. Twice is no error.
func Unmount(t testing.TB, path string) {
	t.Helper()
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		t.Errorf("unmount %s: %v", path, err)
	}
}

// Do runs fn inside ns and fails the test when it fails.
func Do(t testing.TB, ns *netns.NS, fn func() error) {
	t.Helper()
	if err := ns.Do(fn); err != nil {
		t.Fatal(err)
	}
}

// Handle opens rtnetlink inside ns until the test ends.
func Handle(t testing.TB, ns *netns.NS) *netlink.Handle {
	t.Helper()
	var h *netlink.Handle
	err := ns.WithFD(func(fd int) (err error) {
		h, err = netlink.NewHandleAt(vns.NsHandle(fd), unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

// Up brings an interface up.
func Up(t testing.TB, ns *netns.NS, link string) {
	t.Helper()
	h := Handle(t, ns)
	must(t, h.LinkSetUp(find(t, h, link)))
}

// Addr gives an interface addresses, such as 10.0.0.1/24, at once usable.
func Addr(t testing.TB, ns *netns.NS, link string, prefixes ...netip.Prefix) {
	t.Helper()
	h := Handle(t, ns)
	l := find(t, h, link)
	for _, p := range prefixes {
		must(t, h.AddrAdd(l, &netlink.Addr{IPNet: ipNet(p), Flags: unix.IFA_F_NODAD}))
	}
}

// Route sends dst through the gateway. The zero prefix means everything of the
// gateway's family.
func Route(t testing.TB, ns *netns.NS, dst netip.Prefix, gateway netip.Addr) {
	t.Helper()
	r := &netlink.Route{Gw: gateway.AsSlice()}
	if dst.IsValid() {
		r.Dst = ipNet(dst)
	}
	must(t, Handle(t, ns).RouteAdd(r))
}

// RouteFrom sends dst out by link with src as the preferred source address.
func RouteFrom(t testing.TB, ns *netns.NS, link string, dst netip.Prefix, src netip.Addr) {
	t.Helper()
	h := Handle(t, ns)
	must(t, h.RouteAdd(&netlink.Route{LinkIndex: find(t, h, link).Attrs().Index, Dst: ipNet(dst), Src: src.AsSlice()}))
}

// An End is one end of a veth pair.
type End struct {
	NS       *netns.NS
	Name     string
	Prefixes []netip.Prefix
}

// Veth joins two namespaces by a pair of interfaces that are up.
func Veth(t testing.TB, a, b End) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = a.Name
	err := b.NS.WithFD(func(fd int) error {
		return Handle(t, a.NS).LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: b.Name, PeerNamespace: netlink.NsFd(fd)})
	})
	must(t, err)
	for _, e := range []End{a, b} {
		Addr(t, e.NS, e.Name, e.Prefixes...)
		Up(t, e.NS, e.Name)
	}
}

// Bridge makes a bridge in ns that joins the named interfaces.
func Bridge(t testing.TB, ns *netns.NS, name string, ports ...string) {
	t.Helper()
	h := Handle(t, ns)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	must(t, h.LinkAdd(bridge))
	must(t, h.LinkSetUp(bridge))
	for _, p := range ports {
		must(t, h.LinkSetMaster(find(t, h, p), bridge))
	}
}

// Sysctl writes /proc/sys/KEY inside ns, such as net/ipv4/ip_forward.
func Sysctl(t testing.TB, ns *netns.NS, key, value string) {
	t.Helper()
	Do(t, ns, func() error { return os.WriteFile(filepath.Join("/proc/sys", key), []byte(value), 0) })
}

// find looks an interface up.
func find(t testing.TB, h *netlink.Handle, name string) netlink.Link {
	t.Helper()
	l, err := h.LinkByName(name)
	if err != nil {
		t.Fatalf("interface %s: %v", name, err)
	}
	return l
}

// ipNet is p as netlink wants it, with the bits of the host.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// must fails the test on err.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
