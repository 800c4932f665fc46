package redirect_test

import (
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/cni/redirect"
	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// impatience is how long a test waits for what must not come.
const impatience = 300 * time.Millisecond

// odd are ways to have conntrack not follow what begins a connection, so that no
// rule of a nat chain is asked about it.
var odd = []struct {
	name string
	// prepare makes it so for connections between port 9000 of the pod and port 5555
	// outside, begun at either end.
	prepare func(t *testing.T, w world, s stack)
}{
	{"a rule says that it is not to be tracked", func(t *testing.T, w world, _ stack) {
		nft(t, w.pod, func(c *nftables.Conn) {
			table := c.AddTable(&nftables.Table{Name: "own", Family: nftables.TableFamilyINet})
			for name, hook := range map[string]*nftables.ChainHook{"pre": nftables.ChainHookPrerouting, "out": nftables.ChainHookOutput} {
				chain := c.AddChain(&nftables.Chain{Name: name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityRaw})
				c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
					&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
					&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
					&expr.Notrack{},
				}})
			}
		})
	}},
	// The first packet of a connection in the direction of the answers of another one
	// is invalid to conntrack, also when that one has ended a moment ago.
	{"the other end knocked before, from there", func(t *testing.T, w world, s stack) {
		c, err := dialFrom(t, w.outside, netip.AddrPortFrom(s.outside, 5555), netip.AddrPortFrom(s.pod, 9000), application, patience)
		if err == nil {
			c.Close()
			t.Fatal("port 9000 is open before anything listens there")
		}
	}},
	{"the proxy has called there, from this port", func(t *testing.T, w world, s stack) {
		l, err := w.outside.Listen(t.Context(), "tcp", netip.AddrPortFrom(s.outside, 5555), application)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		c, err := dialFrom(t, w.pod, netip.AddrPortFrom(s.pod, 9000), netip.AddrPortFrom(s.outside, 5555), netns.SocketOptions{}, patience)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SetLinger(0); err != nil { // leaves no socket, and conntrack a moment's memory
			t.Fatal(err)
		}
		c.Close()
	}},
}

// markSocket gives a socket the proxy's mark.
func markSocket(_, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, netns.Mark) }); cerr != nil {
		return cerr
	}
	return err
}

// dialFrom connects two addresses, ports included.
func dialFrom(t *testing.T, ns *netns.NS, from, to netip.AddrPort, opts netns.SocketOptions, within time.Duration) (tc *net.TCPConn, err error) {
	t.Helper()
	netnstest.Do(t, ns, func() error {
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(from), Timeout: within}
		if !opts.NoMark {
			d.Control = markSocket
		}
		var c net.Conn
		if c, err = d.DialContext(t.Context(), "tcp", to.String()); err == nil {
			tc = c.(*net.TCPConn)
		}
		return nil
	})
	return tc, err
}

func TestNothingBeginsPastTheProxy(t *testing.T) {
	for _, tt := range odd {
		for _, s := range stacks {
			for _, out := range []bool{true, false} {
				name := tt.name + ", in, "
				if out {
					name = tt.name + ", out, "
				}
				t.Run(name+s.name, func(t *testing.T) {
					w := newWorld(t)
					if err := redirect.Prepare(w.pod); err != nil {
						t.Fatal(err)
					}
					apply(t, w.pod, redirect.Config{IPv6: true, DNS: true, RefuseClosed: true})
					tt.prepare(t, w, s)
					inPod, outside := netip.AddrPortFrom(s.pod, 9000), netip.AddrPortFrom(s.outside, 5555)
					from, to, client, server := outside, inPod, w.outside, w.pod
					if out {
						from, to, client, server = inPod, outside, w.pod, w.outside
					}
					l, err := server.Listen(t.Context(), "tcp", to, application)
					if err != nil {
						t.Fatal(err)
					}
					defer l.Close()
					if c, err := dialFrom(t, client, from, to, application, impatience); err == nil {
						c.Close()
						t.Errorf("the connection from %v to %v has passed by the proxy", from, to)
					}
				})
			}
		}
	}
}

// The proxy and the application call from one set of ports, and what conntrack
// remembers of the one must not be taken for the other's.
func TestPortsThatTheOtherHasUsed(t *testing.T) {
	for _, s := range stacks {
		inPod := netip.AddrPortFrom(s.pod, 9000)
		for _, tt := range []struct {
			name string
			to   netip.AddrPort
			// before makes a connection from the port and ends it.
			before func(t *testing.T, w world, to netip.AddrPort)
			opts   netns.SocketOptions // of who calls then
			proxy  bool                // who calls then must meet the proxy
		}{
			{"nobody answered the proxy", netip.AddrPortFrom(s.nobody, 5555), func(t *testing.T, w world, to netip.AddrPort) {
				if c, err := dialFrom(t, w.pod, inPod, to, netns.SocketOptions{}, impatience); err == nil {
					c.Close()
					t.Fatal("somebody has answered")
				}
			}, application, true},
			{"the proxy was refused", netip.AddrPortFrom(s.outside, 5556), func(t *testing.T, w world, to netip.AddrPort) {
				if c, err := dialFrom(t, w.pod, inPod, to, netns.SocketOptions{}, patience); err == nil {
					c.Close()
					t.Fatal("somebody has answered")
				}
			}, application, true},
			{"the proxy has reset one of the application", netip.AddrPortFrom(s.outside, 5555), func(t *testing.T, w world, to netip.AddrPort) {
				c, err := dialFrom(t, w.pod, inPod, to, application, patience)
				if err != nil {
					return // reset already
				}
				defer c.Close()
				if _, err := c.Read(make([]byte, 1)); err == nil {
					t.Fatal("the proxy has answered")
				}
			}, netns.SocketOptions{}, false},
		} {
			t.Run(tt.name+", "+s.name, func(t *testing.T) {
				w := newWorld(t)
				if err := redirect.Prepare(w.pod); err != nil {
					t.Fatal(err)
				}
				apply(t, w.pod, redirect.Config{IPv6: true, DNS: true, RefuseClosed: true})
				met := resets(t, w.pod, netip.AddrPortFrom(s.everything.Addr(), 15001), netns.SocketOptions{})
				there := resets(t, w.outside, netip.AddrPortFrom(s.outside, 5555), application)
				tt.before(t, w, tt.to)
				if !tt.proxy { // then it is the proxy that has met the one before
					<-met
				}
				// Whoever takes it resets it, maybe before the dial has returned.
				c, err := dialFrom(t, w.pod, inPod, tt.to, tt.opts, patience)
				if err == nil {
					defer c.Close()
				}
				want, other := there, met
				if tt.proxy {
					want, other = met, there
				}
				select {
				case <-want:
				case <-other:
					t.Errorf("the connection was led to the wrong one; to the proxy: want %v", tt.proxy)
				case <-time.After(impatience):
					t.Errorf("nobody has seen the connection; who called: %v", err)
				}
			})
		}
	}
}

// resets listens inside ns, resets what comes, and tells of each.
func resets(t *testing.T, ns *netns.NS, at netip.AddrPort, opts netns.SocketOptions) <-chan struct{} {
	t.Helper()
	l, err := ns.Listen(t.Context(), "tcp", at, opts)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() { l.Close(); serving.Wait() })
	met := make(chan struct{}, 8)
	serving.Go(func() {
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			_ = c.SetLinger(0) // a socket that refuses is gone
			c.Close()
			met <- struct{}{}
		}
	})
	return met
}
