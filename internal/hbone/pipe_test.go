package hbone

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"syscall"
	"testing"
)

func randomBytes(n int) []byte {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(p)
	return p
}

// "The END_STREAM flag on a DATA frame is treated as being equivalent to the
// TCP FIN bit." RFC 9113, section 8.5.
func TestCopyHalfCloseEachWay(t *testing.T) {
	t.Run("client ends first", func(t *testing.T) {
		n := newNode(t, nodeConfig{server: ServerConfig{Handle: proxyTo}})
		app := appListener(t, func(c *net.TCPConn) {
			all, _ := io.ReadAll(c)
			fmt.Fprintf(c, "got %s", all)
		})
		errs := make(chan error, 1)
		c := dialTCP(t, n.entry(app, errs))
		c.Write([]byte("question"))
		c.CloseWrite()
		if got, err := io.ReadAll(c); err != nil || string(got) != "got question" {
			t.Fatalf("answer = %q, %v", got, err)
		}
		if err := <-errs; err != nil {
			t.Errorf("Pipe = %v, want nil", err)
		}
	})
	t.Run("server ends first", func(t *testing.T) {
		n := newNode(t, nodeConfig{server: ServerConfig{Handle: proxyTo}})
		got := make(chan string, 1)
		app := appListener(t, func(c *net.TCPConn) {
			c.Write([]byte("hello"))
			c.CloseWrite()
			all, _ := io.ReadAll(c)
			got <- string(all)
		})
		errs := make(chan error, 1)
		c := dialTCP(t, n.entry(app, errs))
		if all, err := io.ReadAll(c); err != nil || string(all) != "hello" {
			t.Fatalf("greeting = %q, %v", all, err)
		}
		c.Write([]byte("late words"))
		c.CloseWrite()
		if g := <-got; g != "late words" {
			t.Errorf("after its end the server got %q", g)
		}
		if err := <-errs; err != nil {
			t.Errorf("Pipe = %v, want nil", err)
		}
	})
}

func TestCopyLargeTransfersAtBufferThresholds(t *testing.T) {
	n := newNode(t, nodeConfig{server: ServerConfig{Handle: proxyTo}})
	app := appListener(t, func(c *net.TCPConn) { io.Copy(c, c); c.CloseWrite() })
	entry := n.entry(app, nil)
	for _, size := range []int{0, 1, 1 << 10, 16<<10 - 1, 16 << 10, 16<<10 + 1, 256 << 10, 1<<20 - 9, 1 << 20, 1<<20 + 1, 5 << 20, 33 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			c := dialTCP(t, entry)
			want := randomBytes(size)
			go func() { c.Write(want); c.CloseWrite() }()
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes came back as %d, %v", size, len(got), err)
			}
		})
	}
}

// "A proxy treats any error in the TCP connection, which includes receiving a
// TCP segment with the RST bit set, as a stream error of type CONNECT_ERROR."
// RFC 9113, section 8.5.
func TestCopyResetMidWay(t *testing.T) {
	t.Run("by the client", func(t *testing.T) {
		n := newNode(t, nodeConfig{server: ServerConfig{Handle: proxyTo}})
		got := make(chan error, 1)
		app := appListener(t, func(c *net.TCPConn) {
			c.Write([]byte("x"))
			_, err := io.Copy(io.Discard, c)
			got <- err
		})
		errs := make(chan error, 1)
		c := dialTCP(t, n.entry(app, errs))
		io.ReadFull(c, make([]byte, 1))
		c.SetLinger(0)
		c.Close()
		if err := <-got; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the server read %v, want a reset", err)
		}
		var app2 *AppError
		if err := <-errs; !errors.As(err, &app2) || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("Pipe = %v, want a reset by the application", err)
		}
	})
	t.Run("by the server", func(t *testing.T) {
		n := newNode(t, nodeConfig{server: ServerConfig{Handle: proxyTo}})
		app := appListener(t, func(c *net.TCPConn) {
			io.ReadFull(c, make([]byte, 1))
			c.SetLinger(0)
		})
		errs := make(chan error, 1)
		c := dialTCP(t, n.entry(app, errs))
		c.Write([]byte("x"))
		if _, err := io.Copy(io.Discard, c); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client read %v, want a reset", err)
		}
		var reset *ResetError
		if err := <-errs; !errors.As(err, &reset) || reset.Local {
			t.Errorf("Pipe = %v, want a reset by the peer", err)
		}
	})
	t.Run("by a client that has ended", func(t *testing.T) {
		n := newNode(t, nodeConfig{server: ServerConfig{Handle: proxyTo}})
		got := make(chan error, 1)
		ended := make(chan struct{})
		app := appListener(t, func(c *net.TCPConn) {
			io.Copy(io.Discard, c)
			close(ended)
			for {
				if _, err := c.Write(make([]byte, 1<<10)); err != nil {
					got <- err
					return
				}
			}
		})
		c := dialTCP(t, n.entry(app, nil))
		c.CloseWrite()
		<-ended
		c.SetLinger(0)
		c.Close()
		if err := <-got; !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("the server wrote until %v, want a reset", err)
		}
	})
}
