package dns

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// How long what is known of a host counts. All are our choice: stub resolvers do
// not tell the time that an answer may be kept, and clients of the host itself
// would ask for each connection.
const (
	hostFresh  = 10 * time.Second // an answer
	hostFailed = time.Second      // a failure
	hostStale  = 5 * time.Minute  // an answer, while newer ones cannot be had
	hostsMax   = 4096             // hosts; beyond it the memory starts anew
)

// Hosts finds the addresses of endpoints that are known by a DNS name only. Any
// goroutine may use it.
type Hosts struct {
	lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)

	mu    sync.Mutex
	known map[string]*host
}

// host is what is known of one.
type host struct {
	// mu is held during a look-up, so that there is one at a time.
	mu    sync.Mutex
	addrs []netip.Addr
	got   time.Time // when addrs were
	tried time.Time
	err   error // of the last try
}

// SystemHosts makes Hosts that ask whom the resolv.conf at path names, from our
// own network namespace.
func SystemHosts(path string) *Hosts {
	var d net.Dialer
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		to, err := Resolvers(path)
		if err != nil {
			return nil, err
		}
		if len(to) == 0 {
			return nil, fmt.Errorf("%s names no resolver", path)
		}
		return d.DialContext(ctx, network, to[rand.N(len(to))].String())
	}}
	return NewHosts(r.LookupNetIP)
}

// NewHosts makes Hosts over a resolver, such as (*net.Resolver).LookupNetIP.
func NewHosts(lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)) *Hosts {
	return &Hosts{lookup: lookup, known: make(map[string]*host)}
}

// HostError is why a host has no address.
type HostError struct {
	Host string
	Err  error
}

// Error names the host.
func (e *HostError) Error() string { return fmt.Sprintf("address of %s: %v", e.Host, e.Err) }

// Unwrap makes errors.Is and errors.As see the cause.
func (e *HostError) Unwrap() error { return e.Err }

// Resolve returns one of the addresses of name, of the family of like if there
// is any. It takes up to 5 s, also when ctx ends sooner. The error is a
// [*HostError].
func (h *Hosts) Resolve(ctx context.Context, name string, like netip.Addr) (netip.Addr, error) {
	all, err := h.entry(name).addresses(ctx, name, h.lookup)
	if err != nil {
		return netip.Addr{}, &HostError{Host: name, Err: err}
	}
	same := slices.DeleteFunc(slices.Clone(all), func(a netip.Addr) bool { return a.Is4() != like.Unmap().Is4() })
	if len(same) == 0 {
		same = all
	}
	return same[rand.N(len(same))], nil
}

// entry returns what is known of name.
func (h *Hosts) entry(name string) *host {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.known[name]
	if e == nil {
		if len(h.known) >= hostsMax {
			clear(h.known)
		}
		e = new(host)
		h.known[name] = e
	}
	return e
}

// addresses returns what is known, and finds it out if that is too old.
func (e *host) addresses(ctx context.Context, name string, lookup func(context.Context, string, string) ([]netip.Addr, error)) ([]netip.Addr, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	fresh := e.err == nil && now.Sub(e.got) < hostFresh || e.err != nil && now.Sub(e.tried) < hostFailed
	if !fresh {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience) // others wait for it too
		defer cancel()
		addrs, err := lookup(ctx, "ip", name+".")
		if err == nil && len(addrs) == 0 {
			err = errNoAddress
		}
		e.tried, e.err = now, err
		if err == nil {
			for i := range addrs {
				addrs[i] = addrs[i].Unmap().WithZone("")
			}
			e.addrs, e.got = addrs, now
		}
	}
	if e.err != nil && (len(e.addrs) == 0 || now.Sub(e.got) >= hostStale) {
		return nil, e.err
	}
	return e.addrs, nil
}

// errNoAddress is why a host that is there cannot be called.
var errNoAddress = fmt.Errorf("it has none")
