package load

import (
	"context"
	"net"
)

// warmUp does one exchange on each connection, so that all of the way behind it
// stands.
func warmUp(ctx context.Context, conns []net.Conn, request []byte) error {
	return each(ctx, conns, func(_ context.Context, c net.Conn) error {
		if _, err := c.Write(request); err != nil {
			return err
		}
		in := answerReader{c: c}
		return in.next()
	})
}

// runHold does nothing until ctx ends.
func runHold(ctx context.Context) error {
	<-ctx.Done()
	return nil
}
