package sockowner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Owner says whose socket it is. The zero Owner means: of no socket of the node.
type Owner struct {
	Found   bool // a socket of the node itself
	Kubelet bool // and the kubelet holds it
}

// ErrCannotSay says that the agent could not find out; its log says why.
var ErrCannotSay = errors.New("the agent cannot say whose socket it is; its log says why")

// defaultTimeout bounds one question. A lookup takes well below a millisecond, and
// a kubelet waits one second for a probe by default.
const defaultTimeout = 500 * time.Millisecond

// keptConns is how many connections to the agent are kept for the next question.
const keptConns = 4

// Client asks the agent of the node. It may be used from many goroutines.
type Client struct {
	// Set by NewClient, then only read.
	path    string
	timeout time.Duration

	// mu guards the fields below.
	mu     sync.Mutex
	idle   []net.Conn
	closed bool
}

// NewClient makes a client of the agent whose socket is at path. It connects when
// it is first asked. A timeout of zero means half a second.
func NewClient(path string, timeout time.Duration) *Client {
	return &Client{path: path, timeout: cmp.Or(timeout, defaultTimeout)}
}

// Owner asks whose the socket is that has connected from client to server. ctx
// and the client's timeout bound the wait. An error means that it is not known:
// who asks must then act as for a socket of nobody.
func (c *Client) Owner(ctx context.Context, client, server netip.AddrPort) (Owner, error) {
	req, err := newRequest(client, server)
	if err != nil {
		return Owner{}, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, fmt.Errorf("no answer within %v", c.timeout))
	defer cancel()
	for conn := c.take(); conn != nil; conn = c.take() {
		// One that was kept may be of an agent that is no more.
		if answer, err := c.ask(ctx, conn, req); err == nil {
			return parseAnswer(answer)
		}
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.path)
	if err != nil {
		return Owner{}, fmt.Errorf("%w; is the agent of this node running?", err)
	}
	answer, err := c.ask(ctx, conn, req)
	if err != nil {
		return Owner{}, fmt.Errorf("ask %s whose socket %v is: %w", c.path, client, cmp.Or(context.Cause(ctx), err))
	}
	return parseAnswer(answer)
}

// ask puts the question on conn, which it keeps or closes.
func (c *Client) ask(ctx context.Context, conn net.Conn, req request) (answer [answerSize]byte, err error) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	_, err = conn.Write(req[:])
	if err == nil {
		_, err = io.ReadFull(conn, answer[:])
	}
	if !stop() || err != nil {
		conn.Close()
		return answer, err
	}
	c.keep(conn)
	return answer, nil
}

// take returns a connection that was kept, or nil.
func (c *Client) take() net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(c.idle)
	if n == 0 {
		return nil
	}
	conn := c.idle[n-1]
	c.idle = c.idle[:n-1]
	return conn
}

// keep keeps conn for the next question, or closes it.
func (c *Client) keep(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || len(c.idle) >= keptConns {
		conn.Close()
		return
	}
	c.idle = append(c.idle, conn)
}

// Close closes what is kept. Questions under way may finish.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, conn := range c.idle {
		conn.Close()
	}
	c.idle = nil
}
