package outbound

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/internal/hbone"
	"github.com/ambit-mesh/ambit/internal/telemetry"
	"github.com/ambit-mesh/ambit/ztunnel/capture"
	"github.com/ambit-mesh/ambit/ztunnel/route"
)

// lonely is an outbound that reaches nobody.
func lonely(t *testing.T) *Outbound {
	o := New(Config{}, Pod{Dial: func(context.Context, netip.AddrPort) (*net.TCPConn, error) {
		return nil, dialError(syscall.ECONNREFUSED)
	}}, Deps{})
	t.Cleanup(func() {
		o.watchers.Wait()
		o.pool.Close()
	})
	return o
}

// listed is a flight of o, and what ends it.
func listed(t *testing.T, o *Outbound) (context.Context, *flight) {
	f := &flight{out: o, Conn: &capture.Conn{}}
	ctx := o.list(t.Context(), f)
	t.Cleanup(func() { f.cancel(nil) })
	return ctx, f
}

// A local connection that begins while those that have lost their witness are still on
// their way out is looked after like every other: it ends when its own witness is lost.
func TestWitnessIsWatchedAgainAfterALoss(t *testing.T) {
	o := lonely(t)
	key := hbone.Key{Source: "a", Address: netip.MustParseAddrPort("10.0.0.9:15008")}
	target := hbone.Target{
		Key:  key,
		Dial: func(context.Context) (net.Conn, error) { return nil, dialError(syscall.ECONNREFUSED) },
		TLS:  func(context.Context) (*tls.Config, error) { return &tls.Config{}, nil },
	}
	first := make(chan struct{})
	w := &witness{owner: o, target: target, alive: first, flights: make(map[*flight]struct{})}
	o.witnesses.put(w)
	ended, old := listed(t, o)
	if o.witnesses.join(t.Context(), old, key) == nil {
		t.Fatal("nobody vouches for the first connection")
	}
	close(first)
	<-ended.Done() // and has not left yet

	second := make(chan struct{})
	o.witnesses.put(&witness{owner: o, target: target, alive: second, flights: make(map[*flight]struct{})})
	ends, next := listed(t, o)
	if o.witnesses.join(t.Context(), next, key) == nil {
		t.Fatal("nobody vouches for the second connection")
	}
	w.leave(old)
	close(second)
	select {
	case <-ends.Done():
	case <-time.After(10 * time.Second):
		t.Error("the second connection goes on without a witness")
	}
	w.leave(next)
}

// What ends the connections of a tunnel is not for one that goes another way in the end.
func TestFlightLeavesTheTunnelOfAnEarlierTry(t *testing.T) {
	o := lonely(t)
	ctx, f := listed(t, o)
	key := hbone.Key{Source: "a", Address: netip.MustParseAddrPort("10.0.0.9:15008")}
	o.goesThrough(f, key)
	plan := route.Plan{Mode: route.Direct, Hop: netip.MustParseAddrPort("10.0.0.8:80")}
	if _, err := o.openOnce(ctx, f, attempt{plan: plan, last: true}); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("openOnce = %v, want %v", err, syscall.ECONNREFUSED)
	}
	o.cutKey(key, &telemetry.Error{Err: errors.New("a root was removed")})
	if err := context.Cause(ctx); err != nil {
		t.Errorf("the connection was ended because of %v", err)
	}
}
