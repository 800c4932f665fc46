package load

import (
	"context"
	"net"
	"time"
)

// runMost sends the next request of each connection as soon as the answer is
// there.
func (g *generator) runMost(ctx context.Context, conns []net.Conn) error {
	start := time.Now()
	end := start.Add(g.order.Warm + g.order.Window)
	count := g.countFrom(start)
	request := g.order.request()
	err := each(ctx, conns, func(_ context.Context, c net.Conn) error {
		in := answerReader{c: c}
		i := indexOf(conns, c)
		for {
			begun := time.Now()
			if begun.After(end) {
				return nil
			}
			if _, err := c.Write(request); err != nil {
				return err
			}
			if err := in.next(); err != nil {
				return err
			}
			g.programs.answers.Add(1)
			count.add(i, begun, time.Now())
		}
	})
	g.result.Latency = count.encode()
	return err
}
