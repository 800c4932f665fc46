package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// trackSocket is a netfilter socket inside a namespace, by which conntrack is
// asked. The zero value is ready.
type trackSocket struct {
	mu     sync.Mutex
	fd     int // valid while open
	open   bool
	closed bool
	seq    uint32
	buf    []byte
}

// ErrNotRedirected says that conntrack knows no redirected flow of those two
// ends.
var ErrNotRedirected = errors.New("conntrack knows no such flow")

// OriginalPacketDst returns where datagrams from client were going that arrive at
// local: the original destination of the flow, by conntrack. The socket option
// that tells it for TCP knows no UDP.
//
// Errors: [ErrNotRedirected] when the flow is not known.
func (n *NS) OriginalPacketDst(client, local netip.AddrPort) (netip.AddrPort, error) {
	client, local = unmap(client), unmap(local)
	if client.Addr().Is4() != local.Addr().Is4() {
		return netip.AddrPort{}, fmt.Errorf("flow from %v to %v: one is IPv4, the other IPv6", client, local)
	}
	t := &n.track
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := n.openTrackLocked(); err != nil {
		return netip.AddrPort{}, err
	}
	dst, err := t.askLocked(client, local)
	switch {
	case errors.Is(err, unix.ENOENT):
		return netip.AddrPort{}, fmt.Errorf("from %v to %v in netns %s: %w", client, local, n.name, ErrNotRedirected)
	case err != nil:
		t.closeLocked() // what is left of the answer must not be read as the next
		return netip.AddrPort{}, fmt.Errorf("ask conntrack in netns %s: %w", n.name, err)
	}
	return dst, nil
}

// openTrackLocked makes the netfilter socket. The caller holds n.track.mu.
func (n *NS) openTrackLocked() error {
	t := &n.track
	if t.closed {
		return fmt.Errorf("netns %s: %w", n.name, os.ErrClosed)
	}
	if t.open {
		return nil
	}
	fd, err := n.socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	t.fd, t.open = fd, true
	return nil
}

// close ends the use of the socket for good.
func (t *trackSocket) close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	return t.closeLocked()
}

// closeLocked closes the socket if it is open. The caller holds t.mu.
func (t *trackSocket) closeLocked() error {
	if !t.open {
		return nil
	}
	t.open = false
	return os.NewSyscallError("close", unix.Close(t.fd))
}

// trackPatience bounds the wait for conntrack's answer. The kernel gives it
// within the call, but for a moment when it has to load the module first.
const trackPatience = time.Second

// askLocked asks for the flow whose answers go from local to client. The caller
// holds t.mu.
func (t *trackSocket) askLocked(client, local netip.AddrPort) (netip.AddrPort, error) {
	if t.buf == nil {
		t.buf = make([]byte, routeReplySize)
	}
	t.seq++
	if err := unix.Sendto(t.fd, trackRequest(client, local, t.seq), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return netip.AddrPort{}, os.NewSyscallError("sendto", err)
	}
	for {
		fds := []unix.PollFd{{Fd: int32(t.fd), Events: unix.POLLIN}}
		ready, err := unix.Poll(fds, int(trackPatience.Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || ready == 0 {
			return netip.AddrPort{}, os.NewSyscallError("poll", errOr(err, unix.ETIMEDOUT))
		}
		size, _, err := unix.Recvfrom(t.fd, t.buf, 0)
		if err != nil {
			return netip.AddrPort{}, os.NewSyscallError("recvfrom", err)
		}
		dst, done, err := readTrack(t.buf[:size], t.seq)
		if done || err != nil {
			return dst, err
		}
	}
}

// errOr is err, or other when there is none.
func errOr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

// Numbers of the conntrack part of netfilter's netlink.
// Source: linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h.
const (
	trackSubsystem = 1 // NFNL_SUBSYS_CTNETLINK
	trackNew       = 0 // IPCTNL_MSG_CT_NEW
	trackGet       = 1 // IPCTNL_MSG_CT_GET

	attrTupleOrig  = 1 // CTA_TUPLE_ORIG
	attrTupleReply = 2 // CTA_TUPLE_REPLY
	attrTupleIP    = 1 // CTA_TUPLE_IP
	attrTupleProto = 2 // CTA_TUPLE_PROTO
	attrIPv4Src    = 1 // CTA_IP_V4_SRC
	attrIPv4Dst    = 2 // CTA_IP_V4_DST
	attrIPv6Src    = 3 // CTA_IP_V6_SRC
	attrIPv6Dst    = 4 // CTA_IP_V6_DST
	attrProtoNum   = 1 // CTA_PROTO_NUM
	attrProtoSrc   = 2 // CTA_PROTO_SRC_PORT
	attrProtoDst   = 3 // CTA_PROTO_DST_PORT

	sizeofNfgenmsg = 4
)

// trackRequest asks for one flow of UDP by the ends of its answers.
func trackRequest(client, local netip.AddrPort, seq uint32) []byte {
	family, src, dst := byte(unix.AF_INET), uint16(attrIPv4Src), uint16(attrIPv4Dst)
	if client.Addr().Is6() {
		family, src, dst = unix.AF_INET6, attrIPv6Src, attrIPv6Dst
	}
	b := make([]byte, unix.SizeofNlMsghdr+sizeofNfgenmsg, 128)
	binary.NativeEndian.PutUint16(b[4:], trackSubsystem<<8|trackGet)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST)
	binary.NativeEndian.PutUint32(b[8:], seq)
	b[unix.SizeofNlMsghdr] = family // then version 0, and no resource
	b = appendNested(b, attrTupleReply, func(b []byte) []byte {
		b = appendNested(b, attrTupleIP, func(b []byte) []byte {
			b = appendAttr(b, src, local.Addr().AsSlice())
			return appendAttr(b, dst, client.Addr().AsSlice())
		})
		return appendNested(b, attrTupleProto, func(b []byte) []byte {
			b = appendAttr(b, attrProtoNum, []byte{unix.IPPROTO_UDP})
			b = appendAttr(b, attrProtoSrc, binary.BigEndian.AppendUint16(nil, local.Port()))
			return appendAttr(b, attrProtoDst, binary.BigEndian.AppendUint16(nil, client.Port()))
		})
	})
	binary.NativeEndian.PutUint32(b[0:], uint32(len(b)))
	return b
}

// appendAttr appends an attribute, filled up to a multiple of four.
func appendAttr(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofNlAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%unix.NLMSG_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

// appendNested appends an attribute that holds what inner appends.
func appendNested(b []byte, kind uint16, inner func([]byte) []byte) []byte {
	start := len(b)
	b = inner(appendAttr(b, kind|unix.NLA_F_NESTED, nil))
	binary.NativeEndian.PutUint16(b[start:], uint16(len(b)-start))
	return b
}

// readTrack reads the answer to trackRequest. done says that it was there.
func readTrack(b []byte, seq uint32) (dst netip.AddrPort, done bool, err error) {
	msgs, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return netip.AddrPort{}, false, err
	}
	for _, m := range msgs {
		switch {
		case m.Header.Seq != seq:
			continue // of a question that was given up
		case m.Header.Type == unix.NLMSG_ERROR:
			if len(m.Data) < 4 {
				return netip.AddrPort{}, false, syscall.EINVAL
			}
			return netip.AddrPort{}, false, syscall.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
		case m.Header.Type == trackSubsystem<<8|trackNew && len(m.Data) >= sizeofNfgenmsg:
			dst, err := readTuple(m.Data[sizeofNfgenmsg:])
			return dst, err == nil, err
		}
	}
	return netip.AddrPort{}, false, nil
}

// readTuple finds the original destination among the attributes of a flow.
func readTuple(attrs []byte) (netip.AddrPort, error) {
	var ip netip.Addr
	var port uint16
	err := eachAttr(attrs, func(kind uint16, tuple []byte) error {
		if kind != attrTupleOrig {
			return nil
		}
		return eachAttr(tuple, func(kind uint16, part []byte) error {
			return eachAttr(part, func(inner uint16, value []byte) error {
				switch {
				case kind == attrTupleIP && (inner == attrIPv4Dst || inner == attrIPv6Dst):
					ip, _ = netip.AddrFromSlice(value)
				case kind == attrTupleProto && inner == attrProtoDst && len(value) == 2:
					port = binary.BigEndian.Uint16(value)
				}
				return nil
			})
		})
	})
	if err == nil && !ip.IsValid() {
		err = syscall.EINVAL
	}
	return netip.AddrPortFrom(ip, port), err
}

// eachAttr calls fn for each attribute of b.
func eachAttr(b []byte, fn func(kind uint16, value []byte) error) error {
	for len(b) >= unix.SizeofNlAttr {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofNlAttr || size > len(b) {
			return syscall.EINVAL
		}
		kind := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		if err := fn(kind, b[unix.SizeofNlAttr:size]); err != nil {
			return err
		}
		b = b[min((size+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1), len(b)):]
	}
	return nil
}
