package sockowner

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
)

// Source: linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h, net/tcp_states.h.
const (
	netlinkSockDiag  = 4  // NETLINK_SOCK_DIAG
	sockDiagByFamily = 20 // SOCK_DIAG_BY_FAMILY
	diagRequestSize  = 56 // struct inet_diag_req_v2
	diagMessageSize  = 72 // struct inet_diag_msg
	diagCgroupID     = 21 // INET_DIAG_CGROUP_ID
	tcpListen        = 10 // TCP_LISTEN
)

// socket is what the kernel says of one TCP socket.
type socket struct {
	inode  uint32 // 0 when no process holds it any more
	cgroup uint64 // where the process that made it was, in cgroup v2; 0 when unknown
}

// findSocket asks the kernel for the TCP socket of our network namespace that has
// connected from local to remote.
func findSocket(ctx context.Context, local, remote netip.AddrPort) (s socket, found bool, err error) {
	conn, err := netlink.Dial(netlinkSockDiag, nil)
	if err != nil {
		return socket{}, false, fmt.Errorf("open sock_diag: %w", err)
	}
	defer conn.Close()
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(requestTimeout)
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return socket{}, false, err
	}
	answers, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request},
		Data:   diagRequest(local, remote),
	})
	if errors.Is(err, syscall.ENOENT) {
		return socket{}, false, nil
	}
	if err != nil {
		return socket{}, false, fmt.Errorf("ask sock_diag for the socket %v -> %v: %w", local, remote, err)
	}
	for _, m := range answers {
		if s, found, err = readSocket(m.Data, local, remote); found || err != nil {
			return s, found, err
		}
	}
	return socket{}, false, nil
}

// diagRequest is struct inet_diag_req_v2 for exactly one socket. Byte order of
// addresses and ports is that of the network.
func diagRequest(local, remote netip.AddrPort) []byte {
	b := make([]byte, diagRequestSize)
	b[0], b[1] = syscall.AF_INET, syscall.IPPROTO_TCP
	if local.Addr().Is6() {
		b[0] = syscall.AF_INET6
	}
	binary.NativeEndian.PutUint32(b[4:], ^uint32(0)) // every state
	binary.BigEndian.PutUint16(b[8:], local.Port())
	binary.BigEndian.PutUint16(b[10:], remote.Port())
	copy(b[12:28], local.Addr().AsSlice())
	copy(b[28:44], remote.Addr().AsSlice())
	for i := 48; i < 56; i++ {
		b[i] = 0xff // no cookie: INET_DIAG_NOCOOKIE
	}
	return b
}

// readSocket reads struct inet_diag_msg and what follows it. A socket with other
// ends, such as a listener, which the kernel names for want of a better one, is
// not found.
func readSocket(b []byte, local, remote netip.AddrPort) (s socket, found bool, err error) {
	if len(b) < diagMessageSize {
		return socket{}, false, fmt.Errorf("sock_diag answers %d bytes, want %d or more", len(b), diagMessageSize)
	}
	if b[1] == tcpListen || diagEnd(b, b[4:], b[8:]) != local || diagEnd(b, b[6:], b[24:]) != remote {
		return socket{}, false, nil
	}
	s.inode = binary.NativeEndian.Uint32(b[68:])
	attrs, err := netlink.NewAttributeDecoder(b[diagMessageSize:])
	if err != nil {
		return socket{}, false, fmt.Errorf("attributes of sock_diag: %w", err)
	}
	for attrs.Next() {
		if attrs.Type() == diagCgroupID {
			s.cgroup = attrs.Uint64()
		}
	}
	return s, true, attrs.Err()
}

// diagEnd reads one end of the socket of message b: its port and its address.
func diagEnd(b, port, addr []byte) netip.AddrPort {
	ip := netip.AddrFrom4([4]byte(addr[:4]))
	if b[0] == syscall.AF_INET6 {
		ip = netip.AddrFrom16([16]byte(addr[:16])).Unmap()
	}
	return netip.AddrPortFrom(ip, binary.BigEndian.Uint16(port))
}
