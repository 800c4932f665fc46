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

	"golang.org/x/sys/unix"
)

// PacketSocket takes datagrams inside a namespace. Any goroutine may use it.
type PacketSocket struct {
	*net.UDPConn
	raw syscall.RawConn
}

// ListenPacket takes datagrams on addr inside the namespace. Several sockets may
// share a port (SO_REUSEPORT), unless opts says otherwise; of opts only that and
// the mark count.
func (n *NS) ListenPacket(ctx context.Context, addr netip.AddrPort, opts SocketOptions) (*PacketSocket, error) {
	network := "udp4"
	if addr.Addr().Is6() {
		network = "udp6"
	}
	cfg := net.ListenConfig{
		Control: func(_, _ string, c syscall.RawConn) error {
			return control(c, func(fd int) error { return setPacketOptions(fd, opts) })
		},
	}
	var pc net.PacketConn
	err := n.Do(func() (err error) {
		pc, err = cfg.ListenPacket(ctx, network, addr.String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%w in netns %s", err, n.name)
	}
	conn := pc.(*net.UDPConn)
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &PacketSocket{UDPConn: conn, raw: raw}, nil
}

// setPacketOptions prepares a socket for datagrams.
func setPacketOptions(fd int, opts SocketOptions) error {
	if !opts.Exclusive {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return os.NewSyscallError("setsockopt SO_REUSEPORT", err)
		}
	}
	return setCommonOptions(fd, SocketOptions{Mark: opts.Mark, NoMark: opts.NoMark})
}

// discardPort is where nothing is expected to send from. Source: RFC 863.
const discardPort = 9

// Leave makes the socket take nothing new: what comes goes to another socket on
// the same port, if there is one. What waits already can still be read, and
// answers can still be sent. A socket that is connected to somebody gets no
// datagrams from others; ours is connected to a port of this host where nobody
// sends from.
func (p *PacketSocket) Leave() error {
	local := p.LocalAddr().(*net.UDPAddr).AddrPort()
	nobody := netip.AddrPortFrom(local.Addr().Unmap(), discardPort)
	return control(p.raw, func(fd int) error {
		return os.NewSyscallError("connect", unix.Connect(fd, sockaddr(nobody)))
	})
}

// DialPacket makes a socket inside the namespace that exchanges datagrams with
// remote and with nobody else, from a port of the kernel's choice. Of opts only
// the mark counts.
func (n *NS) DialPacket(remote netip.AddrPort, opts SocketOptions) (*net.UDPConn, error) {
	remote = unmap(remote)
	family := unix.AF_INET
	if remote.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := n.socket(family, unix.SOCK_DGRAM, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "udp "+remote.String())
	defer file.Close() // FileConn makes a copy
	err = setCommonOptions(fd, SocketOptions{Mark: opts.Mark, NoMark: opts.NoMark})
	err = cmp.Or(err, os.NewSyscallError("connect", unix.Connect(fd, sockaddr(remote))))
	if err != nil {
		return nil, fmt.Errorf("ask %v in netns %s: %w", remote, n.name, err)
	}
	c, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	return c.(*net.UDPConn), nil
}
