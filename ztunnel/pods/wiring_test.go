package pods

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/internal/workload"
	"github.com/ambit-mesh/ambit/ztunnel/capture"
)

func subjectOf(name string) policy.Subject {
	return policy.Subject{Name: name, Namespace: "shop", ServiceAccount: name}
}

// pair is two pods with a wire between them and a live connection from a to b.
type pair struct {
	*bench
	a, b   *netns.NS
	server netip.AddrPort
}

// newPair makes them; encrypted switches the local path off.
func newPair(t *testing.T, encrypted bool) *pair {
	t.Helper()
	x := &pair{bench: newBench(t, func(c *Config) { c.Outbound.EncryptLocal = encrypted })}
	x.a, x.b = netnstest.New(t), netnstest.New(t)
	netnstest.Veth(t,
		netnstest.End{NS: x.a, Name: "eth0", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}},
		netnstest.End{NS: x.b, Name: "eth0", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24")}})
	x.server = netip.MustParseAddrPort("10.0.0.2:80")
	answersStay(t, x.b)
	x.mustAdd("a", x.a)
	x.mustAdd("b", x.b)
	x.tell(map[string]netip.Addr{"a": netip.MustParseAddr("10.0.0.1"), "b": x.server.Addr()})
	x.serve()
	return x
}

// answersStay leads the answers of the application at port 80 back to us, who
// have borrowed the client's address: here by a rule about the port, in a mesh by
// the rules of the CNI agent.
func answersStay(t *testing.T, ns *netns.NS) {
	t.Helper()
	h := netnstest.Handle(t, ns)
	rule := netlink.NewRule()
	rule.Table, rule.Priority, rule.IPProto, rule.Sport = 100, 1, syscall.IPPROTO_TCP, netlink.NewRulePortRange(80, 80)
	if err := h.RuleAdd(rule); err != nil {
		t.Fatal(err)
	}
	lo, err := h.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	_, everything, _ := net.ParseCIDR("0.0.0.0/0")
	err = h.RouteAdd(&netlink.Route{
		Table: 100, LinkIndex: lo.Attrs().Index, Dst: everything, Type: syscall.RTN_LOCAL, Scope: netlink.SCOPE_HOST,
	})
	if err != nil {
		t.Fatal(err)
	}
}

// serve echoes in pod b.
func (x *pair) serve() {
	l, err := x.b.Listen(x.t.Context(), "tcp", netip.MustParseAddrPort("0.0.0.0:80"), netns.SocketOptions{NoMark: true})
	if err != nil {
		x.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	x.t.Cleanup(func() { l.Close(); <-done })
}

// connect hands a connection to pod a's outbound path as if rules had
// redirected it, and returns the client's end.
func (x *pair) connect() *net.TCPConn {
	x.t.Helper()
	ln, err := x.a.Listen(x.t.Context(), "tcp", netip.MustParseAddrPort("10.0.0.1:0"), netns.SocketOptions{})
	if err != nil {
		x.t.Fatal(err)
	}
	defer ln.Close()
	at := ln.Addr().(*net.TCPAddr).AddrPort()
	client, err := x.a.Dial(x.t.Context(), netns.DialOptions{Remote: at})
	if err != nil {
		x.t.Fatal(err)
	}
	ours, err := ln.AcceptTCP()
	if err != nil {
		x.t.Fatal(err)
	}
	x.mu.RLock()
	out := x.index[subjectOf("a")].out
	x.mu.RUnlock()
	served := make(chan struct{})
	go func() {
		defer close(served)
		out.Serve(x.t.Context(), &capture.Conn{
			TCP: ours, Target: x.server, Local: at,
			Client: netip.AddrPortFrom(at.Addr(), client.LocalAddr().(*net.TCPAddr).AddrPort().Port()),
		})
	}()
	x.t.Cleanup(func() { client.Close(); <-served })
	if err := client.SetDeadline(time.Now().Add(patience)); err != nil {
		x.t.Fatal(err)
	}
	wantEcho(x.t, client)
	return client
}

func wantEcho(t *testing.T, c *net.TCPConn) {
	t.Helper()
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
		t.Fatalf("no echo: %v", err)
	}
}

// renew makes both pods get new certificates, and waits for them.
func (x *pair) renew() {
	x.t.Helper()
	before := map[identity.ID]*identity.Certificate{}
	for _, s := range x.deps.Certs.Dump() {
		before[s.ID] = s.Certificate
	}
	x.deps.Certs.Refresh(func(identity.ID) bool { return true })
	eventually(x.t, "certificates are renewed", func() error {
		for _, s := range x.deps.Certs.Dump() {
			if s.Certificate == before[s.ID] {
				return fmt.Errorf("%v has its old one", s.ID)
			}
		}
		return nil
	})
}

// A mere renewal, and a root that is added before the signer changes, cut
// nothing. A root that is removed cuts whom it alone vouched for.
func TestRootRemovedCutsRenewalDoesNot(t *testing.T) {
	for name, encrypted := range map[string]bool{"tunnel": true, "local": false} {
		t.Run(name, func(t *testing.T) {
			x := newPair(t, encrypted)
			c := x.connect()
			first, second := x.ca.sign, newRoot(t, "second")

			x.renew()
			wantEcho(t, c)
			x.ca.use(first, first, second)
			x.renew()
			wantEcho(t, c)
			x.ca.use(second, first, second)
			x.renew()
			wantEcho(t, c)
			wantEcho(t, x.connect())

			x.ca.use(second, second)
			x.renew()
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("after the root was removed the old connection reads %v, want a reset", err)
			}
			wantEcho(t, x.connect())
		})
	}
}

// A pod that goes takes its connections with it.
func TestDelCutsAtOnce(t *testing.T) {
	for name, encrypted := range map[string]bool{"tunnel": true, "local": false} {
		t.Run(name, func(t *testing.T) {
			x := newPair(t, encrypted)
			c := x.connect()
			x.del("b")
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the connection reads %v, want a reset", err)
			}
			eventually(t, "no permit is left", func() error {
				if n := x.gate.Len(); n != 0 {
					return fmt.Errorf("%d permits", n)
				}
				return nil
			})
		})
	}
}

// A pod that starts again under its name may be there before the one before it
// has gone. A root that is removed concerns both.
func TestTwoPodsOfOneNameAreBothTold(t *testing.T) {
	b := newBench(t)
	for _, uid := range []string{"old", "young"} {
		clone, err := netnstest.New(t).Clone()
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Add(t.Context(), uid, info("a"), clone); err != nil {
			t.Fatal(err)
		}
	}
	id, err := identity.NewID(workload.DefaultTrustDomain, "shop", "a")
	if err != nil {
		t.Fatal(err)
	}
	if got := len(b.users(id)); got != 2 {
		t.Errorf("a new certificate of %v is told to %d pods, want 2", id, got)
	}
	b.del("old")
	if got := b.users(id); len(got) != 1 || b.Neighbour(subjectOf("a")) != got[0] {
		t.Errorf("after one has gone %d are told, and the neighbour is %v", len(got), b.Neighbour(subjectOf("a")))
	}
}
