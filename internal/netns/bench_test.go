package netns_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
)

// BenchmarkDo measures one visit that does nothing.
func BenchmarkDo(b *testing.B) {
	ns := netnstest.New(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := ns.Do(func() error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkHasAddr measures one look at the addresses of a namespace.
func BenchmarkHasAddr(b *testing.B) {
	ns, _ := pair(b)
	b.ReportAllocs()
	for b.Loop() {
		if has, err := ns.HasAddr(addr1.Addr()); err != nil || !has {
			b.Fatal(has, err)
		}
	}
}

// BenchmarkDial measures connect, accept and close over the loopback of a
// namespace, by us and by the runtime alone at home.
func BenchmarkDial(b *testing.B) {
	ns := netnstest.New(b)
	listen := func(b *testing.B, ns *netns.NS) *net.TCPListener {
		l, err := ns.Listen(b.Context(), "tcp4", netip.MustParseAddrPort("127.0.0.1:0"), netns.SocketOptions{})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { l.Close() })
		return l
	}
	run := func(b *testing.B, l *net.TCPListener, dial func(addr netip.AddrPort) (*net.TCPConn, error)) {
		addr := l.Addr().(*net.TCPAddr).AddrPort()
		b.ReportAllocs()
		for b.Loop() {
			c, err := dial(addr)
			if err != nil {
				b.Fatal(err)
			}
			in, err := l.AcceptTCP()
			if err != nil {
				b.Fatal(err)
			}
			c.SetLinger(0)
			c.Close()
			in.Close()
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "conn/s")
	}
	b.Run("inside", func(b *testing.B) {
		run(b, listen(b, ns), func(addr netip.AddrPort) (*net.TCPConn, error) {
			return ns.Dial(b.Context(), netns.DialOptions{Remote: addr})
		})
	})
	b.Run("spoofed", func(b *testing.B) {
		run(b, listen(b, ns), func(addr netip.AddrPort) (*net.TCPConn, error) {
			return ns.Dial(b.Context(), netns.DialOptions{Remote: addr, Local: netip.MustParseAddr("127.0.0.9")})
		})
	})
	b.Run("home", func(b *testing.B) {
		home, err := netns.Current()
		if err != nil {
			b.Fatal(err)
		}
		defer home.Close()
		run(b, listen(b, home), func(addr netip.AddrPort) (*net.TCPConn, error) {
			c, err := net.DialTCP("tcp4", nil, net.TCPAddrFromAddrPort(addr))
			return c, err
		})
	})
}
