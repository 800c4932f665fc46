package redirect_test

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/cni/redirect"
	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// world is a pod and what is outside of it, joined by a veth; everything that is
// not the pod's is routed to the outside.
type world struct{ pod, outside *netns.NS }

// stack is the addresses of the world in one address family.
type stack struct {
	name           string
	pod, outside   netip.Addr
	nobody, client netip.Addr // routed to the outside, without a host
	loopback       netip.Addr
	everything     netip.Prefix
}

var stacks = []stack{
	{
		"IPv4", netip.MustParseAddr("10.72.0.2"), netip.MustParseAddr("10.72.0.1"),
		netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("192.0.2.77"),
		netip.MustParseAddr("127.0.0.1"), netip.MustParsePrefix("0.0.0.0/0"),
	},
	{
		"IPv6", netip.MustParseAddr("fd72::2"), netip.MustParseAddr("fd72::1"),
		netip.MustParseAddr("2001:db8::9"), netip.MustParseAddr("2001:db8::77"),
		netip.MustParseAddr("::1"), netip.MustParsePrefix("::/0"),
	},
}

// newWorld makes a pod without rules.
func newWorld(t testing.TB) world {
	t.Helper()
	w := world{netnstest.New(t), netnstest.New(t)}
	var inside, outside []netip.Prefix
	for _, s := range stacks {
		bits := 24
		if s.pod.Is6() {
			bits = 64
		}
		inside = append(inside, netip.PrefixFrom(s.pod, bits))
		outside = append(outside, netip.PrefixFrom(s.outside, bits))
	}
	netnstest.Veth(t, netnstest.End{NS: w.pod, Name: "eth0", Prefixes: inside}, netnstest.End{NS: w.outside, Name: "veth0", Prefixes: outside})
	for _, s := range stacks {
		netnstest.Route(t, w.pod, s.everything, s.outside)
	}
	return w
}

// eachStack makes a captured pod and calls fn for IPv4 and for IPv6.
func eachStack(t *testing.T, cfg redirect.Config, fn func(t *testing.T, w world, s stack)) {
	t.Helper()
	w := newWorld(t)
	cfg.IPv6 = true
	apply(t, w.pod, cfg)
	for _, s := range stacks {
		t.Run(s.name, func(t *testing.T) { fn(t, w, s) })
	}
}

// application are socket options of a program that knows nothing of the mesh.
var application = netns.SocketOptions{NoMark: true, Transparent: netns.TransparentNever}

// patience is how long a test waits for what must come at once.
const patience = 5 * time.Second

// listen listens inside ns on any address.
func listen(t testing.TB, ns *netns.NS, port uint16, opts netns.SocketOptions) *net.TCPListener {
	t.Helper()
	l, err := ns.Listen(t.Context(), "tcp", netip.AddrPortFrom(netip.IPv6Unspecified(), port), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	l.SetDeadline(time.Now().Add(patience))
	return l
}

// connect dials from inside ns, takes the connection at l, and carries bytes
// both ways. It returns the accepted end.
func connect(t testing.TB, ns *netns.NS, opts netns.DialOptions, l *net.TCPListener) *net.TCPConn {
	t.Helper()
	opts.Timeout = patience
	out, err := ns.Dial(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	in, err := l.AcceptTCP()
	if err != nil {
		t.Fatalf("the connection to %v did not arrive at %v: %v", opts.Remote, l.Addr(), err)
	}
	t.Cleanup(func() { in.Close() })
	for _, pair := range [][2]*net.TCPConn{{out, in}, {in, out}} {
		pair[0].SetDeadline(time.Now().Add(patience))
		pair[1].SetDeadline(time.Now().Add(patience))
		buf := make([]byte, 5)
		if _, err := pair[0].Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(pair[1], buf); err != nil || string(buf) != "hello" {
			t.Fatalf("read %q, %v, want hello", buf, err)
		}
	}
	return in
}

// wantDst checks where a taken connection was going.
func wantDst(t testing.TB, in *net.TCPConn, want netip.AddrPort) {
	t.Helper()
	if got, err := netns.OriginalDst(in); err != nil || got != want {
		t.Errorf("original destination = %v, %v, want %v", got, err, want)
	}
}

// wantSource checks from where a taken connection seems to come.
func wantSource(t testing.TB, in *net.TCPConn, want netip.Addr) {
	t.Helper()
	if got := in.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap(); got != want {
		t.Errorf("source address = %v, want %v", got, want)
	}
}

// fromApp is a dial of an application to addr.
func fromApp(addr netip.Addr, port uint16) netns.DialOptions {
	return netns.DialOptions{Remote: netip.AddrPortFrom(addr, port), SocketOptions: application}
}

func TestOutboundIsCapturedAndKeepsItsDestination(t *testing.T) {
	eachStack(t, redirect.Config{}, func(t *testing.T, w world, s stack) {
		proxy := listen(t, w.pod, 15001, netns.SocketOptions{})
		in := connect(t, w.pod, fromApp(s.nobody, 80), proxy)
		wantDst(t, in, netip.AddrPortFrom(s.nobody, 80))
		wantSource(t, in, s.pod)
	})
}

func TestTheProxyItselfIsNotCaptured(t *testing.T) {
	eachStack(t, redirect.Config{DNS: true}, func(t *testing.T, w world, s stack) {
		listen(t, w.pod, 15001, netns.SocketOptions{})
		for _, port := range []uint16{80, 53} {
			server := listen(t, w.outside, port, application)
			in := connect(t, w.pod, netns.DialOptions{Remote: netip.AddrPortFrom(s.outside, port)}, server)
			wantSource(t, in, s.pod)
		}
	})
}

func TestPlaintextInboundIsCaptured(t *testing.T) {
	eachStack(t, redirect.Config{}, func(t *testing.T, w world, s stack) {
		listen(t, w.pod, 8080, application)
		proxy := listen(t, w.pod, 15006, netns.SocketOptions{})
		in := connect(t, w.outside, fromApp(s.pod, 8080), proxy)
		wantDst(t, in, netip.AddrPortFrom(s.pod, 8080))
		wantSource(t, in, s.outside)
	})
}

func TestTheTunnelPortIsLeftAlone(t *testing.T) {
	eachStack(t, redirect.Config{}, func(t *testing.T, w world, s stack) {
		listen(t, w.pod, 15006, netns.SocketOptions{})
		tunnel := listen(t, w.pod, 15008, netns.SocketOptions{})
		in := connect(t, w.outside, fromApp(s.pod, 15008), tunnel)
		wantDst(t, in, netip.AddrPortFrom(s.pod, 15008))
		wantSource(t, in, s.outside)
	})
}

func TestCallsWithinThePodAreLeftAlone(t *testing.T) {
	eachStack(t, redirect.Config{}, func(t *testing.T, w world, s stack) {
		listen(t, w.pod, 15001, netns.SocketOptions{})
		listen(t, w.pod, 15006, netns.SocketOptions{})
		app := listen(t, w.pod, 8080, application)
		targets := []netip.Addr{s.pod, s.loopback}
		if s.pod.Is4() {
			targets = append(targets, netip.MustParseAddr("127.0.0.2"))
		}
		for _, target := range targets {
			in := connect(t, w.pod, fromApp(target, 8080), app)
			wantDst(t, in, netip.AddrPortFrom(target, 8080))
		}
	})
}

func TestAnswersToABorrowedAddressComeBackToTheProxy(t *testing.T) {
	eachStack(t, redirect.Config{}, func(t *testing.T, w world, s stack) {
		listen(t, w.pod, 15001, netns.SocketOptions{}) // would catch answers that count as outbound
		listen(t, w.pod, 15006, netns.SocketOptions{})
		app := listen(t, w.pod, 8080, application)
		for _, client := range []netip.Addr{s.client, s.outside} {
			in := connect(t, w.pod, netns.DialOptions{Remote: netip.AddrPortFrom(s.pod, 8080), Local: client}, app)
			wantSource(t, in, client)
		}
	})
}

func TestIngressModeLeavesInboundAlone(t *testing.T) {
	eachStack(t, redirect.Config{BypassInbound: true}, func(t *testing.T, w world, s stack) {
		listen(t, w.pod, 15006, netns.SocketOptions{})
		app := listen(t, w.pod, 8080, application)
		wantSource(t, connect(t, w.outside, fromApp(s.pod, 8080), app), s.outside)
		proxy := listen(t, w.pod, 15001, netns.SocketOptions{})
		wantDst(t, connect(t, w.pod, fromApp(s.nobody, 443), proxy), netip.AddrPortFrom(s.nobody, 443))
	})
}

func TestProbesPassByTheProxy(t *testing.T) {
	probes := redirect.Config{ProbeV4: netip.MustParseAddr("10.72.0.99"), ProbeV6: netip.MustParseAddr("fd72::99")}
	eachStack(t, probes, func(t *testing.T, w world, s stack) {
		prober, bits := probes.ProbeV4, 32
		if s.pod.Is6() {
			prober, bits = probes.ProbeV6, 128
		}
		netnstest.Addr(t, w.outside, "veth0", netip.PrefixFrom(prober, bits))
		listen(t, w.pod, 15001, netns.SocketOptions{})
		listen(t, w.pod, 15006, netns.SocketOptions{})
		app := listen(t, w.pod, 8080, application)
		opts := fromApp(s.pod, 8080)
		in := connect(t, w.outside, withSource(t, w.outside, opts, prober), app)
		wantSource(t, in, prober)
	})
}

// withSource makes addr the preferred source towards the target of opts.
func withSource(t testing.TB, ns *netns.NS, opts netns.DialOptions, addr netip.Addr) netns.DialOptions {
	t.Helper()
	netnstest.RouteFrom(t, ns, "veth0", netip.PrefixFrom(opts.Remote.Addr(), opts.Remote.Addr().BitLen()), addr)
	return opts
}

func TestMachinesBehindAVirtualInterfaceAreOutbound(t *testing.T) {
	w := newWorld(t)
	apply(t, w.pod, redirect.Config{IPv6: true, VirtualInterfaces: []string{"virt0"}})
	machine := netnstest.New(t)
	netnstest.Veth(t,
		netnstest.End{NS: w.pod, Name: "virt0", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.73.0.1/24")}},
		netnstest.End{NS: machine, Name: "eth0", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.73.0.2/24")}})
	netnstest.Route(t, machine, stacks[0].everything, netip.MustParseAddr("10.73.0.1"))
	listen(t, w.pod, 15006, netns.SocketOptions{})
	proxy := listen(t, w.pod, 15001, netns.SocketOptions{})
	in := connect(t, machine, fromApp(stacks[0].nobody, 80), proxy)
	wantDst(t, in, netip.AddrPortFrom(stacks[0].nobody, 80))
	wantSource(t, in, netip.MustParseAddr("10.73.0.2"))
}

func TestRemovedRulesCaptureNothing(t *testing.T) {
	eachStack(t, redirect.Config{}, func(t *testing.T, w world, s stack) {
		if err := redirect.Remove(w.pod); err != nil {
			t.Fatal(err)
		}
		listen(t, w.pod, 15001, netns.SocketOptions{})
		listen(t, w.pod, 15006, netns.SocketOptions{})
		connect(t, w.outside, fromApp(s.pod, 8080), listen(t, w.pod, 8080, application))
		connect(t, w.pod, fromApp(s.outside, 8080), listen(t, w.outside, 8080, application))
	})
}

func TestDNSQuestionsGoToTheProxyOnlyWhenAskedFor(t *testing.T) {
	for name, dns := range map[string]bool{"on": true, "off": false} {
		t.Run(name, func(t *testing.T) {
			eachStack(t, redirect.Config{DNS: dns}, func(t *testing.T, w world, s stack) {
				proxy := listenUDP(t, w.pod, netip.AddrPortFrom(s.loopback, 15053))
				server := listenUDP(t, w.outside, netip.AddrPortFrom(s.outside, 53))
				taker := server
				if dns {
					taker = proxy
				}
				askUDP(t, w.pod, netip.AddrPortFrom(s.outside, 53), taker)

				tcpTaker := listen(t, w.pod, 15001, netns.SocketOptions{})
				if dns {
					tcpTaker = listen(t, w.pod, 15053, netns.SocketOptions{})
				}
				connect(t, w.pod, fromApp(s.nobody, 53), tcpTaker)
			})
		})
	}
}

// A socket that goes on asking, or a new one with the same port, is answered by its server
// once the pod has left the mesh, also where rules of the pod's own keep conntrack at work.
func TestQuestionsFromAPortOfBeforeAreAnsweredAfterTheEnd(t *testing.T) {
	eachStack(t, redirect.Config{DNS: true}, func(t *testing.T, w world, s stack) {
		apply(t, w.pod, redirect.Config{DNS: true, IPv6: true}) // the stack before has taken it away
		nft(t, w.pod, func(c *nftables.Conn) {
			table := c.AddTable(&nftables.Table{Name: "own", Family: nftables.TableFamilyINet})
			chain := c.AddChain(&nftables.Chain{Name: "out", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter})
			c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Ct{Key: expr.CtKeySTATE, Register: 1}}})
		})
		proxy := listenUDP(t, w.pod, netip.AddrPortFrom(s.loopback, 15053))
		server := listenUDP(t, w.outside, netip.AddrPortFrom(s.outside, 53))
		other := listenUDP(t, w.outside, netip.AddrPortFrom(s.outside, 5000))
		asker := dialUDP(t, w.pod, netip.AddrPortFrom(s.outside, 53))
		stranger := dialUDP(t, w.pod, netip.AddrPortFrom(s.outside, 5000))
		ask(t, asker, proxy)
		ask(t, stranger, other)
		apply(t, w.pod, redirect.Config{DNS: true, IPv6: true, Releasing: true})
		ask(t, asker, proxy) // conntrack remembers: this is what has to be forgotten
		if err := redirect.ForgetDNS(w.pod); err != nil {
			t.Fatal(err)
		}
		ask(t, asker, server)
		if err := redirect.Remove(w.pod); err != nil {
			t.Fatal(err)
		}
		ask(t, asker, server)
		ask(t, stranger, other)
	})
}

func TestOtherUDPIsLeftAlone(t *testing.T) {
	eachStack(t, redirect.Config{DNS: true}, func(t *testing.T, w world, s stack) {
		server := listenUDP(t, w.outside, netip.AddrPortFrom(s.outside, 5000))
		askUDP(t, w.pod, netip.AddrPortFrom(s.outside, 5000), server)
	})
}

// listenUDP listens for datagrams inside ns.
func listenUDP(t testing.TB, ns *netns.NS, addr netip.AddrPort) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	netnstest.Do(t, ns, func() (err error) {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
		return err
	})
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c
}

// askUDP sends a datagram to dst from inside ns, has taker answer it, and wants
// the answer to come from dst.
func askUDP(t testing.TB, ns *netns.NS, dst netip.AddrPort, taker *net.UDPConn) {
	t.Helper()
	ask(t, dialUDP(t, ns, dst), taker)
}

// dialUDP makes a socket inside ns that takes datagrams from dst alone.
func dialUDP(t testing.TB, ns *netns.NS, dst netip.AddrPort) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	netnstest.Do(t, ns, func() (err error) {
		c, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(dst))
		return err
	})
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c
}

// ask sends a datagram, has taker answer it, and takes the answer.
func ask(t testing.TB, c, taker *net.UDPConn) {
	t.Helper()
	if _, err := c.Write([]byte("question")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	n, from, err := taker.ReadFromUDPAddrPort(buf)
	if err != nil || string(buf[:n]) != "question" {
		t.Fatalf("the question to %v did not arrive at %v: %q, %v", c.RemoteAddr(), taker.LocalAddr(), buf[:n], err)
	}
	if _, err := taker.WriteToUDPAddrPort([]byte("answer"), from); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(buf); err != nil || string(buf[:n]) != "answer" {
		t.Fatalf("answer = %q, %v", buf[:n], err)
	}
}
