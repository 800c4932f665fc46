package netns_test

import (
	"context"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
)

// connected makes a connection inside a namespace and returns its two ends.
func connected(t *testing.T, ns *netns.NS, addr string) (client, server netip.AddrPort) {
	t.Helper()
	server = netip.AddrPortFrom(netip.MustParseAddr(addr), 7000)
	l, err := ns.Listen(t.Context(), "tcp", server, netns.SocketOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	c, err := ns.Dial(t.Context(), netns.DialOptions{Remote: server})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return netip.MustParseAddrPort(c.LocalAddr().String()), server
}

// handed is what another process makes of a Diag that it was handed.
func handed(t *testing.T, d *netns.Diag) *netns.Diag {
	t.Helper()
	fd := -1
	err := d.WithFD(func(own int) (err error) {
		fd, err = unix.Dup(own)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	other, err := netns.DiagFromFD(fd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() })
	return other
}

func TestDiag(t *testing.T) {
	ns := netnstest.New(t)
	client, server := connected(t, ns, "127.0.0.1")
	client6, server6 := connected(t, ns, "::1")
	d, err := ns.OpenDiag()
	if err != nil {
		t.Fatal(err)
	}
	d = handed(t, d)
	for _, tt := range []struct {
		name          string
		local, remote netip.AddrPort
		found         bool
	}{
		{"the client's end", client, server, true},
		{"the server's end", server, client, true},
		{"over IPv6", client6, server6, true},
		{"nobody's", netip.MustParseAddrPort("127.0.0.1:1"), server, false},
		{"the listener is no end of a connection", server, netip.MustParseAddrPort("127.0.0.1:1"), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, found, err := d.Socket(tt.local, tt.remote)
			if err != nil || found != tt.found {
				t.Fatalf("Socket = %+v, %v, %v; want found %v", s, found, err, tt.found)
			}
			if found && (s.Local != tt.local || s.Remote != tt.remote) {
				t.Errorf("Socket = %+v, want %v -> %v", s, tt.local, tt.remote)
			}
		})
	}
	// It is of its namespace, wherever it is asked.
	elsewhere := netnstest.New(t)
	err = elsewhere.Do(func() error {
		if _, found, err := d.Socket(client, server); err != nil || !found {
			t.Errorf("asked in another namespace: %v, %v; want it found", found, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if _, found, err := elsewhere.Socket(client, server); err != nil || found {
		t.Errorf("another namespace has the socket too: %v, %v", found, err)
	}
}

func TestDiagIsAskedByManyAtOnce(t *testing.T) {
	ns := netnstest.New(t)
	client, server := connected(t, ns, "127.0.0.1")
	d, err := ns.OpenDiag()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var g lifecycle.Group
	defer g.Wait()
	for i := range 8 {
		g.Go(t.Context(), "ask", func(context.Context) {
			local := client
			if i%2 == 1 {
				local = netip.AddrPortFrom(client.Addr(), 1)
			}
			for range 200 {
				if _, found, err := d.Socket(local, server); err != nil || found != (local == client) {
					t.Errorf("Socket(%v) = %v, %v", local, found, err)
					return
				}
			}
		})
	}
}

func TestAClosedDiagRefuses(t *testing.T) {
	ns := netnstest.New(t)
	d, err := ns.OpenDiag()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Socket(netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("127.0.0.1:2")); err == nil {
		t.Error("a closed Diag answers")
	}
}

func TestDiagFromWhatIsNone(t *testing.T) {
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, tt := range []struct {
		name string
		open func() (int, error)
	}{
		{"a file", func() (int, error) { return unix.Dup(int(file.Fd())) }},
		{"a TCP socket", func() (int, error) { return unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0) }},
		{"netlink of another family", func() (int, error) { return unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fd, err := tt.open()
			if err != nil {
				t.Fatal(err)
			}
			if d, err := netns.DiagFromFD(fd); err == nil {
				d.Close()
				t.Fatal("it is taken for a socket of sock_diag")
			}
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
				t.Error("the descriptor was left open")
			}
		})
	}
}
