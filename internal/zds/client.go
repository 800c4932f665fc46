package zds

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/meshapi/zdsapi"
	"github.com/ambit-mesh/ambit/internal/netns"
)

// ClientConfig says where the agent is.
type ClientConfig struct {
	// Path is the agent's socket. Required.
	Path string

	// WriteTimeout bounds each write. Zero means 5 seconds.
	WriteTimeout time.Duration
}

// ClientTrace is told what happens. Every hook may be nil.
type ClientTrace struct {
	// Connected: the agent has accepted us; its snapshot follows.
	Connected func()
	// Retry: there is no connection because of err; the next try is after wait.
	Retry func(err error, wait time.Duration)
}

// Client is ztunnel's end.
type Client struct {
	cfg   ClientConfig
	trace ClientTrace
}

// NewClient wires a client. It starts nothing.
func NewClient(cfg ClientConfig, trace ClientTrace) *Client {
	cfg.WriteTimeout = cmp.Or(cfg.WriteTimeout, messageTimeout)
	return &Client{cfg: cfg, trace: trace}
}

// retryMost is the longest wait between two tries. Our choice: a try on a socket of
// the same node costs nearly nothing, and while nobody is connected no pod that
// belongs to the mesh can start there.
const retryMost = time.Second

// Run keeps a connection to the agent until ctx ends, and calls h for what the
// agent says. After a loss it tries again, first after 10 ms, then more and more
// seldom up to 1 s.
func (c *Client) Run(ctx context.Context, h Handler) error {
	backoff := lifecycle.Backoff{Max: retryMost}
	for {
		complete, err := c.converse(ctx, h)
		if ctx.Err() != nil {
			return nil
		}
		if complete {
			backoff.Reset()
		}
		wait := backoff.Next()
		if c.trace.Retry != nil {
			c.trace.Retry(err, wait)
		}
		if lifecycle.Sleep(ctx, wait) != nil {
			return nil
		}
	}
}

// converse is one connection, from hello to its end. complete says that the
// snapshot arrived.
func (c *Client) converse(ctx context.Context, h Handler) (complete bool, err error) {
	var dialer net.Dialer
	raw, err := dialer.DialContext(ctx, "unixpacket", c.cfg.Path)
	if err != nil {
		return false, err
	}
	conn := raw.(*net.UnixConn)
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()

	hello, err := encodeHello()
	if err == nil {
		err = c.write(conn, hello)
	}
	if err != nil {
		return false, fmt.Errorf("say hello to %s: %w", c.cfg.Path, err)
	}
	if c.trace.Connected != nil {
		c.trace.Connected()
	}
	s := session{client: c, conn: conn, handler: h, present: map[string]bool{}}
	err = s.run(ctx)
	h.Disconnected(err)
	return s.complete, err
}

// write sends one packet in time.
func (c *Client) write(conn *net.UnixConn, data []byte) error {
	if err := conn.SetWriteDeadline(time.Now().Add(c.cfg.WriteTimeout)); err != nil {
		return err
	}
	return writePacket(conn, data, -1)
}

// session is what a client knows within one connection. One goroutine uses it.
type session struct {
	client   *Client
	conn     *net.UnixConn
	handler  Handler
	present  map[string]bool // uids of the snapshot, until it is complete
	complete bool
}

// run answers requests until one breaks the protocol or the agent goes away.
func (s *session) run(ctx context.Context) error {
	for {
		p, err := readPacket(s.conn)
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("the agent at %s went away: %w", s.client.cfg.Path, err)
		}
		if err != nil {
			s.answer(err)
			return err
		}
		err = s.handle(ctx, &p)
		p.drop()
		if broken := s.answer(err); broken != nil {
			return broken
		}
		if errors.Is(err, ErrProtocol) {
			return err
		}
	}
}

// answer acknowledges a request. err is what became of it.
func (s *session) answer(err error) error {
	ack, encodeErr := encodeAck(err)
	if encodeErr != nil {
		return encodeErr
	}
	return s.client.write(s.conn, ack)
}

// handle carries out one request.
func (s *session) handle(ctx context.Context, p *packet) error {
	req, err := decodeRequest(p)
	if err != nil {
		return err
	}
	switch m := req.GetPayload().(type) {
	case *zdsapi.WorkloadRequest_Add:
		return s.add(ctx, m.Add, p)
	case *zdsapi.WorkloadRequest_Keep:
		if s.complete {
			return protocolError("keep of %q after the snapshot", m.Keep.GetUid())
		}
		s.present[m.Keep.GetUid()] = true
		return s.handler.Keep(ctx, m.Keep.GetUid())
	case *zdsapi.WorkloadRequest_Del:
		delete(s.present, m.Del.GetUid())
		return s.handler.Del(ctx, m.Del.GetUid())
	default: // decodeRequest lets nothing else through than the end of a snapshot
		return s.snapshot(ctx)
	}
}

// add opens the namespace that came with p and hands the pod over.
func (s *session) add(ctx context.Context, m *zdsapi.AddWorkload, p *packet) error {
	fd, err := p.takeFD()
	if err != nil {
		return err
	}
	if !s.complete {
		s.present[m.GetUid()] = true // the agent means it to be there, also when it fails here
	}
	ns, err := netns.FromFD(fd)
	if err != nil {
		return fmt.Errorf("add of %q: %w", m.GetUid(), err)
	}
	w := m.GetWorkloadInfo()
	info := Info{Name: w.GetName(), Namespace: w.GetNamespace(), ServiceAccount: w.GetServiceAccount()}
	return s.handler.Add(ctx, m.GetUid(), info, ns)
}

// snapshot ends the first list.
func (s *session) snapshot(ctx context.Context) error {
	if s.complete {
		return protocolError("a second snapshot")
	}
	s.complete = true
	present := s.present
	s.present = nil
	return s.handler.Snapshot(ctx, present)
}
