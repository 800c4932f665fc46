package netnstest

import (
	"context"
	"net"
	"net/netip"
	"sync"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/netns"
)

// Doors opens ports of ns where every connection is ended at once, as a proxy
// answers a self-test, until the function that it returns is called.
func Doors(ctx context.Context, ns *netns.NS, ports ...uint16) (stop func(), err error) {
	var all []net.Listener
	var g lifecycle.Group
	stop = sync.OnceFunc(func() {
		for _, l := range all {
			l.Close()
		}
		g.Wait()
	})
	for _, port := range ports {
		l, err := ns.Listen(ctx, "tcp", netip.AddrPortFrom(netip.IPv6Unspecified(), port), netns.SocketOptions{})
		if err != nil {
			stop()
			return nil, err
		}
		all = append(all, l)
		g.Go(ctx, "door", func(context.Context) {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Close()
			}
		})
	}
	return stop, nil
}
