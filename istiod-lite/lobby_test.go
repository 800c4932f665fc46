package istiodlite

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// lobbyTest is a lobby before a real listener.
type lobbyTest struct {
	*lobby
	t  *testing.T
	ln net.Listener
}

func newLobbyTest(t *testing.T, limit int, patience time.Duration) lobbyTest {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	l := newLobby(limit, patience, prometheus.NewRegistry())
	return lobbyTest{l, t, l.listen(ln)}
}

// connect returns both ends of a new connection.
func (lt lobbyTest) connect() (client, server net.Conn) {
	lt.t.Helper()
	client, err := net.Dial("tcp", lt.ln.Addr().String())
	if err != nil {
		lt.t.Fatal(err)
	}
	server, err = lt.ln.Accept()
	if err != nil {
		lt.t.Fatal(err)
	}
	lt.t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// wantClosed checks that the other side closes a connection, within a while.
func (lt lobbyTest) wantClosed(why string, c net.Conn) {
	lt.t.Helper()
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		lt.t.Errorf("%s: %v, want the end", why, err)
	}
}

// wantOpen checks that bytes still pass.
func (lt lobbyTest) wantOpen(why string, client, server net.Conn) {
	lt.t.Helper()
	server.SetDeadline(time.Now().Add(10 * time.Second))
	client.SetDeadline(time.Now().Add(10 * time.Second))
	_, err := server.Write([]byte("x"))
	if err == nil {
		_, err = client.Read(make([]byte, 1))
	}
	if err != nil {
		lt.t.Errorf("%s: %v", why, err)
	}
}

func TestWhoProvesNothingIsPutOut(t *testing.T) {
	lt := newLobbyTest(t, 10, 50*time.Millisecond)
	silent, _ := lt.connect()
	proven, server := lt.connect()
	lt.admit(proven.LocalAddr().String())
	lt.wantClosed("silent", silent)
	lt.wantOpen("proven", proven, server)
	if got := testutil.ToFloat64(lt.closed); got != 1 || len(lt.guests) != 0 {
		t.Errorf("%v closed, %d left, want 1 and none", got, len(lt.guests))
	}
}

func TestTheOldestOfTooManyIsPutOut(t *testing.T) {
	lt := newLobbyTest(t, 2, time.Hour)
	proven, provenServer := lt.connect()
	lt.admit(proven.LocalAddr().String())
	first, _ := lt.connect()
	second, secondServer := lt.connect()
	third, thirdServer := lt.connect()
	lt.wantClosed("the first of three", first)
	lt.wantOpen("the second", second, secondServer)
	lt.wantOpen("the third", third, thirdServer)
	lt.wantOpen("one that counts no more", proven, provenServer)
	secondServer.Close()
	if lt.oldest.Len() != 1 || len(lt.guests) != 1 {
		t.Errorf("%d guests, want one: a closed connection is none", lt.oldest.Len())
	}
	// Another connection from the address of one that has gone is another guest.
	old := secondServer.(*guest)
	lt.leave(third.LocalAddr().String(), old)
	if lt.oldest.Len() != 1 {
		t.Error("a connection is taken for another of its address")
	}
	thirdServer.Close()
	lt.admit("10.0.0.1:1") // unknown: nothing happens
	if lt.oldest.Len() != 0 || len(lt.guests) != 0 {
		t.Errorf("%d guests are left", lt.oldest.Len())
	}
}
