package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Diag asks the kernel about the TCP sockets of one network namespace: that in
// which it was opened, whoever holds it. So a process can let another one ask
// about a namespace which that one cannot enter. It may be used from many
// goroutines, of one process at a time: two would read each other's answers.
//
// Who has CAP_NET_ADMIN in the namespace can also end TCP connections through it
// (SOCK_DESTROY): the kernel looks at who asks, not at who has opened it.
type Diag struct {
	// mu guards the fields below.
	mu   sync.Mutex
	file *os.File // a socket of NETLINK_SOCK_DIAG
	seq  uint32   // of the last question
}

// OpenDiag opens a Diag of the namespace.
func (n *NS) OpenDiag() (*Diag, error) {
	fd, err := n.socket(unix.AF_NETLINK, unix.SOCK_RAW, netlinkSockDiag)
	if err != nil {
		return nil, fmt.Errorf("open sock_diag of %v: %w", n, err)
	}
	return &Diag{file: os.NewFile(uintptr(fd), "sock_diag of "+n.String())}, nil
}

// DiagFromFD takes over fd, a descriptor of what [NS.OpenDiag] has opened. It
// closes fd when it fails.
func DiagFromFD(fd int) (*Diag, error) {
	unix.CloseOnExec(fd)
	for _, want := range []struct {
		name       string
		opt, value int
	}{{"SO_DOMAIN", unix.SO_DOMAIN, unix.AF_NETLINK}, {"SO_PROTOCOL", unix.SO_PROTOCOL, netlinkSockDiag}} {
		got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, want.opt)
		if err == nil && got != want.value {
			err = fmt.Errorf("%s is %d, want %d", want.name, got, want.value)
		}
		if err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("descriptor %d is no socket of sock_diag: %w", fd, err)
		}
	}
	return &Diag{file: os.NewFile(uintptr(fd), "sock_diag")}, nil
}

// WithFD calls fn with the descriptor, which stays open until fn returns. fn must
// not close it.
func (d *Diag) WithFD(fn func(fd int) error) error {
	raw, err := d.file.SyscallConn()
	if err != nil {
		return err
	}
	return control(raw, fn)
}

// Close closes the socket; a question under way may finish.
func (d *Diag) Close() error { return d.file.Close() }

// Socket finds the TCP socket that has connected from local to remote, which are
// of one address family. It waits for nothing: the kernel answers at once.
func (d *Diag) Socket(local, remote netip.AddrPort) (s Socket, found bool, err error) {
	req := diagRequest(syscall.AF_INET, ^uint32(0))
	if local.Addr().Is6() {
		req[0] = syscall.AF_INET6
	}
	binary.BigEndian.PutUint16(req[8:], local.Port())
	binary.BigEndian.PutUint16(req[10:], remote.Port())
	copy(req[12:28], local.Addr().AsSlice())
	copy(req[28:44], remote.Addr().AsSlice())
	for i := 48; i < 56; i++ {
		req[i] = 0xff // no cookie: INET_DIAG_NOCOOKIE
	}
	err = d.WithFD(func(fd int) error {
		answer, err := d.ask(fd, req)
		if err != nil {
			return err
		}
		s, err = readDiag(answer)
		return err
	})
	if errors.Is(err, syscall.ENOENT) {
		return Socket{}, false, nil
	}
	if err != nil {
		return Socket{}, false, fmt.Errorf("ask for the socket %v -> %v: %w", local, remote, err)
	}
	// For want of a better one the kernel names a listener.
	if s.State == SocketListen || s.Local != local || s.Remote != remote {
		return Socket{}, false, nil
	}
	return s, true, nil
}

// diagAnswerSize has room for struct inet_diag_msg and all attributes that the
// kernel adds to it without being asked, in bytes.
const diagAnswerSize = 4096

// ask puts one question to the kernel and returns what follows the header of its
// answer. The kernel answers before the call that asks has returned.
func (d *Diag) ask(fd int, req []byte) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seq++
	msg := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+len(req))
	binary.NativeEndian.PutUint32(msg, uint32(unix.SizeofNlMsghdr+len(req)))
	binary.NativeEndian.PutUint16(msg[4:], sockDiagByFamily)
	binary.NativeEndian.PutUint16(msg[6:], syscall.NLM_F_REQUEST)
	binary.NativeEndian.PutUint32(msg[8:], d.seq)
	if err := unix.Sendto(fd, append(msg, req...), unix.MSG_DONTWAIT, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, os.NewSyscallError("sendto sock_diag", err)
	}
	buf := make([]byte, diagAnswerSize)
	n, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
	if err != nil {
		return nil, os.NewSyscallError("recvfrom sock_diag", err)
	}
	return readAnswer(buf[:n], d.seq)
}

// readAnswer returns what follows the header of the answer to question seq.
func readAnswer(b []byte, seq uint32) ([]byte, error) {
	if len(b) < unix.SizeofNlMsghdr || int(binary.NativeEndian.Uint32(b)) != len(b) {
		return nil, fmt.Errorf("sock_diag answers %d bytes, which are not one message", len(b))
	}
	if got := binary.NativeEndian.Uint32(b[8:]); got != seq {
		return nil, fmt.Errorf("sock_diag answers question %d, want %d: do two processes ask?", got, seq)
	}
	body := b[unix.SizeofNlMsghdr:]
	switch kind := binary.NativeEndian.Uint16(b[4:]); kind {
	case sockDiagByFamily:
		return body, nil
	case syscall.NLMSG_ERROR:
		if len(body) < 4 { // the errno that struct nlmsgerr begins with
			return nil, fmt.Errorf("sock_diag answers an error of %d bytes", len(body))
		}
		return nil, syscall.Errno(-int32(binary.NativeEndian.Uint32(body)))
	default:
		return nil, fmt.Errorf("sock_diag answers a message of type %d, want %d", kind, sockDiagByFamily)
	}
}
