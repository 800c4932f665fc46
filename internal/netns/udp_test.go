package netns_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
)

// soon bounds every wait for a datagram on one machine.
const soon = 10 * time.Second

// redirectUDP sends what leaves ns for port from to port to of the namespace
// itself, but for what carries our mark.
func redirectUDP(t *testing.T, ns *netns.NS, from, to uint16) {
	t.Helper()
	netnstest.Do(t, ns, func() error {
		c := &nftables.Conn{}
		table := c.AddTable(&nftables.Table{Name: "test", Family: nftables.TableFamilyINet})
		chain := c.AddChain(&nftables.Chain{
			Name: "out", Table: table, Type: nftables.ChainTypeNAT,
			Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
		})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(netns.Mark)},
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_UDP}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(from)},
			&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(to)},
			&expr.Redir{RegisterProtoMin: 1},
		}})
		return c.Flush()
	})
}

// ask sends text on c and waits for the answer.
func ask(t *testing.T, c *net.UDPConn, text string) string {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(soon)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	n, err := c.Read(buf)
	if err != nil {
		t.Fatalf("no answer to %q: %v", text, err)
	}
	return string(buf[:n])
}

// receive waits for a datagram.
func receive(t *testing.T, s *netns.PacketSocket) (string, netip.AddrPort) {
	t.Helper()
	if err := s.SetReadDeadline(time.Now().Add(soon)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	n, from, err := s.ReadFromUDPAddrPort(buf)
	if err != nil {
		t.Fatalf("nothing came: %v", err)
	}
	return string(buf[:n]), from
}

func TestOriginalPacketDst(t *testing.T) {
	for _, tt := range []struct{ name, local, server string }{
		{"IPv4", "127.0.0.1:1053", "10.71.0.2:5353"},
		{"IPv6", "[::1]:1053", "[fd71::2]:5353"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := pair(t)
			local, server := netip.MustParseAddrPort(tt.local), netip.MustParseAddrPort(tt.server)
			redirectUDP(t, a, server.Port(), local.Port())
			proxy := listenPacket(t, a, local)
			behind := listenPacket(t, b, server)

			client, err := a.DialPacket(server, netns.SocketOptions{NoMark: true})
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			answered := make(chan string, 1)
			go func() { answered <- ask(t, client, "question") }()
			text, from := receive(t, proxy)
			if text != "question" {
				t.Fatalf("redirected %q, want the question", text)
			}
			// Three times: the socket that asks is kept.
			for range 3 {
				if dst, err := a.OriginalPacketDst(from, local); err != nil || dst != server {
					t.Errorf("OriginalPacketDst = %v, %v; want %v", dst, err, server)
				}
			}
			if _, err := a.OriginalPacketDst(netip.AddrPortFrom(from.Addr(), from.Port()^1), local); !errors.Is(err, netns.ErrNotRedirected) {
				t.Errorf("flow that is not there: %v, want ErrNotRedirected", err)
			}

			// With our mark the server itself is asked, at the same time.
			upstream, err := a.DialPacket(server, netns.SocketOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer upstream.Close()
			if _, err := upstream.Write([]byte("forwarded")); err != nil {
				t.Fatal(err)
			}
			if text, _ := receive(t, behind); text != "forwarded" {
				t.Errorf("the server got %q", text)
			}
			if _, err := proxy.WriteToUDPAddrPort([]byte("answer"), from); err != nil {
				t.Fatal(err)
			}
			if got := <-answered; got != "answer" {
				t.Errorf("the client got %q", got)
			}
		})
	}
}

// listenPacket takes datagrams on addr until the test ends.
func listenPacket(t *testing.T, ns *netns.NS, addr netip.AddrPort) *netns.PacketSocket {
	t.Helper()
	s, err := ns.ListenPacket(t.Context(), addr, netns.SocketOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestLeaveHandsOverAndKeepsWhatWaits(t *testing.T) {
	a, _ := pair(t)
	addr := netip.MustParseAddrPort("127.0.0.1:1053")
	old := listenPacket(t, a, addr)
	client, err := a.DialPacket(addr, netns.SocketOptions{NoMark: true})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Write([]byte("waits")); err != nil {
		t.Fatal(err)
	}
	next := listenPacket(t, a, addr)
	if err := old.Leave(); err != nil {
		t.Fatal(err)
	}
	// From many ports, so that some would have gone to the old socket.
	for range 32 {
		c, err := a.DialPacket(addr, netns.SocketOptions{NoMark: true})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("new")); err != nil {
			t.Fatal(err)
		}
		if text, _ := receive(t, next); text != "new" {
			t.Errorf("the next socket got %q", text)
		}
		c.Close()
	}
	text, from := receive(t, old)
	if text != "waits" {
		t.Fatalf("the old socket got %q, want what waited", text)
	}
	if _, err := old.WriteToUDPAddrPort([]byte("late"), from); err != nil {
		t.Fatalf("answer after Leave: %v", err)
	}
	if err := client.SetReadDeadline(time.Now().Add(soon)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	if n, err := client.Read(buf); err != nil || string(buf[:n]) != "late" {
		t.Errorf("the client got %q, %v", buf[:n], err)
	}
}

func TestPacketsAfterClose(t *testing.T) {
	ns := netnstest.New(t)
	clone, err := ns.Clone()
	if err != nil {
		t.Fatal(err)
	}
	clone.Close()
	addr := netip.MustParseAddrPort("127.0.0.1:1053")
	if _, err := clone.OriginalPacketDst(addr, addr); !errors.Is(err, os.ErrClosed) {
		t.Errorf("OriginalPacketDst after Close: %v, want ErrClosed", err)
	}
	if _, err := clone.DialPacket(addr, netns.SocketOptions{}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("DialPacket after Close: %v, want ErrClosed", err)
	}
}
