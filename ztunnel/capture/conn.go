package capture

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/ambit-mesh/ambit/internal/netns"
)

// Our ports in each pod. Source: the ambient ecosystem, whose rules and peers
// name them.
const (
	PortOutbound  = 15001 // what the pod sends is redirected here
	PortPlaintext = 15006 // plaintext that the pod gets is redirected here
	PortHBONE     = 15008 // tunnels arrive here
)

// ErrNotLocal says that a connection into a pod was asked for an address that
// is not in its namespace.
var ErrNotLocal = netns.ErrNotLocal

// Reserved reports whether port is one of ours, which no application may be
// reached at through us.
func Reserved(port uint16) bool {
	return port == PortOutbound || port == PortPlaintext || port == PortHBONE
}

// LoopError is why a connection was refused: it would have led to ourselves.
type LoopError struct {
	Client, Target netip.AddrPort
}

// Error names both ends.
func (e *LoopError) Error() string {
	return fmt.Sprintf("%v called %v, a port of the mesh itself", e.Client, e.Target)
}

// Conn is a connection taken from a pod. One goroutine uses it.
type Conn struct {
	TCP    *net.TCPConn
	Client netip.AddrPort // who connected
	Local  netip.AddrPort // the end of it that we hold
	Target netip.AddrPort // where the client was going

	served bool   // by Serve
	rest   func() // of Later
}

// Later runs fn when the handler of c has returned, on a goroutine of its own:
// what waits for long should not keep the stack that deciding has taken. At
// most once per connection.
func (c *Conn) Later(fn func()) {
	if !c.served {
		fn()
		return
	}
	c.rest = fn
}

// Abort closes c so that the client sees a reset: what it sent went nowhere.
func (c *Conn) Abort() {
	// Both fail only on a socket that is closed already.
	_ = c.TCP.SetLinger(0)
	_ = c.TCP.Close()
}

// HasLeft reports whether the client has ended the connection without having
// sent a byte. It takes nothing from what the client may have sent.
func (c *Conn) HasLeft() bool {
	raw, err := c.TCP.SyscallConn()
	if err != nil {
		return true // closed already
	}
	left := false
	err = raw.Control(func(fd uintptr) {
		n, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		left = n == 0 && err == nil || errors.Is(err, syscall.ECONNRESET)
	})
	return left || err != nil
}

// guard refuses a connection that was not redirected, or that was and leads to
// us all the same.
func (c *Conn) guard() error {
	direct := c.Target == c.Local
	selfCall := Reserved(c.Target.Port()) && c.Target.Addr().IsLoopback()
	if direct || selfCall {
		return &LoopError{Client: c.Client, Target: c.Target}
	}
	return nil
}
