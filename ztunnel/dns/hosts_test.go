package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// directory is a resolver that counts.
type directory struct {
	addrs []netip.Addr
	err   error
	asked int
}

func (d *directory) lookup(_ context.Context, network, host string) ([]netip.Addr, error) {
	d.asked++
	if network != "ip" || host != "api.example.com." {
		return nil, fmt.Errorf("asked for %s %s", network, host)
	}
	return append([]netip.Addr(nil), d.addrs...), d.err
}

func TestHosts(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	synctest.Test(t, func(t *testing.T) {
		d := &directory{addrs: []netip.Addr{netip.AddrFrom16(v4.As16()), v6}}
		h := NewHosts(d.lookup)
		want := func(what string, like, want netip.Addr, asked int) {
			t.Helper()
			got, err := h.Resolve(t.Context(), "api.example.com", like)
			if got != want || (err == nil) != want.IsValid() || d.asked != asked {
				t.Errorf("%s: %v, %v, asked %d times; want %v, %d", what, got, err, d.asked, want, asked)
			}
			if _, ok := errors.AsType[*HostError](err); err != nil && !ok {
				t.Errorf("%s: %T is no HostError", what, err)
			}
		}
		want("same family", v4, v4, 1)
		want("same family, IPv6, without asking again", v6, v6, 1)
		d.addrs = []netip.Addr{v6}
		want("kept", v4, v4, 1)
		<-time.After(hostFresh)
		want("too old; the other family is better than none", v4, v6, 2)
		d.err = errors.New("no resolver")
		<-time.After(hostFresh)
		want("stale while upstream is away", v6, v6, 3)
		want("not asked again at once", v6, v6, 3)
		<-time.After(hostFailed)
		want("asked again soon", v6, v6, 4)
		<-time.After(hostStale)
		want("too stale", v6, netip.Addr{}, 5)
		d.err, d.addrs = nil, nil
		<-time.After(hostFailed)
		want("a host without addresses", v6, netip.Addr{}, 6)
		d.addrs = []netip.Addr{v4}
		<-time.After(hostFailed)
		want("back", v4, v4, 7)
	})
}

func TestHostsAreBounded(t *testing.T) {
	h := NewHosts(func(context.Context, string, string) ([]netip.Addr, error) { return nil, errors.New("none") })
	for i := range hostsMax + 10 {
		if _, err := h.Resolve(t.Context(), fmt.Sprint("h", i), netip.Addr{}); err == nil {
			t.Fatal("an address out of nothing")
		}
	}
	if len(h.known) > hostsMax {
		t.Errorf("%d hosts are kept", len(h.known))
	}
}
