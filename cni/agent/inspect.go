package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/ambit-mesh/ambit/internal/netns"
)

// selfTestTimeout bounds the active probe: its connection does not leave the pod.
const selfTestTimeout = 2 * time.Second

// inspect looks whether the pod is in the mesh in fact: a proxy listens on all of
// its ports, and takes a connection that the rules lead to it. The rules
// themselves have been read back. The caller holds at.
func (a *Agent) inspect(ctx context.Context, at *attachment) error {
	err := a.inspectListeners(at)
	if err == nil && !a.cfg.ForeignProxy {
		err = a.selfTest(ctx, at)
	}
	a.mu.Lock()
	at.healthy = err == nil
	if err != nil {
		at.acked = false // so that it is offered again
	}
	a.mu.Unlock()
	if err != nil {
		return fmt.Errorf("pod %s is captured, but not served: %w", at, err)
	}
	return nil
}

// inspectListeners looks for the proxy's listeners.
func (a *Agent) inspectListeners(at *attachment) error {
	sockets, err := at.ns.Sockets(netns.SocketListen)
	if err != nil {
		return err
	}
	want := []uint16{portOutbound, portInbound, portTunnel}
	if at.rec.Redirect.DNS {
		want = append(want, portDNS)
	}
	for _, port := range want {
		if !slices.ContainsFunc(sockets, func(s netns.Socket) bool { return s.Local.Port() == port }) {
			return fmt.Errorf("nothing listens on port %d; does ztunnel run on this node?", port)
		}
	}
	return nil
}

// selfTest makes a connection that only the rules can lead to the proxy, and
// waits until the proxy has taken it.
func (a *Agent) selfTest(ctx context.Context, at *attachment) error {
	ipv6 := !slices.ContainsFunc(at.rec.IPs, netip.Addr.Is4)
	c, err := at.ns.Dial(ctx, netns.DialOptions{
		Remote: netns.SelfTest(ipv6), Timeout: selfTestTimeout,
		SocketOptions: netns.SocketOptions{NoMark: true, Transparent: netns.TransparentNever},
	})
	if errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EHOSTUNREACH) {
		return nil // the pod has no way out, so there is nothing that could be led elsewhere
	}
	if err != nil {
		return fmt.Errorf("a connection out of the pod is not taken by ztunnel: %w", err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(selfTestTimeout)); err != nil {
		return err
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("ztunnel listens, but does not answer a connection: %w", err)
	}
	return nil
}
