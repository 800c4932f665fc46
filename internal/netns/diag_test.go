package netns_test

import (
	"net/netip"
	"testing"

	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
)

func TestSockets(t *testing.T) {
	ns := netnstest.New(t)
	list := func(states ...netns.SocketState) []netns.Socket {
		t.Helper()
		all, err := ns.Sockets(states...)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	if got := list(netns.SocketListen, netns.SocketEstablished); len(got) != 0 {
		t.Fatalf("an empty namespace has sockets: %+v", got)
	}
	for _, tt := range []struct{ name, addr string }{{"IPv4", "127.0.0.1"}, {"IPv6", "::1"}} {
		t.Run(tt.name, func(t *testing.T) {
			at := netip.AddrPortFrom(netip.MustParseAddr(tt.addr), 7000)
			l, err := ns.Listen(t.Context(), "tcp", at, netns.SocketOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			c, err := ns.Dial(t.Context(), netns.DialOptions{Remote: at})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			listening := list(netns.SocketListen)
			if len(listening) != 1 || listening[0].Local != at || listening[0].Waiting != 1 {
				t.Errorf("listeners: %+v, want one at %v with one waiting", listening, at)
			}
			ends := 0
			for _, s := range list(netns.SocketEstablished) {
				if s.Local == at || s.Remote == at {
					ends++
				}
			}
			if ends != 2 {
				t.Errorf("%d ends of the connection are listed, want 2", ends)
			}
		})
	}
}
