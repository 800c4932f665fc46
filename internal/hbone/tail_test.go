package hbone

import (
	"context"
	"io"
	"net"
	"testing"
	"time"
)

// tailSize is what one end has yet to send when it has nothing else to do: less than a
// stream's window, and far more than one socket and the reader behind it take here.
const tailSize = 3 << 20

// narrow is the target of n over a socket that takes little at once, as over a long way.
func (n *node) narrow() Target {
	t := n.target()
	t.Dial = func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", n.addr.String())
		if err == nil {
			err = c.(*net.TCPConn).SetReadBuffer(16 << 10)
		}
		return c, err
	}
	return t
}

// A connection that takes no new streams ends with its last one, but not before the peer
// has got what that has sent: who closes a socket to which the other end still speaks
// destroys what is under way.
func TestDrainLetsTheLastStreamArrive(t *testing.T) {
	draining := make(chan struct{})
	n := newNode(t, nodeConfig{
		pool: PoolConfig{Budget: NewBudget(1 << 20)}, // so that its reader has to wait for the application
		server: ServerConfig{DrainTimeout: time.Minute, Handle: func(_ context.Context, in *Incoming) {
			s, err := in.Accept(nil)
			if err != nil {
				return
			}
			io.Copy(io.Discard, s)
			<-draining
			s.Write(make([]byte, tailSize))
			s.CloseWrite()
		}},
	})
	s, err := n.pool.Open(t.Context(), n.narrow(), request(t, "10.0.0.2:80"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.CloseWrite()
	n.stop()
	eventually(t, "GOAWAY", func() bool { return !s.c.usable() })
	close(draining)
	select { // until the server has nothing more to do
	case <-n.served:
	case <-time.After(2 * lingerTime):
	}
	if got, err := io.Copy(io.Discard, s); got != tailSize || err != nil {
		t.Errorf("%d bytes of %d arrived, then %v", got, tailSize, err)
	}
	select {
	case <-n.served:
	case <-time.After(10 * time.Second):
		t.Error("the server still waits for a peer that has got all")
	}
}
