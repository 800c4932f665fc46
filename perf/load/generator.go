package load

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

const (
	// dialTimeout is how long one connection may take to stand.
	dialTimeout = 10 * time.Second
	// dialers is how many connections are made at a time before a load starts.
	dialers = 32
)

// generator carries out one order.
type generator struct {
	programs *programs
	order    Order
	running  func() // tells the asker that all connections stand
	result   Result
}

// run carries the order out. The end of ctx is the end of bulk and hold; it is
// an error of the others.
func (g *generator) run(ctx context.Context) error {
	if err := g.order.check(); err != nil {
		return err
	}
	if g.order.Kind == Churn {
		if err := g.once(ctx); err != nil {
			return err
		}
		g.running()
		return g.runChurn(ctx)
	}
	conns, err := g.open(ctx)
	defer closeAll(conns)
	if err != nil {
		return err
	}
	cut := context.AfterFunc(ctx, func() { closeAll(conns) })
	defer cut()
	if g.order.Kind == Unary {
		return g.runUnary(ctx, conns)
	}
	if g.order.Kind != Bulk {
		if err := warmUp(ctx, conns, g.order.request()); err != nil {
			return fmt.Errorf("first exchange: %w", err)
		}
	}
	g.running()
	switch g.order.Kind {
	case Bulk:
		err = g.runBulk(ctx, conns)
	case Rate:
		return g.runRate(ctx, conns)
	case Most:
		return g.runMost(ctx, conns)
	default:
		err = runHold(ctx)
	}
	if ctx.Err() != nil {
		return nil // how these are meant to end
	}
	return err
}

// dial makes one connection.
func (g *generator) dial(ctx context.Context) (net.Conn, error) {
	return (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", g.order.Address)
}

// open makes all connections. The caller closes those that stand, also after an
// error.
func (g *generator) open(ctx context.Context) ([]net.Conn, error) {
	var mu sync.Mutex
	var conns []net.Conn
	err := eachIndex(ctx, min(dialers, g.order.Connections), func(ctx context.Context, worker int) error {
		for i := worker; i < g.order.Connections; i += dialers {
			c, err := g.dial(ctx)
			if err != nil {
				return err
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			g.programs.connections.Add(1)
		}
		return nil
	})
	return conns, err
}

// each runs fn for each connection at the same time and waits for all. When one
// fails, all connections are closed and its error returned.
func each(ctx context.Context, conns []net.Conn, fn func(context.Context, net.Conn) error) error {
	return eachIndex(ctx, len(conns), func(ctx context.Context, i int) error {
		err := fn(ctx, conns[i])
		if err != nil {
			closeAll(conns)
		}
		return err
	})
}

// eachIndex runs fn for 0 to n-1 at the same time, waits for all and returns the
// first error. An error ends the context of the others.
func eachIndex(ctx context.Context, n int, fn func(context.Context, int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group lifecycle.Group
	var first error
	var once sync.Once
	for i := range n {
		group.Go(ctx, "load", func(ctx context.Context) {
			if err := fn(ctx, i); err != nil {
				once.Do(func() { first = err })
				cancel(err)
			}
		})
	}
	group.Wait()
	if errors.Is(first, net.ErrClosed) && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return first
}

// closeAll closes connections; some are closed already.
func closeAll(conns []net.Conn) {
	for _, c := range conns {
		c.Close()
	}
}
