package sockowner

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// Lookup finds out whose socket has connected from client to server.
type Lookup func(ctx context.Context, client, server netip.AddrPort) (Owner, error)

// Service is who answers on the agent's side. [Host] is the real one.
type Service struct {
	// Lookup answers whose socket it is. Required.
	Lookup Lookup

	// Means finds what is handed to a ztunnel, which then owns the socket in it. Nil
	// means that none is handed over.
	Means func(ctx context.Context) (Means, error)
}

const (
	// maxConns is how many connections are served at once: more than the ztunnels
	// of a node keep, also while one takes over from another.
	maxConns = 32

	// requestTimeout bounds a request from its first byte to its answer.
	requestTimeout = time.Second

	// idleTimeout is how long a connection may ask nothing.
	idleTimeout = 5 * time.Minute
)

// Serve answers on l until ctx ends, and closes it. Only processes of the user
// that runs us are answered. It returns when nothing of it is left.
func Serve(ctx context.Context, l *net.UnixListener, service Service) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	var conns lifecycle.Group
	defer conns.Wait()
	serving, cut := context.WithCancel(ctx)
	defer cut()
	slots := make(chan struct{}, maxConns)
	for {
		c, err := l.AcceptUnix()
		if ctx.Err() != nil {
			if err == nil {
				c.Close()
			}
			return nil // we were asked to stop
		}
		if err != nil {
			return fmt.Errorf("accept on %v: %w", l.Addr(), err)
		}
		select {
		case slots <- struct{}{}:
		default: // the other end tries again
			c.Close()
			continue
		}
		conns.Go(serving, "sockowner", func(ctx context.Context) {
			serveConn(ctx, c, service)
			<-slots
		})
	}
}

// serveConn answers one connection until it ends or asks what makes no sense.
func serveConn(ctx context.Context, c *net.UnixConn, service Service) {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	if allowed(c) != nil {
		return
	}
	for {
		var req request
		if err := receive(c, &req); err != nil {
			return
		}
		if err := serveRequest(ctx, c, req, service); err != nil {
			return
		}
	}
}

// serveRequest answers one request. After an error the connection is of no use.
func serveRequest(ctx context.Context, c *net.UnixConn, req request, service Service) error {
	if req == newMeansRequest() {
		return handOver(ctx, c, service)
	}
	client, server, err := req.parse()
	if err != nil {
		return err
	}
	_, err = c.Write(answer(ctx, client, server, service.Lookup))
	return err
}

// receive reads one request, and sets the deadline of its answer.
func receive(c *net.UnixConn, req *request) error {
	if err := c.SetDeadline(time.Now().Add(idleTimeout)); err != nil {
		return err
	}
	n, err := c.Read(req[:])
	if err != nil {
		return err
	}
	if err := c.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return err
	}
	_, err = io.ReadFull(c, req[n:])
	return err
}

// answer is the frame that answers a request.
func answer(ctx context.Context, client, server netip.AddrPort, lookup Lookup) []byte {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	owner, err := lookup(ctx, client, server)
	if err != nil {
		return []byte{version, byte(codeCannotSay)}
	}
	return []byte{version, byte(codeOf(owner))}
}

// handOver answers a request for means. Two processes cannot use one socket, so
// each gets its own.
func handOver(ctx context.Context, c *net.UnixConn, service Service) error {
	none := [meansSize]byte{version, byte(codeCannotSay)}
	if service.Means == nil {
		_, err := c.Write(none[:])
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	m, err := service.Means(ctx)
	if err == nil {
		defer m.Sockets.Close()
		err = m.check()
	}
	if err != nil {
		_, err := c.Write(none[:])
		return err
	}
	frame := m.encode()
	return m.Sockets.WithFD(func(fd int) error {
		_, _, err := c.WriteMsgUnix(frame[:], syscall.UnixRights(fd), nil)
		return err
	})
}

// allowed says why the process at the other end may not ask.
func allowed(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *syscall.Ucred
	if ctl := raw.Control(func(fd uintptr) {
		cred, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); ctl != nil {
		return ctl
	}
	if err != nil {
		return os.NewSyscallError("getsockopt SO_PEERCRED", err)
	}
	if int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("process %d runs as user %d, want %d", cred.Pid, cred.Uid, os.Geteuid())
	}
	return nil
}
