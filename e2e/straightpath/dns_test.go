package straightpath

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/ztunnel"
)

// resolver is the DNS of the cluster, outside the mesh: it knows one name, and
// says of others that they are not there.
type resolver struct {
	m    *mesh
	mu   sync.Mutex
	from []string // "name asker", of each question
}

// resolver starts one in the fabric, at 10.1.0.1 and fd00::53.
func (m *mesh) resolver() *resolver {
	m.t.Helper()
	r := &resolver{m: m}
	for _, ip := range []string{"10.1.0.1", "fd00::53"} {
		at := netip.AddrPortFrom(netip.MustParseAddr(ip), 53)
		udp, err := m.fabric.ListenPacket(m.t.Context(), at, netns.SocketOptions{NoMark: true})
		if err != nil {
			m.t.Fatal(err)
		}
		tcp, err := m.fabric.Listen(m.t.Context(), "tcp", at, netns.SocketOptions{NoMark: true})
		if err != nil {
			m.t.Fatal(err)
		}
		for _, s := range []*dns.Server{{PacketConn: udp.UDPConn}, {Listener: tcp}} {
			s.Handler = dns.HandlerFunc(r.serve)
			up, done := make(chan struct{}), make(chan struct{})
			s.NotifyStartedFunc = func() { close(up) }
			go func() {
				defer close(done)
				if err := s.ActivateAndServe(); err != nil {
					m.t.Errorf("resolver: %v", err)
				}
			}()
			<-up
			m.t.Cleanup(func() { _ = s.Shutdown(); <-done })
		}
	}
	return r
}

func (r *resolver) serve(w dns.ResponseWriter, q *dns.Msg) {
	host, _, err := net.SplitHostPort(w.RemoteAddr().String())
	if err != nil {
		r.m.t.Errorf("resolver: %v", err)
	}
	name := q.Question[0].Name
	r.mu.Lock()
	r.from = append(r.from, name+" "+host)
	r.mu.Unlock()
	m := new(dns.Msg).SetReply(q)
	switch {
	case name != "outside.test.":
		m.Rcode = dns.RcodeNameError
	case q.Question[0].Qtype == dns.TypeA && w.RemoteAddr().Network() == "udp":
		m.Truncated = true // it wants to be asked over TCP
	case q.Question[0].Qtype == dns.TypeA:
		for i := range 500 {
			m.Answer = append(m.Answer, &dns.A{
				Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1},
				A:   net.IPv4(192, 0, byte(i>>8), byte(i)),
			})
		}
		m.Compress = true
	}
	_ = w.WriteMsg(m)
}

// asked returns who has asked for name.
func (r *resolver) asked(name string) (out []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, q := range r.from {
		if who, ok := strings.CutPrefix(q, name+" "); ok {
			out = append(out, who)
		}
	}
	return out
}

// askDNS asks server for name as an application in p would.
func (p *pod) askDNS(network, server, name string, kind uint16) (*dns.Msg, error) {
	to := netip.AddrPortFrom(netip.MustParseAddr(server), 53)
	var c net.Conn
	var err error
	if network == "tcp" {
		c, err = p.dial(to)
	} else {
		c, err = p.ns.DialPacket(to, netns.SocketOptions{NoMark: true})
	}
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	co := &dns.Conn{Conn: c, UDPSize: 4096}
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), kind)
	if err := co.WriteMsg(q); err != nil {
		return nil, err
	}
	m, err := co.ReadMsg()
	if err == nil && m.Id != q.Id {
		err = dns.ErrId
	}
	return m, err
}

// wantName asks for name and wants these addresses, or a code when there is only
// one word in capitals.
func (p *pod) wantName(network, server, name string, kind uint16, want ...string) {
	p.m.t.Helper()
	m, err := p.askDNS(network, server, name, kind)
	if err != nil {
		p.m.t.Fatalf("%s asks %s for %s over %s: %v", p.name, server, name, network, err)
	}
	var got []string
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			got = append(got, rr.A.String())
		case *dns.AAAA:
			got = append(got, rr.AAAA.String())
		}
	}
	if m.Rcode != dns.RcodeSuccess {
		got = []string{dns.RcodeToString[m.Rcode]}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		p.m.t.Errorf("%s asks %s for %s over %s: %v, want %v", p.name, server, name, network, got, want)
	}
}

// knowsHost waits until the ztunnel of n knows a service of that name.
func (n *node) knowsHost(host string) {
	n.m.t.Helper()
	eventually(n.m.t, n.name+" knows "+host, func() error {
		for _, s := range n.z.dump(n.m.t).Services {
			if s.Hostname == host {
				return nil
			}
		}
		return errors.New("it does not")
	})
}

// entry is a ServiceEntry whose name only the mesh knows.
const entry = `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {namespace: shop, name: api}
spec:
  hosts: [api.example.test]
  addresses: [240.240.0.9]
  ports: [{number: 80, name: http, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 10.1.0.77}]
`

func TestDNS(t *testing.T) {
	m := newMesh(t)
	r := m.resolver()
	n := m.node("n1")
	client, outsider := m.enrolled(n, "client"), m.pod(n, "outsider")
	server := m.enrolled(n, "server")
	vip := m.service("server", 80, "8080", 1)
	m.apply("entry", entry)
	n.knowsHost("api.example.test")
	const fqdn = "server.shop.svc.cluster.local"
	for _, via := range []string{"10.1.0.1", "fd00::53"} {
		for _, network := range []string{"udp", "tcp"} {
			client.wantName(network, via, fqdn, dns.TypeA, vip.Addr().String())
			client.wantName(network, via, fqdn, dns.TypeAAAA)
			client.wantName(network, via, "api.example.test", dns.TypeA, "240.240.0.9")
			client.wantName(network, via, "api.example.test.shop.svc.cluster.local", dns.TypeA, "240.240.0.9")
			client.wantName(network, via, "nowhere.test", dns.TypeA, "NXDOMAIN")
		}
		if msg, err := client.askDNS("udp", via, "outside.test", dns.TypeA); err != nil || !msg.Truncated {
			t.Errorf("truncated answer by %s: %v, %v", via, msg, err)
		}
		if msg, err := client.askDNS("tcp", via, "outside.test", dns.TypeA); err != nil || len(msg.Answer) != 500 {
			t.Errorf("large response over TCP by %s: %v", via, err)
		}
	}
	if asked := r.asked(fqdn + "."); len(asked) > 0 {
		t.Errorf("the cluster's resolver was asked for a service by %v", asked)
	}
	// What is handed on comes from the pod itself, over the family that it used.
	want := []string{client.ip.String(), client.ip.String(), client.ip6.String(), client.ip6.String()}
	if got := r.asked("nowhere.test."); !slices.Equal(got, want) {
		t.Errorf("handed on from %v, want %v", got, want)
	}
	// A pod outside the mesh is left alone.
	outsider.wantName("udp", "10.1.0.1", "api.example.test", dns.TypeA, "NXDOMAIN")

	server.echo(8080)
	client.connect(vip).wantEcho("by the address that was answered")
	if v := n.z.metric(t, "istio_dns_requests_total", `request_protocol="udp"`, `request_query_type="a"`); v != 10 {
		t.Errorf("counted %v questions for A over UDP, want 10", v)
	}
}

// Two ztunnels stand in a pod for a while. None of its questions is lost when the
// old one goes.
func TestDNSHandOver(t *testing.T) {
	m := newMesh(t)
	m.resolver()
	n := m.node("n1")
	client := m.enrolled(n, "client")
	stop := make(chan struct{})
	asked := make(chan error, 1)
	go func() {
		defer close(asked)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			network := []string{"udp", "tcp"}[i%2]
			if msg, err := client.askDNS(network, "10.1.0.1", "nowhere.test", dns.TypeA); err != nil || msg.Rcode != dns.RcodeNameError {
				asked <- fmt.Errorf("question %d over %s: %v, %w", i, network, msg, err)
				return
			}
		}
	}()
	for range 5 {
		old := n.z
		n.z = n.start()
		n.z.ready(t)
		eventually(t, "the new ztunnel serves the pod", func() error {
			if n.z.metric(t, "istio_dns_requests_total") == 0 {
				return fmt.Errorf("no question yet")
			}
			return nil
		})
		old.stop()
		<-old.done
	}
	close(stop)
	if err := <-asked; err != nil {
		t.Error(err)
	}
}

// An endpoint that is known by its name only is looked up by the node's ztunnel.
func TestEndpointKnownByNameOnly(t *testing.T) {
	m := newMesh(t)
	// A resolver of the node, on an address of loopback that nobody else has.
	at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 53, byte(rand.N(256)), byte(1 + rand.N(254))}), 53)
	pc, err := net.ListenPacket("udp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	outside := m.pod(nil, "outside")
	outside.echo(8080)
	up, done := make(chan struct{}), make(chan struct{})
	s := &dns.Server{PacketConn: pc, NotifyStartedFunc: func() { close(up) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		msg := new(dns.Msg).SetReply(q)
		if name := q.Question[0].Name; name == "db.example.test." && q.Question[0].Qtype == dns.TypeA {
			msg.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: outside.ip.AsSlice()}}
		}
		_ = w.WriteMsg(msg)
	})}
	go func() {
		defer close(done)
		if err := s.ActivateAndServe(); err != nil {
			t.Errorf("resolver: %v", err)
		}
	}()
	<-up
	t.Cleanup(func() { _ = s.Shutdown(); <-done })
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver "+at.Addr().String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n := m.node("n1", func(c *ztunnel.Config) { c.DNS.ResolvConf = conf })
	client := m.enrolled(n, "client")
	m.apply("entry", `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {namespace: shop, name: db}
spec:
  hosts: [db.example.test]
  addresses: [240.240.0.9]
  ports: [{number: 80, name: tcp, protocol: TCP, targetPort: 8080}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {namespace: shop, name: nowhere}
spec:
  hosts: [nowhere.example.test]
  addresses: [240.240.0.10]
  ports: [{number: 80, name: tcp, protocol: TCP}]
  resolution: DNS
`)
	n.knowsHost("db.example.test")
	n.knowsHost("nowhere.example.test")
	client.connect(netip.MustParseAddrPort("240.240.0.9:80")).wantEcho("by name")
	client.wantRefused(netip.MustParseAddrPort("240.240.0.10:80"))
	n.z.wantAccess(t, "address of nowhere.example.test", "the resolver of this node's ztunnel pod has to know it")
}
