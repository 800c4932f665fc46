package netns_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

var (
	addr1  = netip.MustParsePrefix("10.71.0.1/24")
	addr2  = netip.MustParsePrefix("10.71.0.2/24")
	addr61 = netip.MustParsePrefix("fd71::1/64")
	addr62 = netip.MustParsePrefix("fd71::2/64")
)

// pair makes two namespaces joined by a veth.
func pair(t testing.TB) (a, b *netns.NS) {
	t.Helper()
	a, b = netnstest.New(t), netnstest.New(t)
	netnstest.Veth(t,
		netnstest.End{NS: a, Name: "eth0", Prefixes: []netip.Prefix{addr1, addr61}},
		netnstest.End{NS: b, Name: "eth0", Prefixes: []netip.Prefix{addr2, addr62}})
	return a, b
}

func TestDoStandsInsideAndComesHome(t *testing.T) {
	ns := netnstest.New(t)
	home, err := netns.Current()
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	var inside netns.ID
	want := errors.New("what fn says")
	err = ns.Do(func() error {
		cur, err := netns.Current()
		if err != nil {
			return err
		}
		defer cur.Close()
		inside = cur.ID()
		return want
	})
	if !errors.Is(err, want) || inside != ns.ID() || inside == home.ID() {
		t.Errorf("Do = %v inside %v, want %v inside %v", err, inside, want, ns.ID())
	}
	// Threads that were inside are used again: none may still be there.
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			cur, err := netns.Current()
			if err != nil {
				t.Error(err)
				return
			}
			defer cur.Close()
			if cur.ID() != home.ID() {
				t.Errorf("a goroutine runs in %v, want %v", cur.ID(), home.ID())
			}
			ns.Do(func() error { return nil })
		})
	}
	wg.Wait()
}

// The proxy of one workload stands in its namespace and has no privilege: what
// it opens there must not need one.
func TestOwnNamespaceNeedsNoPrivilege(t *testing.T) {
	const child = "NETNS_TEST_NOBODY"
	if os.Getenv(child) == "" {
		netnstest.Require(t)
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestOwnNamespaceNeedsNoPrivilege$", "-test.v")
		cmd.Env = append(os.Environ(), child+"=1")
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
			t.Errorf("as nobody: %v\n%s", err, out)
		}
		return
	}
	ns, err := netns.Current()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	opts := netns.SocketOptions{NoMark: true}
	l, err := ns.Listen(t.Context(), "tcp", netip.MustParseAddrPort("127.0.0.1:0"), opts)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := ns.Dial(t.Context(), netns.DialOptions{Remote: l.Addr().(*net.TCPAddr).AddrPort(), SocketOptions: opts})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if local, err := ns.HasAddr(netip.MustParseAddr("127.0.0.1")); err != nil || !local {
		t.Errorf("HasAddr = %v, %v", local, err)
	}
	if _, err := ns.Addrs(); err != nil {
		t.Error(err)
	}
}

func TestOpenInsideDoStillComesHome(t *testing.T) {
	outer, inner := netnstest.New(t), netnstest.New(t)
	path := netnstest.Mount(t, inner)
	var opened *netns.NS
	netnstest.Do(t, outer, func() (err error) {
		opened, err = netns.Open(path)
		return err
	})
	defer opened.Close()
	if opened.ID() != inner.ID() {
		t.Errorf("opened %v, want %v", opened.ID(), inner.ID())
	}
	netnstest.Do(t, opened, func() error { return nil })
	// The leak check of TestMain finds a thread that went "home" to outer.
}

func TestOpenRefuses(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{
		"a file that is no namespace":     plain,
		"a namespace of another kind":     "/proc/self/ns/mnt",
		"a path that leads nowhere":       plain + "-missing",
		"a directory":                     t.TempDir(),
		"a descriptor of something else":  "/dev/null",
		"the namespace of a dead process": "/proc/4294967/ns/net",
	} {
		t.Run(name, func(t *testing.T) {
			if ns, err := netns.Open(path); err == nil {
				ns.Close()
				t.Errorf("Open(%s) gives %v, want an error", path, ns)
			}
		})
	}
}

func TestFromFDOwnsItsDescriptor(t *testing.T) {
	fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := netns.FromFD(fd); err == nil {
		t.Fatal("FromFD(/dev/null) gives a namespace")
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); !errors.Is(err, unix.EBADF) {
		t.Errorf("the refused descriptor is still open: %v", err)
	}
}

func TestAfterCloseNothingTouchesADescriptor(t *testing.T) {
	ns := netnstest.New(t)
	clone, err := ns.Clone()
	if err != nil {
		t.Fatal(err)
	}
	defer clone.Close()
	if clone.ID() != ns.ID() {
		t.Errorf("the clone is %v, want %v", clone.ID(), ns.ID())
	}
	ns.Close()
	ns.Close()
	if err := ns.Do(func() error { return nil }); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Do after Close = %v, want os.ErrClosed", err)
	}
	if _, err := ns.HasAddr(addr1.Addr()); !errors.Is(err, os.ErrClosed) {
		t.Errorf("HasAddr after Close = %v, want os.ErrClosed", err)
	}
	if _, err := ns.Dial(t.Context(), netns.DialOptions{Remote: netip.MustParseAddrPort("127.0.0.1:1")}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Dial after Close = %v, want os.ErrClosed", err)
	}
	if err := clone.Do(func() error { return nil }); err != nil {
		t.Errorf("the clone died with the original: %v", err)
	}
}

func TestCloseWaitsForNobodyAndHarmsNobody(t *testing.T) {
	ns := netnstest.New(t)
	inside, closed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(closed)
		<-inside
		ns.Close()
	}()
	err := ns.Do(func() error {
		close(inside)
		<-closed
		return nil
	})
	if err != nil {
		t.Errorf("a visit during which the namespace was closed = %v, want its way home to be there", err)
	}
}

func TestHasAddr(t *testing.T) {
	a, _ := pair(t)
	for name, tt := range map[string]struct {
		ip   string
		want bool
	}{
		"its IPv4 address":               {"10.71.0.1", true},
		"the same as IPv4 in IPv6":       {"::ffff:10.71.0.1", true},
		"its IPv6 address":               {"fd71::1", true},
		"all of 127/8":                   {"127.3.2.1", true},
		"IPv6 loopback":                  {"::1", true},
		"the neighbour":                  {"10.71.0.2", false},
		"the broadcast of its network":   {"10.71.0.255", false},
		"the IPv6 neighbour":             {"fd71::2", false},
		"an address of nobody":           {"192.0.2.1", false},
		"the wildcard is not an address": {"0.0.0.0", false},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := a.HasAddr(netip.MustParseAddr(tt.ip)); err != nil || got != tt.want {
				t.Errorf("HasAddr(%s) = %v, %v, want %v", tt.ip, got, err, tt.want)
			}
		})
	}
	all, err := a.Addrs()
	if err != nil || len(all) < 4 {
		t.Errorf("Addrs = %v, %v, want two loopbacks and two of eth0", all, err)
	}
}

// A change of addresses is in force for the very next question, also after more
// changes than the kernel keeps news of.
func TestHasAddrAfterChanges(t *testing.T) {
	ns, _ := pair(t)
	h := netnstest.Handle(t, ns)
	link, err := h.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	change := func(ip string, do func(netlink.Link, *netlink.Addr) error) {
		t.Helper()
		addr, err := netlink.ParseAddr(ip + "/32")
		if err == nil {
			err = do(link, addr)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	want := func(ip string, want bool) {
		t.Helper()
		if got, err := ns.HasAddr(netip.MustParseAddr(ip)); err != nil || got != want {
			t.Errorf("HasAddr(%s) = %v, %v, want %v", ip, got, err, want)
		}
	}
	for range 3 {
		want("10.72.0.1", false)
		change("10.72.0.1", h.AddrAdd)
		want("10.72.0.1", true)
		want("10.72.0.1", true) // from memory
		change("10.72.0.1", h.AddrDel)
	}
	for i := range 250 {
		change(fmt.Sprintf("10.73.0.%d", 1+i), h.AddrAdd)
	}
	want("10.73.0.1", true)
	want("10.73.0.250", true)
	if err := h.LinkDel(link); err != nil {
		t.Fatal(err)
	}
	want("10.73.0.1", false)
	want(addr1.Addr().String(), false)
	want("::1", true)
}

func TestListenAndDialInsideTwoNamespaces(t *testing.T) {
	a, b := pair(t)
	l, err := b.Listen(t.Context(), "tcp", netip.MustParseAddrPort("[::]:8080"), netns.SocketOptions{UserTimeout: 7 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, remote := range map[string]string{"IPv4": "10.71.0.2:8080", "IPv6": "[fd71::2]:8080", "IPv4 in IPv6": "[::ffff:10.71.0.2]:8080"} {
		t.Run(name, func(t *testing.T) {
			opts := netns.DialOptions{Remote: netip.MustParseAddrPort(remote)}
			opts.UserTimeout = 9 * time.Second
			out, err := a.Dial(t.Context(), opts)
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			in, err := l.AcceptTCP()
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			checkSocket(t, "dialled", out, 9000)
			checkSocket(t, "accepted", in, 7000)
			echo(t, out, in)
			dst, err := netns.OriginalDst(in)
			want := netip.MustParseAddrPort(remote)
			if err != nil || dst != netip.AddrPortFrom(want.Addr().Unmap(), want.Port()) {
				t.Errorf("OriginalDst of a connection nobody redirected = %v, %v, want its own address %v", dst, err, want)
			}
		})
	}
}

// checkSocket compares the options of a connection with what they must be.
func checkSocket(t *testing.T, which string, c *net.TCPConn, userTimeout int) {
	t.Helper()
	for _, o := range []struct {
		name             string
		level, opt, want int
	}{
		{"SO_MARK", unix.SOL_SOCKET, unix.SO_MARK, 0x539},
		{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 180},
		{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 180},
		{"TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 9},
		{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, userTimeout},
	} {
		if got := option(t, c, o.level, o.opt); got != o.want {
			t.Errorf("%s: %s = %d, want %d", which, o.name, got, o.want)
		}
	}
}

// option reads one socket option.
func option(t *testing.T, c syscall.Conn, level, opt int) int {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var v int
	if ctl := raw.Control(func(fd uintptr) { v, err = unix.GetsockoptInt(int(fd), level, opt) }); ctl != nil || err != nil {
		t.Fatal(ctl, err)
	}
	return v
}

// echo sends bytes each way, with deadlines: the runtime's poller must know the
// sockets.
func echo(t *testing.T, a, b *net.TCPConn) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	a.SetDeadline(deadline)
	b.SetDeadline(deadline)
	buf := make([]byte, 4)
	for _, c := range [][2]*net.TCPConn{{a, b}, {b, a}} {
		if _, err := c[0].Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		if n, err := c[1].Read(buf); err != nil || string(buf[:n]) != "ping" {
			t.Fatalf("read %q, %v, want ping", buf[:n], err)
		}
	}
	a.SetReadDeadline(time.Now().Add(-time.Second))
	if _, err := a.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read after its deadline = %v, want a timeout", err)
	}
}

func TestTwoListenersShareAPort(t *testing.T) {
	ns := netnstest.New(t)
	addr := netip.MustParseAddrPort("[::]:15008")
	for range 2 {
		l, err := ns.Listen(t.Context(), "tcp", addr, netns.SocketOptions{Transparent: netns.TransparentAlways})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if got := option(t, l, unix.SOL_IP, unix.IP_TRANSPARENT); got != 1 {
			t.Errorf("IP_TRANSPARENT = %d, want 1", got)
		}
		if got := option(t, l, unix.SOL_SOCKET, unix.SO_REUSEPORT); got != 1 {
			t.Errorf("SO_REUSEPORT = %d, want 1", got)
		}
	}
}

func TestNoMarkAndNoTransparency(t *testing.T) {
	ns := netnstest.New(t)
	l, err := ns.Listen(t.Context(), "tcp4", netip.MustParseAddrPort("127.0.0.1:0"), netns.SocketOptions{NoMark: true, Transparent: netns.TransparentNever})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if mark, transparent := option(t, l, unix.SOL_SOCKET, unix.SO_MARK), option(t, l, unix.SOL_IP, unix.IP_TRANSPARENT); mark != 0 || transparent != 0 {
		t.Errorf("mark = %#x, transparent = %d, want neither", mark, transparent)
	}
}

func TestDialFailures(t *testing.T) {
	a, _ := pair(t)
	dial := func(remote string, local string, timeout time.Duration) error {
		opts := netns.DialOptions{Remote: netip.MustParseAddrPort(remote), Timeout: timeout}
		if local != "" {
			opts.Local = netip.MustParseAddr(local)
		}
		c, err := a.Dial(t.Context(), opts)
		if err == nil {
			c.Close()
		}
		return err
	}
	if err := dial("10.71.0.2:9", "", 0); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("dial of a closed port = %v, want connection refused", err)
	}
	if err := dial("192.0.2.1:80", "", 0); !errors.Is(err, unix.ENETUNREACH) {
		t.Errorf("dial without a route = %v, want network unreachable", err)
	}
	if err := dial("10.71.0.2:80", "10.1.2.3", 0); !errors.Is(err, netns.ErrNotLocal) {
		t.Errorf("dial of the neighbour as somebody else = %v, want ErrNotLocal", err)
	}
	if err := dial("10.71.0.1:80", "fd00::9", 0); err == nil {
		t.Error("dial of IPv4 as IPv6 succeeds")
	}
	var timeout net.Error
	if err := dial("10.71.0.77:80", "", 50*time.Millisecond); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("dial of nobody = %v, want a timeout", err)
	}
}

func TestDialAsItselfIsNotSpoofed(t *testing.T) {
	ns := netnstest.New(t)
	l, err := ns.Listen(t.Context(), "tcp4", netip.MustParseAddrPort("127.0.0.1:0"), netns.SocketOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	self := netip.MustParseAddr("127.0.0.1")
	c, err := ns.Dial(t.Context(), netns.DialOptions{Remote: l.Addr().(*net.TCPAddr).AddrPort(), Local: self})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := option(t, c, unix.SOL_IP, unix.IP_TRANSPARENT); got != 0 {
		t.Errorf("IP_TRANSPARENT = %d on a self-call, want 0", got)
	}
}
