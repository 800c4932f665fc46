package netns

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
)

// Source: linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h.
const (
	netlinkSockDiag  = 4  // NETLINK_SOCK_DIAG
	sockDiagByFamily = 20 // SOCK_DIAG_BY_FAMILY
	diagRequestSize  = 56 // struct inet_diag_req_v2
	diagMessageSize  = 72 // struct inet_diag_msg
	diagCgroupID     = 21 // INET_DIAG_CGROUP_ID
	diagTimeout      = 2 * time.Second
)

// SocketState is a state of a TCP socket. Source: net/tcp_states.h.
type SocketState uint8

// The states that are asked for here.
const (
	SocketEstablished SocketState = 1
	SocketCloseWait   SocketState = 8
	SocketListen      SocketState = 10
)

// Socket is a TCP socket of a namespace.
type Socket struct {
	State         SocketState
	Local, Remote netip.AddrPort // unmapped
	Waiting       uint32         // of a listener: connections that nobody has accepted yet
	Inode         uint32         // 0 when no process holds it any more
	Cgroup        uint64         // where the process that made it was, in cgroup v2; 0 when unknown
}

// Sockets lists the TCP sockets of the namespace that are in one of states, of
// both address families.
func (n *NS) Sockets(states ...SocketState) ([]Socket, error) {
	var mask uint32
	for _, s := range states {
		mask |= 1 << s
	}
	var all []Socket
	err := n.diag(time.Now().Add(diagTimeout), func(conn *netlink.Conn) error {
		for _, family := range []byte{syscall.AF_INET, syscall.AF_INET6} {
			some, err := askDiag(conn, netlink.Dump, diagRequest(family, mask))
			if err != nil {
				return err
			}
			all = append(all, some...)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list sockets in %v: %w", n, err)
	}
	return all, nil
}

// Socket finds the TCP socket of the namespace that has connected from local to
// remote, which are of one address family. It asks the kernel for that one alone.
func (n *NS) Socket(local, remote netip.AddrPort) (s Socket, found bool, err error) {
	d, err := n.OpenDiag()
	if err != nil {
		return Socket{}, false, err
	}
	defer d.Close()
	return d.Socket(local, remote)
}

// diag calls fn with sock_diag of the namespace.
func (n *NS) diag(deadline time.Time, fn func(*netlink.Conn) error) error {
	return n.WithFD(func(fd int) error {
		conn, err := netlink.Dial(netlinkSockDiag, &netlink.Config{NetNS: fd})
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
		return fn(conn)
	})
}

// diagRequest is struct inet_diag_req_v2 for all sockets in the states of mask.
func diagRequest(family byte, mask uint32) []byte {
	b := make([]byte, diagRequestSize)
	b[0], b[1] = family, syscall.IPPROTO_TCP
	binary.NativeEndian.PutUint32(b[4:], mask)
	return b
}

// askDiag puts one request and reads its answers.
func askDiag(conn *netlink.Conn, flags netlink.HeaderFlags, req []byte) ([]Socket, error) {
	answers, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request | flags},
		Data:   req,
	})
	if err != nil {
		return nil, err
	}
	all := make([]Socket, 0, len(answers))
	for _, m := range answers {
		s, err := readDiag(m.Data)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// readDiag reads struct inet_diag_msg and the attributes after it. Byte order of
// addresses and ports is that of the network.
func readDiag(b []byte) (Socket, error) {
	if len(b) < diagMessageSize {
		return Socket{}, fmt.Errorf("sock_diag answers %d bytes, want %d or more", len(b), diagMessageSize)
	}
	end := func(port, addr []byte) netip.AddrPort {
		ip := netip.AddrFrom4([4]byte(addr[:4]))
		if b[0] == syscall.AF_INET6 {
			ip = netip.AddrFrom16([16]byte(addr[:16])).Unmap()
		}
		return netip.AddrPortFrom(ip, binary.BigEndian.Uint16(port))
	}
	s := Socket{
		State: SocketState(b[1]), Local: end(b[4:], b[8:]), Remote: end(b[6:], b[24:]),
		Waiting: binary.NativeEndian.Uint32(b[56:]), Inode: binary.NativeEndian.Uint32(b[68:]),
	}
	attrs, err := netlink.NewAttributeDecoder(b[diagMessageSize:])
	if err != nil {
		return Socket{}, fmt.Errorf("attributes of sock_diag: %w", err)
	}
	for attrs.Next() {
		if attrs.Type() == diagCgroupID {
			s.Cgroup = attrs.Uint64()
		}
	}
	return s, attrs.Err()
}
