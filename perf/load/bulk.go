package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// bulkChunk is how much a bulk load reads or writes at once: what the known
// program for this (iperf3) does.
const bulkChunk = 128 << 10

// bulkOpening is the first byte on a connection to the bulk port: it says who
// sends.
func bulkOpening(d Direction) byte { return d[0] }

// serveBulk takes or sends bytes until the client goes.
func (p *programs) serveBulk(ctx context.Context, c net.Conn) error {
	var first [1]byte
	if _, err := io.ReadFull(c, first[:]); err != nil {
		return ignoreEOF(err)
	}
	switch first[0] {
	case bulkOpening(Up):
		return drain(c, &p.received)
	case bulkOpening(Down):
		return flood(c)
	case bulkOpening(Both):
		return bothWays(ctx, c, &p.received)
	}
	return fmt.Errorf("opening %q: want u, d or b", first)
}

// runBulk moves bytes on each connection until ctx ends.
func (g *generator) runBulk(ctx context.Context, conns []net.Conn) error {
	return each(ctx, conns, func(ctx context.Context, c net.Conn) error {
		if _, err := c.Write([]byte{bulkOpening(g.order.Direction)}); err != nil {
			return err
		}
		switch g.order.Direction {
		case Down:
			return drain(c, &g.programs.received)
		case Both:
			return bothWays(ctx, c, &g.programs.received)
		default:
			return flood(c)
		}
	})
}

// flood writes until that fails.
func flood(c net.Conn) error {
	buf := make([]byte, bulkChunk)
	for {
		if _, err := c.Write(buf); err != nil {
			return err
		}
	}
}

// drain reads and counts until the other side ends.
func drain(c net.Conn, received *atomic.Uint64) error {
	buf := make([]byte, bulkChunk)
	for {
		n, err := c.Read(buf)
		received.Add(uint64(n))
		if err != nil {
			return ignoreEOF(err)
		}
	}
}

// bothWays does both at a time.
func bothWays(ctx context.Context, c net.Conn, received *atomic.Uint64) error {
	var group lifecycle.Group
	var readErr error
	group.Go(ctx, "drain", func(context.Context) {
		readErr = drain(c, received)
		c.Close() // nobody is left to send to
	})
	writeErr := flood(c)
	c.Close()
	group.Wait()
	return errors.Join(writeErr, readErr)
}

// ignoreEOF makes the polite end of the other side no error.
func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
