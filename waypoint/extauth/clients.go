package extauth

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

// Limits. All are our choice, but for defaultTimeout.
const (
	// defaultTimeout is how long a provider may take where the users say nothing.
	// Source: Istio's MeshConfig.
	defaultTimeout = 10 * time.Minute
	// maxAnswer is the largest body of an answer that goes to a client, in bytes.
	maxAnswer = 64 << 10
	// maxMessage is the largest answer over gRPC, in bytes.
	maxMessage = 1 << 20
	// maxHead is the largest head of an answer over HTTP, in bytes.
	maxHead = 64 << 10
	// idleTime is how long a connection is kept that nobody uses.
	idleTime = time.Minute
	// idleConns is how many are kept of HTTP.
	idleConns = 64
)

// Query is what a provider is asked about.
type Query struct {
	// Request is nil for a connection that is not HTTP.
	Request *message.Request
	// Body is the beginning of its body, as far as the provider wants to see it.
	Body []byte
	// Partial says that there is more.
	Partial bool

	ID     string
	Time   time.Time
	Source Peer
	// Destination is where the request was sent, and who we are.
	Destination Peer
}

// Peer is one end.
type Peer struct {
	Addr netip.AddrPort
	// Principal is a SPIFFE ID with its scheme.
	Principal string
}

// Deps are the collaborators. All fields are required.
type Deps struct {
	// Dial connects to a port of a service, named host, or namespace/host.
	Dial func(ctx context.Context, service string, port uint16) (net.Conn, error)
}

// ErrBroken is in the errors of a provider that cannot be asked at all; then a
// request is refused even where the provider's silence would let it pass.
var ErrBroken = errors.New("the provider cannot be asked")

// client asks one provider.
type client interface {
	ask(ctx context.Context, q *Query) (*Decision, error)
	close()
}

// Clients ask providers. Any goroutine may use it.
type Clients struct {
	deps Deps

	mu     sync.Mutex
	all    map[*waypointapi.Provider]client
	closed bool
}

// New makes clients. They connect when they are asked.
func New(deps Deps) *Clients { return &Clients{deps: deps, all: map[*waypointapi.Provider]client{}} }

// Ask asks a provider. Errors: one with [ErrBroken] in it, or why no answer came.
func (c *Clients) Ask(ctx context.Context, p *waypointapi.Provider, q *Query) (*Decision, error) {
	if p.GetBroken() != "" {
		return nil, fmt.Errorf("%w: %s", ErrBroken, p.GetBroken())
	}
	x, err := c.client(p)
	if err != nil {
		return nil, err
	}
	timeout := cmp.Or(p.GetTimeout().AsDuration(), defaultTimeout)
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %v", timeout))
	defer cancel()
	d, err := x.ask(ctx, q)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return d, err
}

// client is that of a provider, made when it is not there.
func (c *Clients) client(p *waypointapi.Provider) (client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, net.ErrClosed
	}
	x := c.all[p]
	if x != nil {
		return x, nil
	}
	dial := func(ctx context.Context) (net.Conn, error) {
		return c.deps.Dial(ctx, p.GetService(), uint16(p.GetPort()))
	}
	var err error
	if p.GetHttp() != nil {
		x = newHTTP(p, dial)
	} else if x, err = newGRPC(p, dial); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	c.all[p] = x
	return x, nil
}

// Keep closes the connections to providers for which keep is false.
func (c *Clients) Keep(keep func(p *waypointapi.Provider) bool) {
	c.mu.Lock()
	var gone []client
	for p, x := range c.all {
		if !keep(p) {
			gone = append(gone, x)
			delete(c.all, p)
		}
	}
	c.mu.Unlock()
	for _, x := range gone {
		x.close()
	}
}

// Close closes all. Nobody is asked afterwards.
func (c *Clients) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.Keep(func(*waypointapi.Provider) bool { return false })
}

// host is the host of a service that may be named namespace/host.
func host(service string) string {
	for i := range len(service) {
		if service[i] == '/' {
			return service[i+1:]
		}
	}
	return service
}
