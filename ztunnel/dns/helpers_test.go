package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ambit-mesh/ambit/internal/meshapi/workloadapi"
	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/internal/telemetry"
	"github.com/ambit-mesh/ambit/internal/workload"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// soon bounds every wait. It is only reached when something is wrong.
const soon = 10 * time.Second

// service is a service of a picture.
func service(ns, host string, change func(*workloadapi.Service), vips ...string) *workloadapi.Service {
	s := &workloadapi.Service{
		Name: host, Namespace: ns, Hostname: host,
		Ports: []*workloadapi.Port{{ServicePort: 80, TargetPort: 80}},
	}
	for _, v := range vips {
		s.Addresses = append(s.Addresses, &workloadapi.NetworkAddress{Address: netip.MustParseAddr(v).AsSlice()})
	}
	if change != nil {
		change(s)
	}
	return s
}

// member is a healthy pod that belongs to a service.
func member(uid, ns, of string, change func(*workloadapi.Workload), ips ...string) *workloadapi.Workload {
	w := &workloadapi.Workload{
		Uid: "Kubernetes//Pod/" + ns + "/" + uid, Name: uid, Namespace: ns, Node: "here",
		Services: map[string]*workloadapi.PortList{of: {}},
	}
	for _, ip := range ips {
		w.Addresses = append(w.Addresses, netip.MustParseAddr(ip).AsSlice())
	}
	if change != nil {
		change(w)
	}
	return w
}

// store holds these resources.
func store(t testing.TB, list ...proto.Message) *workload.Store {
	t.Helper()
	s := workload.NewStore(workload.Config{NodeName: "here"})
	for _, m := range list {
		r := &discoveryv3.Resource{}
		a := &workloadapi.Address{}
		switch m := m.(type) {
		case *workloadapi.Service:
			r.Name, a.Type = m.GetNamespace()+"/"+m.GetHostname(), &workloadapi.Address_Service{Service: m}
		case *workloadapi.Workload:
			r.Name, a.Type = m.GetUid(), &workloadapi.Address_Workload{Workload: m}
		}
		packed, err := anypb.New(a)
		if err != nil {
			t.Fatal(err)
		}
		r.Resource = packed
		if rejected := s.ApplyAddresses([]*discoveryv3.Resource{r}, nil); len(rejected) > 0 {
			t.Fatalf("rejected: %v", rejected)
		}
	}
	return s
}

// pod is who asks in these tests.
var pod = policy.Subject{Name: "web", Namespace: "shop", ServiceAccount: "default"}

// asking is the workload of pod.
func asking() *workloadapi.Workload {
	return member("web", "shop", "shop/none", func(w *workloadapi.Workload) {
		w.CanonicalName, w.CanonicalRevision = "web", "v1"
	}, "10.0.0.9")
}

// upstream is a resolver on loopback that says what it is told.
type upstream struct {
	addr netip.AddrPort

	mu   sync.Mutex
	seen []string // name and protocol of each question
	say  func(q *dns.Msg) *dns.Msg
}

// newUpstream answers over both protocols, by default that there is no such
// name.
func newUpstream(t *testing.T) *upstream {
	t.Helper()
	u := &upstream{}
	pc, ln := bothPorts(t)
	u.addr = pc.LocalAddr().(*net.UDPAddr).AddrPort()
	for _, s := range []*dns.Server{{PacketConn: pc}, {Listener: ln}} {
		s.Handler = dns.HandlerFunc(u.serve)
		s.MsgAcceptFunc = func(dns.Header) dns.MsgAcceptAction { return dns.MsgAccept }
		up := make(chan struct{})
		s.NotifyStartedFunc = func() { close(up) }
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := s.ActivateAndServe(); err != nil {
				t.Errorf("upstream: %v", err)
			}
		}()
		<-up
		t.Cleanup(func() {
			if err := s.Shutdown(); err != nil {
				t.Errorf("stop upstream: %v", err)
			}
			<-done
		})
	}
	return u
}

// bothPorts opens one port for both protocols. Somebody else may have the second.
func bothPorts(t *testing.T) (net.PacketConn, net.Listener) {
	t.Helper()
	for range 20 {
		pc, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if ln, err := net.Listen("tcp", pc.LocalAddr().String()); err == nil {
			return pc, ln
		}
		pc.Close()
	}
	t.Fatal("no port is free for both protocols")
	return nil, nil
}

func (u *upstream) serve(w dns.ResponseWriter, q *dns.Msg) {
	u.mu.Lock()
	say := u.say
	u.seen = append(u.seen, q.Question[0].Name+" "+w.RemoteAddr().Network())
	u.mu.Unlock()
	m := new(dns.Msg).SetRcode(q, dns.RcodeNameError)
	if say != nil {
		m = say(q)
	}
	if m != nil {
		_ = w.WriteMsg(m)
	}
}

// answer makes u say what say does.
func (u *upstream) answer(say func(q *dns.Msg) *dns.Msg) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.say = say
}

// asked returns what u was asked.
func (u *upstream) asked() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]string(nil), u.seen...)
}

// loopSocket is a socket on loopback that cannot leave its port.
type loopSocket struct{ *net.UDPConn }

func (loopSocket) Leave() error { return nil }

// bench is a running server and who is asked behind it.
type bench struct {
	*Server
	t     *testing.T
	udp   string // where it answers
	tcp   string
	up    *upstream
	reg   *prometheus.Registry
	acked chan struct{}
	leave context.CancelFunc      // take no more
	cut   context.CancelCauseFunc // end at once
	done  chan struct{}
}

// newBench starts a server over loopback.
func newBench(t *testing.T, state *workload.Store, tune ...func(*Config, *Pod, *Deps, *upstream)) *bench {
	t.Helper()
	b := &bench{t: t, up: newUpstream(t), reg: prometheus.NewRegistry(), acked: make(chan struct{}), done: make(chan struct{})}
	close(b.acked)
	counts, err := telemetry.NewDNSMetrics(b.reg)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{}
	p := Pod{
		Subject: pod,
		Asked:   func(_, _ netip.AddrPort) (netip.AddrPort, error) { return b.up.addr, nil },
		Dial: func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, to.String())
		},
	}
	deps := Deps{
		Log: zap.NewNop(), State: state, Metrics: counts, Acked: b.acked, Budget: NewBudget(),
		Fallback: func() ([]netip.AddrPort, error) { return nil, errors.New("none") },
	}
	for _, f := range tune {
		f(&cfg, &p, &deps, b.up)
	}
	b.Server = New(cfg, p, deps)
	b.serve()
	return b
}

// serve opens both ports.
func (b *bench) serve() {
	b.t.Helper()
	pc, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		b.t.Fatal(err)
	}
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	b.udp, b.tcp = pc.LocalAddr().String(), ln.Addr().String()
	ctx, leave := context.WithCancel(context.WithoutCancel(b.t.Context()))
	life, cut := context.WithCancelCause(context.WithoutCancel(b.t.Context()))
	b.leave, b.cut = leave, cut
	var all sync.WaitGroup
	all.Go(func() {
		if err := b.ServeUDP(ctx, life, loopSocket{pc}); err != nil {
			b.t.Errorf("ServeUDP: %v", err)
		}
	})
	all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() { b.ServeTCP(life, c, b.up.addr) })
		}
	})
	go func() {
		defer close(b.done)
		<-ctx.Done()
		ln.Close()
		all.Wait()
	}()
	b.t.Cleanup(func() {
		leave()
		cut(errors.New("the test is over"))
		<-b.done
	})
}

// ask asks for name over network, and wants an answer.
func (b *bench) ask(network, name string, kind uint16, change ...func(*dns.Msg)) *dns.Msg {
	b.t.Helper()
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), kind)
	for _, f := range change {
		f(q)
	}
	addr := b.udp
	if network == "tcp" {
		addr = b.tcp
	}
	m, err := exchange(network, addr, q)
	if err != nil {
		b.t.Fatalf("%s %s over %s: %v", dns.TypeToString[kind], name, network, err)
	}
	return m
}

// exchange asks addr. Unlike the client of the library it looks at no signature.
func exchange(network, addr string, q *dns.Msg) (*dns.Msg, error) {
	c, err := net.DialTimeout(network, addr, soon)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(soon)); err != nil {
		return nil, err
	}
	raw, err := q.Pack()
	if err != nil {
		return nil, err
	}
	co := &dns.Conn{Conn: c, UDPSize: dns.MaxMsgSize}
	if _, err := co.Write(raw); err != nil {
		return nil, err
	}
	m, err := co.ReadMsg()
	if err == nil && m.Id != q.Id {
		err = dns.ErrId
	}
	return m, err
}
