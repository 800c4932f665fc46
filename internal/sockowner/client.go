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

// ClientConfig says where the agent is.
type ClientConfig struct {
	// Path is that of the agent's socket. Required.
	Path string

	// Timeout bounds a question. Zero means half a second.
	Timeout time.Duration

	// Learned hears what becomes of a request for means, by [Client.Run]. It may be
	// nil. err says why there are no newer ones: with [ErrCannotSay] there are none
	// any more, else those from before stay in use.
	Learned func(m Means, err error)
}

// Client asks the agent of the node. It may be used from many goroutines.
type Client struct {
	cfg ClientConfig // set by NewClient, then only read

	// mu guards the fields below.
	mu     sync.Mutex
	idle   []*net.UnixConn
	means  *Means // nil until the agent has handed some over
	closed bool
}

// NewClient makes a client of the agent. It connects when it is first asked.
func NewClient(cfg ClientConfig) *Client {
	cfg.Timeout = cmp.Or(cfg.Timeout, defaultTimeout)
	return &Client{cfg: cfg}
}

// Owner says whose the socket is that has connected from client to server: what
// the agent says, and while there is none, what can be told by the [Means] that it
// has handed over. ctx and the client's timeout bound the wait. An error means that
// it is not known: who asks must then act as for a socket of nobody.
func (c *Client) Owner(ctx context.Context, client, server netip.AddrPort) (Owner, error) {
	req, err := newRequest(client, server)
	if err != nil {
		return Owner{}, err
	}
	owner, away := c.askAgent(ctx, req)
	if away == nil || errors.Is(away, ErrCannotSay) || ctx.Err() != nil {
		return owner, away
	}
	c.mu.Lock() // also while it is asked: it may be replaced otherwise
	defer c.mu.Unlock()
	if c.means == nil {
		return Owner{}, away
	}
	owner, err = c.means.Owner(client, server)
	if err != nil {
		err = fmt.Errorf("%w; %w", err, away)
	}
	return owner, err
}

// askAgent asks the agent.
func (c *Client) askAgent(ctx context.Context, req request) (Owner, error) {
	ctx, cancel := c.withTimeout(ctx)
	defer cancel()
	for conn := c.take(); conn != nil; conn = c.take() {
		// One that was kept may be of an agent that is no more.
		if answer, err := c.ask(ctx, conn, req); err == nil {
			return parseAnswer(answer)
		}
	}
	conn, err := c.dial(ctx)
	if err != nil {
		return Owner{}, err
	}
	answer, err := c.ask(ctx, conn, req)
	if err != nil {
		return Owner{}, fmt.Errorf("ask %s whose socket it is: %w", c.cfg.Path, cmp.Or(context.Cause(ctx), err))
	}
	return parseAnswer(answer)
}

// withTimeout bounds one exchange with the agent.
func (c *Client) withTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, c.cfg.Timeout, fmt.Errorf("no answer within %v", c.cfg.Timeout))
}

// dial connects to the agent.
func (c *Client) dial(ctx context.Context) (*net.UnixConn, error) {
	conn, err := new(net.Dialer).DialUnix(ctx, "unix", nil, &net.UnixAddr{Name: c.cfg.Path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("%w; is the agent of this node running?", err)
	}
	return conn, nil
}

// ask puts the question on conn, which it keeps or closes.
func (c *Client) ask(ctx context.Context, conn *net.UnixConn, req request) (answer [answerSize]byte, err error) {
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
func (c *Client) take() *net.UnixConn {
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
func (c *Client) keep(conn *net.UnixConn) {
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
	c.dropMeansLocked()
}
