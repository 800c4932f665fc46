package upstream

import (
	"errors"
	"net"
	"syscall"
)

// plain is a TCP connection with what streams of tunnels can do: who uses a connection
// to an endpoint need not ask which of the two it is.
type plain struct{ *net.TCPConn }

// Reset ends both directions at once; the endpoint sees a reset.
func (p plain) Reset() {
	_ = p.SetLinger(0) // else it is an end, which says less
	p.Close()
}

// Quiet reports whether the endpoint has said nothing that was not read, not even
// goodbye. It looks without reading.
func (p plain) Quiet() bool {
	n, err := -1, error(nil)
	failed := p.try(func(fd int) {
		var b [1]byte
		n, _, err = syscall.Recvfrom(fd, b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	})
	return failed == nil && n <= 0 && errors.Is(err, syscall.EAGAIN)
}

// WriteNow sends what the socket takes without waiting, and returns how much that was.
func (p plain) WriteNow(b []byte) (n int, err error) {
	failed := p.try(func(fd int) { n, err = syscall.Write(fd, b) })
	switch {
	case failed != nil:
		return 0, failed
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EINTR):
		return 0, nil
	}
	return max(0, n), err
}

// try calls fn with the descriptor, which does not block.
func (p plain) try(fn func(fd int)) error {
	raw, err := p.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { fn(int(fd)) })
}
