package load

import (
	"context"
	"io"
	"net"
	"time"
)

// runChurn makes a connection for each request. The server ends it, so that no
// port of the client waits for late packets.
func (g *generator) runChurn(ctx context.Context) error {
	start := time.Now()
	end := start.Add(g.order.Warm + g.order.Window)
	count := g.countFrom(start)
	workers := make([]net.Conn, g.order.Connections) // one place per worker
	err := eachIndex(ctx, len(workers), func(ctx context.Context, i int) error {
		for {
			begun := time.Now()
			if begun.After(end) {
				return nil
			}
			if err := g.once(ctx); err != nil {
				return err
			}
			g.programs.answers.Add(1)
			g.programs.connections.Add(1)
			count.add(i, begun, time.Now())
		}
	})
	g.result.Latency = count.encode()
	return err
}

// once is the life of one connection.
func (g *generator) once(ctx context.Context) error {
	c, err := g.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	cut := context.AfterFunc(ctx, func() { c.Close() })
	defer cut()
	if _, err := io.WriteString(c, requestClose); err != nil {
		return err
	}
	in := answerReader{c: c}
	if err := in.next(); err != nil {
		return err
	}
	// The end belongs to the exchange: the server says it.
	if _, err := c.Read(in.buf[:1]); err != nil {
		return ignoreEOF(err)
	}
	return nil
}
