package capture

import (
	"context"
	"errors"
	"net"
	"sync/atomic"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// Serve hands every connection to handle, each on a goroutine of its own, and
// returns when the last of them, and what it left to [Conn.Later], has returned.
// When there are as many as the pod may have, further ones are reset and reported
// with a [CrowdError].
//
// The end of ctx means "take no more" and closes the listener. Connections get
// life, which ends later: then they must end at once. Serve returns nil when
// ctx has ended, else why there are no more connections.
func (l *Listener) Serve(ctx, life context.Context, name string, handle func(life context.Context, c *Conn)) error {
	stop := context.AfterFunc(ctx, func() { l.ln.Close() })
	defer stop()
	conns := lifecycle.NewWorkers(name) // deciding takes much stack
	defer conns.Wait()
	var open atomic.Int64
	for {
		c, err := l.Accept(ctx)
		switch {
		case err == nil: // also one that came in while we were closing
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return errors.New("listener of a pod was closed")
		default:
			return err
		}
		if open.Load() >= int64(l.most) {
			l.refuse(c, &CrowdError{Client: c.Client, Target: c.Target, Max: l.most})
			continue
		}
		open.Add(1)
		c.served = true
		conns.Go(life, func() {
			handle(life, c)
			if c.rest == nil {
				open.Add(-1)
				return
			}
			conns.Continue(func() {
				defer open.Add(-1)
				c.rest()
			})
		})
	}
}
