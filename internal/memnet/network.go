package memnet

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"syscall"
)

// backlog is how many connections wait for Accept.
const backlog = 128

// A Network connects dialers with listeners by address. Its zero value is
// ready.
type Network struct {
	mu        sync.Mutex
	listeners map[netip.AddrPort]*Listener
	lastPort  uint16
}

// A Listener accepts the connections of one address.
type Listener struct {
	n      *Network
	addr   netip.AddrPort
	queue  chan *Conn
	closed chan struct{}
	once   sync.Once
}

// Listen listens on addr.
func (n *Network) Listen(addr netip.AddrPort) (*Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners == nil {
		n.listeners = make(map[netip.AddrPort]*Listener)
	}
	if n.listeners[addr] != nil {
		return nil, syscall.EADDRINUSE
	}
	l := &Listener{n: n, addr: addr, queue: make(chan *Conn, backlog), closed: make(chan struct{})}
	n.listeners[addr] = l
	return l, nil
}

// Dial connects from an address of from to addr. Without a listener it fails as
// TCP does.
func (n *Network) Dial(ctx context.Context, from netip.Addr, addr netip.AddrPort) (*Conn, error) {
	n.mu.Lock()
	l := n.listeners[addr]
	n.lastPort++
	local := netip.AddrPortFrom(from, n.lastPort)
	n.mu.Unlock()
	if l == nil {
		return nil, syscall.ECONNREFUSED
	}
	here, there := Pipe(local, addr)
	select {
	case l.queue <- there:
		return here, nil
	case <-l.closed:
		return nil, syscall.ECONNREFUSED
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Accept waits for a connection.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close stops listening. Connections that wait for Accept are reset.
func (l *Listener) Close() error {
	l.once.Do(func() {
		l.n.mu.Lock()
		delete(l.n.listeners, l.addr)
		l.n.mu.Unlock()
		close(l.closed)
		for {
			select {
			case c := <-l.queue:
				c.Reset()
			default:
				return
			}
		}
	})
	return nil
}

// Addr is the address, a *net.TCPAddr.
func (l *Listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.addr) }
