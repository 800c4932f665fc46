package sockowner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/netns"
)

const (
	// learnEvery is how often the agent is asked for means: a kubelet that was started
	// anew so long before its agent went away is known.
	learnEvery = 30 * time.Second

	// learnAgain is how soon after the agent could not be asked. A node's agent and
	// ztunnel start together, and either may end soon.
	learnAgain = time.Second
)

// Run has the agent hand over means, again and again, until ctx ends. Without it
// [Client.Owner] knows nothing while the agent is away. A nil Client has nothing to
// learn, and waits.
func (c *Client) Run(ctx context.Context) error {
	if c == nil {
		<-ctx.Done()
		return nil
	}
	for {
		wait := learnEvery
		m, err := c.learn(ctx)
		if ctx.Err() != nil {
			return nil // we were asked to stop
		}
		if err != nil && !errors.Is(err, ErrCannotSay) {
			wait = learnAgain
		}
		if c.cfg.Learned != nil {
			c.cfg.Learned(m, err)
		}
		if lifecycle.Sleep(ctx, wait) != nil {
			return nil
		}
	}
}

// learn asks the agent once, and keeps what it hands over instead of what was there.
func (c *Client) learn(ctx context.Context) (Means, error) {
	ctx, cancel := c.withTimeout(ctx)
	defer cancel()
	conn, err := c.dial(ctx)
	if err != nil {
		return Means{}, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	m, err := askMeans(conn)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil || errors.Is(err, ErrCannotSay) {
		c.dropMeansLocked()
	}
	if err != nil {
		return Means{}, fmt.Errorf("ask %s how the kubelet is known: %w", c.cfg.Path, cmp.Or(context.Cause(ctx), err))
	}
	if c.closed {
		return Means{}, errors.Join(net.ErrClosed, m.Sockets.Close())
	}
	c.means = &m
	return m, nil
}

// dropMeansLocked closes what the agent has handed over. The caller holds c.mu.
func (c *Client) dropMeansLocked() {
	if c.means != nil {
		c.means.Sockets.Close()
		c.means = nil
	}
}

// askMeans asks for means on conn.
func askMeans(conn *net.UnixConn) (Means, error) {
	req := newMeansRequest()
	if _, err := conn.Write(req[:]); err != nil {
		return Means{}, err
	}
	var frame [meansSize]byte
	oob := make([]byte, syscall.CmsgSpace(4*maxRights))
	n, oobn, flags, _, err := conn.ReadMsgUnix(frame[:], oob)
	fds, bad := readRights(oob[:oobn])
	defer func() { closeAll(fds) }()
	switch {
	case err != nil:
		return Means{}, err
	case bad != nil:
		return Means{}, bad
	case n != meansSize || flags&syscall.MSG_CTRUNC != 0:
		return Means{}, fmt.Errorf("the agent answers %d bytes and flags %#x, want %d bytes: is it of another version?", n, flags, meansSize)
	}
	m, err := parseMeans(frame)
	if err != nil {
		return Means{}, err
	}
	if len(fds) != 1 {
		return Means{}, fmt.Errorf("the agent hands over %d descriptors, want 1", len(fds))
	}
	m.Sockets, err = netns.DiagFromFD(fds[0])
	fds = nil
	return m, err
}

// maxRights is how many descriptors the buffer for an answer has room for. One is
// wanted; a second shows that the agent is wrong, and is closed.
const maxRights = 2

// readRights returns the descriptors of an SCM_RIGHTS message, also those in front
// of an error.
func readRights(oob []byte) (fds []int, err error) {
	msgs, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, os.NewSyscallError("control message", err)
	}
	for _, m := range msgs {
		more, err := syscall.ParseUnixRights(&m)
		if err != nil {
			return fds, os.NewSyscallError("control message", err)
		}
		fds = append(fds, more...)
	}
	return fds, nil
}

// closeAll closes descriptors that nobody took.
func closeAll(fds []int) {
	for _, fd := range fds {
		syscall.Close(fd)
	}
}
