package redirect_test

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/cni/redirect"
	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// pair is the two ends of a connection that stands.
type pair [2]net.Conn

// check carries bytes both ways.
func (p pair) check(t *testing.T, when string) {
	t.Helper()
	for _, way := range [][2]net.Conn{{p[0], p[1]}, {p[1], p[0]}} {
		way[0].SetDeadline(time.Now().Add(patience))
		way[1].SetDeadline(time.Now().Add(patience))
		buf := make([]byte, 5)
		if _, err := way[0].Write([]byte("still")); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if _, err := io.ReadFull(way[1], buf); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
	}
}

// stand makes a connection from inside ns to l and leaves it open.
func stand(t *testing.T, ns *netns.NS, opts netns.DialOptions, l *net.TCPListener) pair {
	t.Helper()
	opts.Timeout = patience
	out, err := ns.Dial(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	l.SetDeadline(time.Now().Add(patience))
	in, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close() })
	return pair{out, in}
}

func TestConnectionsThatStandGoOn(t *testing.T) {
	for _, s := range stacks {
		t.Run(s.name, func(t *testing.T) {
			cfg := redirect.Config{IPv6: true, DNS: true, RefuseClosed: true}
			w := newWorld(t)
			atPod, atOutside := listen(t, w.pod, 8080, application), listen(t, w.outside, 8080, application)
			older := map[string]pair{
				"out, older than the capture": stand(t, w.pod, fromApp(s.outside, 8080), atOutside),
				"in, older than the capture":  stand(t, w.outside, fromApp(s.pod, 8080), atPod),
			}
			if err := redirect.Prepare(w.pod); err != nil {
				t.Fatal(err)
			}
			apply(t, w.pod, cfg)
			outbound, inbound := listen(t, w.pod, 15001, netns.SocketOptions{}), listen(t, w.pod, 15006, netns.SocketOptions{})
			captured := map[string]pair{
				"out, captured": stand(t, w.pod, fromApp(s.outside, 8080), outbound),
				"in, captured":  stand(t, w.outside, fromApp(s.pod, 8080), inbound),
				"from the proxy to the application": stand(t, w.pod, netns.DialOptions{
					Local: s.client, Remote: fromApp(s.pod, 8080).Remote, SocketOptions: netns.SocketOptions{Transparent: netns.TransparentAlways},
				}, atPod),
			}
			check := func(when string, sets ...map[string]pair) {
				t.Helper()
				for _, set := range sets {
					for what, p := range set {
						p.check(t, what+"; "+when)
					}
				}
			}
			check("while captured", older, captured)

			cfg.Releasing = true
			apply(t, w.pod, cfg)
			check("while released", older, captured)
			stand(t, w.pod, fromApp(s.outside, 8080), atOutside).check(t, "out, new while released")
			stand(t, w.outside, fromApp(s.pod, 8080), atPod).check(t, "in, new while released")

			if err := redirect.Remove(w.pod); err != nil {
				t.Fatal(err)
			}
			check("after the release", older)
		})
	}
}

// A stranger that sends something else first must not have its connection pass
// by the proxy.
func TestNoWayAroundByOddPackets(t *testing.T) {
	w, s := newWorld(t), stacks[0]
	if err := redirect.Prepare(w.pod); err != nil {
		t.Fatal(err)
	}
	apply(t, w.pod, redirect.Config{RefuseClosed: true})
	app := listen(t, w.pod, 8080, application)
	inbound := listen(t, w.pod, 15006, netns.SocketOptions{})
	for i, flags := range []byte{flagACK, flagFIN | flagACK, flagSYN | flagACK, flagRST, 0} {
		from := netip.AddrPortFrom(s.outside, uint16(20000+i))
		to := netip.AddrPortFrom(s.pod, 8080)
		sendSegment(t, w.outside, from, to, flags)
		netnstest.Do(t, w.outside, func() error {
			d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(from), Timeout: patience}
			c, err := d.DialContext(t.Context(), "tcp4", to.String())
			if err != nil {
				return err
			}
			t.Cleanup(func() { c.Close() })
			return nil
		})
		in, err := inbound.AcceptTCP()
		if err != nil {
			t.Fatalf("flags %#x before the SYN: the connection did not come to the proxy: %v", flags, err)
		}
		in.Close()
	}
	app.SetDeadline(time.Now())
	if c, err := app.AcceptTCP(); err == nil {
		t.Errorf("a connection from %v has passed by the proxy", c.RemoteAddr())
	}
}

// Source: RFC 9293, section 3.1.
const (
	flagFIN = 1 << iota
	flagSYN
	flagRST
	_ // PSH
	flagACK
)

// sendSegment sends one TCP segment over IPv4 without a connection.
func sendSegment(t *testing.T, ns *netns.NS, from, to netip.AddrPort, flags byte) {
	t.Helper()
	seg := make([]byte, 20)
	binary.BigEndian.PutUint16(seg[0:], from.Port())
	binary.BigEndian.PutUint16(seg[2:], to.Port())
	binary.BigEndian.PutUint32(seg[4:], 1000)
	binary.BigEndian.PutUint32(seg[8:], 2000)
	seg[12], seg[13] = 5<<4, flags
	binary.BigEndian.PutUint16(seg[14:], 1024)
	src, dst := from.Addr().As4(), to.Addr().As4()
	pseudo := slices.Concat(src[:], dst[:], []byte{0, unix.IPPROTO_TCP, 0, byte(len(seg))}, seg)
	var sum uint32
	for i := 0; i < len(pseudo); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(pseudo[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(seg[16:], ^uint16(sum))
	netnstest.Do(t, ns, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, seg, 0, &unix.SockaddrInet4{Addr: dst})
	})
}

func TestClosedPortsAreSeenClosed(t *testing.T) {
	eachStack(t, redirect.Config{RefuseClosed: true}, func(t *testing.T, w world, s stack) {
		inbound := listen(t, w.pod, 15006, netns.SocketOptions{})
		dial := func() (*net.TCPConn, error) {
			opts := fromApp(s.pod, 8081)
			opts.Timeout = patience
			return w.outside.Dial(t.Context(), opts)
		}
		if c, err := dial(); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("dial of a port on which nothing listens: %v, %v; want it refused", c, err)
		}
		app, err := w.pod.Listen(t.Context(), "tcp", netip.AddrPortFrom(s.pod, 8081), application)
		if err != nil {
			t.Fatal(err)
		}
		defer app.Close()
		c, err := dial()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		in, err := inbound.AcceptTCP()
		if err != nil {
			t.Fatalf("the connection did not come to the proxy: %v", err)
		}
		defer in.Close()
		wantDst(t, in, netip.AddrPortFrom(s.pod, 8081))
	})
}

// Rules of the pod's own must not lead what seemed to go to a closed port to one
// that is open.
func TestNoWayAroundByRulesOfThePod(t *testing.T) {
	w, s := newWorld(t), stacks[0]
	apply(t, w.pod, redirect.Config{RefuseClosed: true})
	app := listen(t, w.pod, 8080, application)
	nft(t, w.pod, func(c *nftables.Conn) {
		table := c.AddTable(&nftables.Table{Name: "own", Family: nftables.TableFamilyIPv4})
		chain := c.AddChain(&nftables.Chain{
			Name: "pre", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRef(-99),
		})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
			&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(8080)},
			&expr.Redir{RegisterProtoMin: 1},
		}})
	})
	opts := fromApp(s.pod, 80) // closed; led to 8080
	opts.Timeout = 300 * time.Millisecond
	if c, err := w.outside.Dial(t.Context(), opts); err == nil {
		defer c.Close()
		c.SetDeadline(time.Now().Add(300 * time.Millisecond))
		if _, err := c.Write([]byte("hello")); err == nil {
			app.SetDeadline(time.Now().Add(300 * time.Millisecond))
			if in, err := app.AcceptTCP(); err == nil {
				defer in.Close()
				in.SetDeadline(time.Now().Add(300 * time.Millisecond))
				if n, _ := in.Read(make([]byte, 5)); n > 0 {
					t.Errorf("%d bytes have passed by the proxy", n)
				}
			}
		}
	}
}
