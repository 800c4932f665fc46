package memnet

import (
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// A Conn is one end of a connection. It has the methods of a net.TCPConn that
// proxies use.
type Conn struct {
	in, out       *half
	local, remote *net.TCPAddr
	once          sync.Once
}

var _ net.Conn = (*Conn)(nil)

// Pipe returns the two ends of a new connection.
func Pipe(a, b netip.AddrPort) (atA, atB *Conn) {
	there, back := newHalf(), newHalf()
	addrA, addrB := net.TCPAddrFromAddrPort(a), net.TCPAddrFromAddrPort(b)
	return &Conn{in: back, out: there, local: addrA, remote: addrB},
		&Conn{in: there, out: back, local: addrB, remote: addrA}
}

// Read reads what has come; it waits for the first byte.
func (c *Conn) Read(p []byte) (int, error) { return c.in.take(p) }

// Write sends p; it waits while the peer does not read.
func (c *Conn) Write(p []byte) (int, error) { return c.out.give(p) }

// CloseWrite ends our direction, as a FIN does.
func (c *Conn) CloseWrite() error {
	c.out.change(func() { c.out.ended = true })
	return nil
}

// Close ends both directions. The peer reads what was written before.
func (c *Conn) Close() error {
	c.once.Do(func() {
		c.CloseWrite()
		c.in.change(func() { c.in.gone, c.in.bytes = true, nil })
		c.SetDeadline(time.Time{}) // stops the timers
	})
	return nil
}

// Reset is a RST: both ends fail, and bytes on their way are lost.
func (c *Conn) Reset() { c.Break(syscall.ECONNRESET) }

// Break makes both ends fail with err from now on.
func (c *Conn) Break(err error) {
	for _, h := range []*half{c.in, c.out} {
		h.change(func() { h.err, h.bytes = err, nil })
	}
}

// Stall is a cable that is pulled: nobody sees an error, and nothing arrives at
// either end until Stall(false).
func (c *Conn) Stall(on bool) {
	for _, h := range []*half{c.in, c.out} {
		h.change(func() { h.stalled = on })
	}
}

// LocalAddr is the address of this end, a *net.TCPAddr.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr is the address of the other end, a *net.TCPAddr.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	c.SetWriteDeadline(t)
	return nil
}

// SetReadDeadline bounds Read.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.in.set(&c.in.read, t)
	return nil
}

// SetWriteDeadline bounds Write.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.out.set(&c.out.write, t)
	return nil
}
