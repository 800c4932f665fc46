package load

import (
	"context"
	"io"
	"net"
)

// warmUp does one exchange on each connection, so that all of the way behind it
// stands.
func warmUp(ctx context.Context, conns []net.Conn) error {
	return each(ctx, conns, func(_ context.Context, c net.Conn) error {
		if _, err := io.WriteString(c, requestKeep); err != nil {
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
