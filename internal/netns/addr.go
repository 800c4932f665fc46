package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// routeSocket is an rtnetlink socket inside a namespace, made when it is first
// needed. The zero value is ready.
type routeSocket struct {
	mu     sync.Mutex
	fd     int // valid while open
	open   bool
	closed bool
	seq    uint32

	// known are all addresses, as long as news, a socket that the kernel tells of
	// every change of them, has nothing to say.
	known   []netip.Addr
	isKnown bool
	news    int // valid while hasNews
	hasNews bool
}

// HasAddr says whether ip is an address of an interface of the namespace. The
// answer is the kernel's at this moment: what it told before counts only if it
// has told of no change since. All of 127.0.0.0/8 counts.
func (n *NS) HasAddr(ip netip.Addr) (bool, error) {
	ip = ip.Unmap().WithZone("")
	if ip.Is4() && ip.IsLoopback() {
		return true, nil
	}
	n.route.mu.Lock()
	defer n.route.mu.Unlock()
	if err := n.learnLocked(); err != nil {
		return false, err
	}
	return slices.Contains(n.route.known, ip), nil
}

// learnLocked sees to it that known is what the kernel says. It listens for
// changes before it asks, so that none is missed. The caller holds n.route.mu.
func (n *NS) learnLocked() error {
	r := &n.route
	if err := n.openNewsLocked(); err != nil {
		return err
	}
	if !r.changedLocked() && r.isKnown {
		return nil
	}
	r.known, r.isKnown = r.known[:0], false
	add := func(a netip.Addr) { r.known = append(r.known, a) }
	for _, v4 := range []bool{true, false} {
		if err := n.eachAddrLocked(v4, add); err != nil {
			return err
		}
	}
	r.isKnown = r.hasNews
	return nil
}

// newsBuffer is how much of the kernel's news is kept for us, in bytes: what is
// in them does not count, and when some are lost we are told.
const newsBuffer = 4 << 10

// openNewsLocked makes the socket that hears of changes. The caller holds
// n.route.mu.
func (n *NS) openNewsLocked() error {
	r := &n.route
	if r.closed {
		return fmt.Errorf("netns %s: %w", n.name, os.ErrClosed)
	}
	if r.hasNews {
		return nil
	}
	fd, err := n.socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	err = os.NewSyscallError("setsockopt SO_RCVBUF", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, newsBuffer))
	if err == nil {
		err = os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrNetlink{
			Family: unix.AF_NETLINK, Groups: unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR,
		}))
	}
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("listen for changes of addresses in netns %s: %w", n.name, err)
	}
	r.news, r.hasNews, r.isKnown = fd, true, false
	return nil
}

// changedLocked reports whether the kernel has told of a change, and forgets
// what it told. The caller holds r.mu.
func (r *routeSocket) changedLocked() (changed bool) {
	var one [1]byte // the rest of each message is thrown away
	for {
		_, err := unix.Read(r.news, one[:])
		switch {
		case errors.Is(err, unix.EAGAIN):
			return changed
		case errors.Is(err, unix.EINTR):
		case err == nil, errors.Is(err, unix.ENOBUFS): // the latter: some were lost
			changed = true
		default:
			unix.Close(r.news) // made anew next time
			r.hasNews, r.isKnown = false, false
			return true
		}
	}
}

// Addrs returns the addresses of all interfaces of the namespace.
func (n *NS) Addrs() ([]netip.Addr, error) {
	var all []netip.Addr
	add := func(a netip.Addr) { all = append(all, a) }
	return all, errors.Join(n.eachAddr(true, add), n.eachAddr(false, add))
}

// eachAddr calls fn for every address of one family.
func (n *NS) eachAddr(v4 bool, fn func(netip.Addr)) error {
	n.route.mu.Lock()
	defer n.route.mu.Unlock()
	return n.eachAddrLocked(v4, fn)
}

// eachAddrLocked is eachAddr for a caller that holds n.route.mu.
func (n *NS) eachAddrLocked(v4 bool, fn func(netip.Addr)) error {
	if err := n.openRouteLocked(); err != nil {
		return err
	}
	err := n.route.dumpAddrsLocked(v4, fn)
	if err != nil {
		n.route.closeLocked() // what is left of the answer must not be read as the next
		return fmt.Errorf("list addresses in netns %s: %w", n.name, err)
	}
	return nil
}

// openRouteLocked makes the rtnetlink socket. The caller holds n.route.mu.
func (n *NS) openRouteLocked() error {
	r := &n.route
	if r.closed {
		return fmt.Errorf("netns %s: %w", n.name, os.ErrClosed)
	}
	if r.open {
		return nil
	}
	fd, err := n.socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	r.fd, r.open = fd, true
	return nil
}

// close ends the use of the socket for good.
func (r *routeSocket) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	var err error
	if r.hasNews {
		r.hasNews, r.isKnown = false, false
		err = os.NewSyscallError("close", unix.Close(r.news))
	}
	return errors.Join(err, r.closeLocked())
}

// closeLocked closes the socket if it is open. The caller holds r.mu.
func (r *routeSocket) closeLocked() error {
	if !r.open {
		return nil
	}
	r.open = false
	return os.NewSyscallError("close", unix.Close(r.fd))
}

// routeReplySize holds the largest part of an answer that the kernel sends.
// Source: NLMSG_GOODSIZE in linux/netlink.h: a page, at most 8 KiB.
const routeReplySize = 8 << 10

// dumpAddrsLocked asks for all addresses of one family (RFC 3549, section
// 3.1.1). The kernel answers a dump within the call, so the socket never has to
// be waited for. The caller holds r.mu.
func (r *routeSocket) dumpAddrsLocked(v4 bool, fn func(netip.Addr)) error {
	buf := make([]byte, routeReplySize)
	r.seq++
	if err := unix.Sendto(r.fd, addrRequest(v4, r.seq), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	for {
		size, _, err := unix.Recvfrom(r.fd, buf, 0)
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		done, err := readAddrs(buf[:size], fn)
		if done || err != nil {
			return err
		}
	}
}

// addrRequest is an RTM_GETADDR dump: a header, and an ifaddrmsg of which only
// the family counts.
func addrRequest(v4 bool, seq uint32) []byte {
	b := make([]byte, unix.SizeofNlMsghdr+unix.SizeofIfAddrmsg)
	binary.NativeEndian.PutUint32(b[0:], uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], unix.RTM_GETADDR)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	binary.NativeEndian.PutUint32(b[8:], seq)
	b[unix.SizeofNlMsghdr] = unix.AF_INET6
	if v4 {
		b[unix.SizeofNlMsghdr] = unix.AF_INET
	}
	return b
}

// readAddrs reads one part of the answer to addrRequest. done says that it was
// the last.
func readAddrs(b []byte, fn func(netip.Addr)) (done bool, err error) {
	msgs, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return false, err
	}
	for _, m := range msgs {
		switch m.Header.Type {
		case unix.NLMSG_DONE:
			return true, nil
		case unix.NLMSG_ERROR:
			if len(m.Data) < 4 {
				return false, syscall.EINVAL
			}
			return false, syscall.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
		case unix.RTM_NEWADDR:
			if err := readAddr(&m, fn); err != nil {
				return false, err
			}
		}
	}
	return false, nil
}

// readAddr calls fn with the address of one RTM_NEWADDR message. IFA_LOCAL is
// the address itself where IFA_ADDRESS is the peer's.
func readAddr(m *syscall.NetlinkMessage, fn func(netip.Addr)) error {
	attrs, err := syscall.ParseNetlinkRouteAttr(m)
	if err != nil {
		return err
	}
	var local, address netip.Addr
	for _, a := range attrs {
		switch a.Attr.Type {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(a.Value)
		case unix.IFA_ADDRESS:
			address, _ = netip.AddrFromSlice(a.Value)
		}
	}
	if !local.IsValid() {
		local = address
	}
	if local.IsValid() {
		fn(local)
	}
	return nil
}
