package netns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// Mark is the SO_MARK of every socket that the proxy makes inside a pod, so
	// that the pod's rules tell its packets from the application's. The ambient
	// ecosystem's number.
	Mark = 0x539

	// MarkMask is which bits of a mark count.
	MarkMask = 0xfff

	// connectTimeout bounds each connect. The ecosystem's number.
	connectTimeout = 10 * time.Second

	// keepAlive is the quiet after which a peer is probed and the time between
	// probes; keepAliveProbes is how many may go unanswered. The ecosystem's
	// numbers.
	keepAlive       = 180 * time.Second
	keepAliveProbes = 9
)

// ErrNotLocal says that a spoofed dial was asked for an address that is not in
// the namespace. Such a packet would leave by the network, in plaintext.
var ErrNotLocal = errors.New("the address is not local in the namespace")

// SocketOptions tune the sockets that are made inside a namespace. The zero
// value is what ztunnel uses.
type SocketOptions struct {
	// Mark is the SO_MARK. Zero means [Mark]; NoMark means none.
	Mark uint32

	// NoMark leaves the socket without a mark, as an application's is.
	NoMark bool

	// UserTimeout is how long sent bytes may stay unacknowledged before the
	// connection ends (TCP_USER_TIMEOUT). Zero leaves it to the kernel.
	UserTimeout time.Duration

	// KeepAlive tunes the probes of a quiet peer.
	KeepAlive KeepAlive

	// Transparent says what becomes of a listener that cannot be transparent
	// (IP_TRANSPARENT): by default it does without.
	Transparent Transparency

	// Exclusive makes a listener that shares its port with nobody. By default
	// several may listen on it (SO_REUSEPORT), as in an upgrade.
	Exclusive bool
}

// KeepAlive is how a quiet peer is probed. Zero fields mean the ecosystem's
// numbers: after 180 s, every 180 s, 9 times.
type KeepAlive struct {
	Off            bool
	Idle, Interval time.Duration // whole seconds
	Probes         int
}

// Transparency is whether a listener must accept connections for addresses that
// are not its own.
type Transparency uint8

const (
	TransparentIfPossible Transparency = iota // try, and do without
	TransparentAlways                         // fail when it is impossible
	TransparentNever                          // do not try
)

// DialOptions say where a connection goes, and as whom.
type DialOptions struct {
	// Remote is where to. Required.
	Remote netip.AddrPort

	// Local is the source address to show, with a port of the kernel's choice;
	// it need not be an address of the namespace. Invalid means the kernel's
	// choice. With Local set, Remote must be local in the namespace.
	Local netip.Addr

	// Timeout bounds the connect. Zero means 10 seconds.
	Timeout time.Duration

	SocketOptions
}

// Listen listens on addr inside the namespace. The network is tcp, tcp4 or tcp6;
// tcp on [::] takes IPv4 too, and where the namespace has no IPv6 it listens on
// 0.0.0.0 instead. Several listeners may share a port (SO_REUSEPORT).
// Connections have keep-alive and TCP_NODELAY on.
func (n *NS) Listen(ctx context.Context, network string, addr netip.AddrPort, opts SocketOptions) (*net.TCPListener, error) {
	cfg := net.ListenConfig{
		KeepAlive: -1, // connections inherit what control sets on the listener
		Control: func(network, _ string, c syscall.RawConn) error {
			return control(c, func(fd int) error { return setListenOptions(fd, network, opts) })
		},
	}
	cfg.SetMultipathTCP(false) // its sockets cannot be spliced
	var l net.Listener
	err := n.Do(func() (err error) {
		l, err = cfg.Listen(ctx, network, addr.String())
		if err != nil && network == "tcp" && addr.Addr() == netip.IPv6Unspecified() && lacksIPv6(err) {
			v4 := netip.AddrPortFrom(netip.IPv4Unspecified(), addr.Port())
			l, err = cfg.Listen(ctx, "tcp4", v4.String())
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%w in netns %s", err, n.name)
	}
	return l.(*net.TCPListener), nil
}

// lacksIPv6 says whether err comes from a stack without IPv6.
func lacksIPv6(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)
}

// setListenOptions prepares a listening socket.
func setListenOptions(fd int, network string, opts SocketOptions) error {
	if !opts.Exclusive {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return os.NewSyscallError("setsockopt SO_REUSEPORT", err)
		}
	}
	if opts.Transparent != TransparentNever {
		if err := setTransparent(fd, network); err != nil && opts.Transparent == TransparentAlways {
			return fmt.Errorf("%w: needs CAP_NET_ADMIN", err)
		}
	}
	if err := setKeepAlive(fd, opts.KeepAlive); err != nil {
		return err
	}
	return setCommonOptions(fd, opts)
}

// config is k for the runtime's dialer.
func (k KeepAlive) config() net.KeepAliveConfig {
	return net.KeepAliveConfig{
		Enable: !k.Off, Idle: cmp.Or(k.Idle, keepAlive), Interval: cmp.Or(k.Interval, keepAlive), Count: cmp.Or(k.Probes, keepAliveProbes),
	}
}

// setKeepAlive turns on probes of a quiet peer.
func setKeepAlive(fd int, k KeepAlive) error {
	if k.Off {
		return os.NewSyscallError("setsockopt keepalive", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 0))
	}
	idle := int(cmp.Or(k.Idle, keepAlive) / time.Second)
	interval := int(cmp.Or(k.Interval, keepAlive) / time.Second)
	return os.NewSyscallError("setsockopt keepalive", cmp.Or(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, max(idle, 1)),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, max(interval, 1)),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, cmp.Or(k.Probes, keepAliveProbes)),
	))
}

// setTransparent lets fd use addresses that are not the namespace's. An IPv6
// socket needs both levels: it carries IPv4 too.
func setTransparent(fd int, network string) error {
	if network == "tcp6" || network == "tcp" {
		if err := unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1); err != nil {
			return os.NewSyscallError("setsockopt IPV6_TRANSPARENT", err)
		}
	}
	return os.NewSyscallError("setsockopt IP_TRANSPARENT", unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1))
}

// setCommonOptions sets what listeners and connections share.
func setCommonOptions(fd int, opts SocketOptions) error {
	if !opts.NoMark {
		mark := int(cmp.Or(opts.Mark, Mark))
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, mark); err != nil {
			return fmt.Errorf("%w: needs CAP_NET_ADMIN", os.NewSyscallError("setsockopt SO_MARK", err))
		}
	}
	if ms := opts.UserTimeout.Milliseconds(); ms > 0 {
		err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(ms))
		return os.NewSyscallError("setsockopt TCP_USER_TIMEOUT", err)
	}
	return nil
}

// Dial connects from inside the namespace. The connection is the runtime's like
// any other; no thread waits with it.
func (n *NS) Dial(ctx context.Context, opts DialOptions) (*net.TCPConn, error) {
	remote := netip.AddrPortFrom(opts.Remote.Addr().Unmap(), opts.Remote.Port())
	local := opts.Local.Unmap()
	if local == remote.Addr() {
		local = netip.Addr{} // a pod that calls itself needs no disguise
	}
	if local.IsValid() {
		if err := n.checkLocal(remote.Addr(), local); err != nil {
			return nil, err
		}
	}
	dial := n.dial
	if local.IsValid() { // then the target is in the namespace
		dial = n.dialNear
	}
	c, err := dial(ctx, local, remote, opts)
	if err != nil {
		return nil, fmt.Errorf("%w in netns %s", err, n.name)
	}
	return c, nil
}

// errSlow says that a target did not answer at once.
var errSlow = errors.New("no answer yet")

// dialNear is dial for a target that has answered by the time connect returns,
// because it is in the same namespace. All of it happens in one visit: the dialer
// of the runtime makes its socket inside, we connect that before it does, and so
// it has nothing to wait for. Should the target not have answered after all, for
// one because its queue is full, nothing may wait in there, and dial begins anew.
func (n *NS) dialNear(ctx context.Context, local netip.Addr, remote netip.AddrPort, opts DialOptions) (*net.TCPConn, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	dialer := net.Dialer{
		KeepAlive:       -1, // counts when KeepAliveConfig is not enabled
		KeepAliveConfig: opts.KeepAlive.config(),
		Control: func(_, _ string, c syscall.RawConn) error {
			return control(c, func(fd int) error {
				if err := connect(fd, local, remote, opts.SocketOptions); err != nil {
					return err
				}
				if !answered(fd) {
					return errSlow
				}
				return nil
			})
		},
	}
	var c net.Conn
	err := n.visit(func() (err error) {
		c, err = dialer.DialContext(context.WithoutCancel(ctx), "tcp", remote.String())
		return err
	})
	switch {
	case errors.Is(err, errStranded):
		panic(err) // see socket
	case errors.Is(err, errSlow):
		return n.dial(ctx, local, remote, opts)
	case err != nil:
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// dial starts the connect on a socket of the namespace and lets the dialer of
// the runtime finish it: its own socket, made at home, is replaced by ours
// before it is connected or given to the poller. Its connect then only tells how
// ours went.
//
// A target on the same machine has answered by the time connect returns. Then
// neither a timer nor a goroutine is made to wait for it; they would cost more
// than the connection. See BenchmarkDial.
func (n *NS) dial(ctx context.Context, local netip.Addr, remote netip.AddrPort, opts DialOptions) (*net.TCPConn, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	fd, err := n.startConnect(local, remote, opts.SocketOptions)
	if err != nil {
		return nil, err
	}
	defer func() { unix.Close(fd) }()
	dialer := net.Dialer{
		KeepAlive:       -1, // counts when KeepAliveConfig is not enabled
		KeepAliveConfig: opts.KeepAlive.config(),
		Control: func(_, _ string, c syscall.RawConn) error {
			return control(c, func(home int) error { return os.NewSyscallError("dup3", unix.Dup3(fd, home, unix.O_CLOEXEC)) })
		},
	}
	if answered(fd) {
		ctx = context.WithoutCancel(ctx)
	} else {
		dialer.Timeout = cmp.Or(opts.Timeout, connectTimeout)
	}
	c, err := dialer.DialContext(ctx, "tcp", remote.String())
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// answered says whether a connect that was started has ended, well or not.
func answered(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	n, err := unix.Poll(fds, 0)
	return n > 0 && err == nil
}

// checkLocal says why a dial to remote may not show local as its source.
func (n *NS) checkLocal(remote, local netip.Addr) error {
	if remote.Is4() != local.Is4() {
		return fmt.Errorf("dial %v as %v: one is IPv4, the other IPv6", remote, local)
	}
	has, err := n.HasAddr(remote)
	if err != nil {
		return err
	}
	if !has {
		return fmt.Errorf("dial %v as %v in netns %s: %w", remote, local, n.name, ErrNotLocal)
	}
	return nil
}

// startConnect makes a socket inside the namespace and starts to connect it. It
// belongs to the caller.
func (n *NS) startConnect(local netip.Addr, remote netip.AddrPort, opts SocketOptions) (int, error) {
	family := unix.AF_INET
	if remote.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := n.socket(family, unix.SOCK_STREAM, 0)
	if err != nil {
		return -1, err
	}
	if err := connect(fd, local, remote, opts); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("dial %v: %w", remote, err)
	}
	return fd, nil
}

// connect prepares fd and starts to connect it.
func connect(fd int, local netip.Addr, remote netip.AddrPort, opts SocketOptions) error {
	err := setCommonOptions(fd, opts)
	if err == nil && local.IsValid() {
		family := unix.AF_INET
		if local.Is6() {
			family = unix.AF_INET6
		}
		err = bindSpoofed(fd, family, local)
	}
	if err == nil {
		err = os.NewSyscallError("connect", unix.Connect(fd, sockaddr(remote)))
	}
	if errors.Is(err, unix.EINPROGRESS) || errors.Is(err, unix.EINTR) {
		return nil
	}
	return err
}

// bindSpoofed binds fd to an address of somebody else, and a port of the
// kernel's choice.
func bindSpoofed(fd, family int, local netip.Addr) error {
	network, level, option := "tcp4", unix.SOL_IP, unix.IP_FREEBIND
	if family == unix.AF_INET6 {
		network, level, option = "tcp6", unix.SOL_IPV6, unix.IPV6_FREEBIND
	}
	if err := setTransparent(fd, network); err != nil {
		return fmt.Errorf("%w: needs CAP_NET_ADMIN", err)
	}
	if err := unix.SetsockoptInt(fd, level, option, 1); err != nil {
		return os.NewSyscallError("setsockopt freebind", err)
	}
	return os.NewSyscallError("bind", unix.Bind(fd, sockaddr(netip.AddrPortFrom(local, 0))))
}

// sockaddr is a as the system calls want it. A zone is not kept: no pod is
// reached by its link-local address.
func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// socket makes a non-blocking socket inside the namespace. Unlike Do it visits
// from the goroutine of its caller, which saves a third of what a dial costs.
// Should the thread be lost, the caller would go on in a foreign stack; better
// the process ends. That takes a kernel out of memory, or a process that gave up
// its capabilities meanwhile.
func (n *NS) socket(family, kind, proto int) (fd int, err error) {
	err = n.visit(func() (err error) {
		fd, err = unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, proto)
		return err
	})
	if errors.Is(err, errStranded) {
		panic(err)
	}
	if err != nil {
		return -1, fmt.Errorf("make a socket in netns %s: %w", n.name, err)
	}
	return fd, nil
}

// control calls fn with the descriptor of c and returns its error.
func control(c syscall.RawConn, fn func(fd int) error) error {
	var err error
	if ctl := c.Control(func(fd uintptr) { err = fn(int(fd)) }); ctl != nil {
		return ctl
	}
	return err
}

// RoundTrip returns the shortest time that anything took over c and back, as far as
// the kernel has seen. Source: tcp(7), TCP_INFO; tcpi_min_rtt in linux/tcp.h.
func RoundTrip(c net.Conn) (time.Duration, error) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return 0, errors.New("round trip: not a socket")
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("round trip: %w", err)
	}
	var took time.Duration
	err = control(raw, func(fd int) error {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return fmt.Errorf("round trip: %w", err)
		}
		took = time.Duration(info.Min_rtt) * time.Microsecond
		return nil
	})
	return took, err
}
