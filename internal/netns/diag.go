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
}

// Sockets lists the TCP sockets of the namespace that are in one of states, of
// both address families.
func (n *NS) Sockets(states ...SocketState) ([]Socket, error) {
	var all []Socket
	err := n.WithFD(func(fd int) error {
		conn, err := netlink.Dial(netlinkSockDiag, &netlink.Config{NetNS: fd})
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(diagTimeout)); err != nil {
			return err
		}
		for _, family := range []byte{syscall.AF_INET, syscall.AF_INET6} {
			answers, err := conn.Execute(netlink.Message{
				Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request | netlink.Dump},
				Data:   diagRequest(family, states),
			})
			if err != nil {
				return err
			}
			for _, m := range answers {
				if len(m.Data) < diagMessageSize {
					return fmt.Errorf("sock_diag answers %d bytes, want %d or more", len(m.Data), diagMessageSize)
				}
				all = append(all, readDiag(m.Data))
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list sockets in %v: %w", n, err)
	}
	return all, nil
}

// diagRequest is struct inet_diag_req_v2 for all sockets in states.
func diagRequest(family byte, states []SocketState) []byte {
	b := make([]byte, diagRequestSize)
	b[0], b[1] = family, syscall.IPPROTO_TCP
	var mask uint32
	for _, s := range states {
		mask |= 1 << s
	}
	binary.NativeEndian.PutUint32(b[4:], mask)
	return b
}

// readDiag reads struct inet_diag_msg.
func readDiag(b []byte) Socket {
	end := func(port, addr []byte) netip.AddrPort {
		ip := netip.AddrFrom4([4]byte(addr[:4]))
		if b[0] == syscall.AF_INET6 {
			ip = netip.AddrFrom16([16]byte(addr[:16])).Unmap()
		}
		return netip.AddrPortFrom(ip, binary.BigEndian.Uint16(port))
	}
	return Socket{
		State: SocketState(b[1]), Local: end(b[4:], b[8:]), Remote: end(b[6:], b[24:]),
		Waiting: binary.NativeEndian.Uint32(b[56:]),
	}
}
