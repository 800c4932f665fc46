package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"

	"github.com/ambit-mesh/ambit/internal/meshapi/workloadapi"
	"github.com/ambit-mesh/ambit/internal/workload"
)

// town is a picture with a service that only the mesh knows.
func town(t *testing.T) *workload.Store {
	canonical := func(s *workloadapi.Service) { s.Canonical = true }
	return store(t, asking(),
		service("shop", "db.shop.svc.cluster.local", canonical, "10.96.0.1", "fd00::1"),
		service("shop", "api.example.com", nil, "240.240.0.1"))
}

// records are the answers of m without their TTL, sorted.
func records(m *dns.Msg) string {
	var out []string
	for _, rr := range m.Answer {
		f := strings.Fields(rr.String())
		out = append(out, strings.Join(append(f[:1:1], f[3:]...), " "))
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

func TestAnsweredFromThePicture(t *testing.T) {
	b := newBench(t, town(t))
	for _, network := range []string{"udp", "tcp"} {
		for _, tt := range []struct {
			name string
			kind uint16
			want string
		}{
			{"db.shop.svc.cluster.local", dns.TypeA, "db.shop.svc.cluster.local. A 10.96.0.1"},
			{"db.shop.svc.cluster.local", dns.TypeAAAA, "db.shop.svc.cluster.local. AAAA fd00::1"},
			{"api.example.com", dns.TypeA, "api.example.com. A 240.240.0.1"},
			{"api.example.com", dns.TypeAAAA, ""},
			{
				"api.example.com.shop.svc.cluster.local", dns.TypeA,
				"api.example.com. A 240.240.0.1; api.example.com.shop.svc.cluster.local. CNAME api.example.com.",
			},
		} {
			m := b.ask(network, tt.name, tt.kind)
			if got := records(m); got != tt.want || m.Rcode != dns.RcodeSuccess {
				t.Errorf("%s %s: %q, %s; want %q", network, tt.name, got, dns.RcodeToString[m.Rcode], tt.want)
			}
		}
	}
	if seen := b.up.asked(); len(seen) > 0 {
		t.Errorf("upstream was asked %q", seen)
	}
}

func TestHandedOnUnchanged(t *testing.T) {
	b := newBench(t, town(t))
	b.up.answer(func(q *dns.Msg) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		switch q.Question[0].Qtype {
		case dns.TypeTXT:
			m.Answer = []dns.RR{&dns.TXT{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeTXT, Class: 1}, Txt: []string{"hello"}}}
		case dns.TypeA:
			m.Rcode = dns.RcodeNameError
		case dns.TypeAAAA:
			m.Rcode = dns.RcodeRefused
		}
		if opt := q.IsEdns0(); opt != nil {
			m.SetEdns0(opt.UDPSize(), opt.Do())
		}
		return m
	})
	for _, network := range []string{"udp", "tcp"} {
		// A type that we know nothing of, of a name that we do know.
		if got := records(b.ask(network, "api.example.com", dns.TypeTXT)); got != `api.example.com. TXT "hello"` {
			t.Errorf("%s TXT: %q", network, got)
		}
		if m := b.ask(network, "www.example.org", dns.TypeA); m.Rcode != dns.RcodeNameError {
			t.Errorf("%s: forwarded NXDOMAIN came as %s", network, dns.RcodeToString[m.Rcode])
		}
		if m := b.ask(network, "www.example.org", dns.TypeAAAA); m.Rcode != dns.RcodeRefused {
			t.Errorf("%s: forwarded failure came as %s", network, dns.RcodeToString[m.Rcode])
		}
		m := b.ask(network, "api.example.com", dns.TypeTXT, func(q *dns.Msg) { q.SetEdns0(1400, true) })
		if opt := m.IsEdns0(); opt == nil || opt.UDPSize() != 1400 || !opt.Do() {
			t.Errorf("%s: EDNS came back as %v", network, opt)
		}
		// An answer of ours would not be believed by who signs.
		if m := b.ask(network, "api.example.com", dns.TypeA, signed); m.Rcode != dns.RcodeNameError {
			t.Errorf("%s: signed question answered with %v", network, m)
		}
		if m := b.ask(network, "example.com", dns.TypeSOA, func(q *dns.Msg) { q.Opcode = dns.OpcodeUpdate }); m.Opcode != dns.OpcodeUpdate || m.Rcode != dns.RcodeSuccess {
			t.Errorf("%s: update answered with %v", network, m)
		}
	}
	if seen := b.up.asked(); len(seen) != 12 {
		t.Errorf("upstream was asked %d times, want 12: %q", len(seen), seen)
	}
}

// signed adds a signature, which nobody here checks.
func signed(q *dns.Msg) {
	q.Extra = append(q.Extra, &dns.TSIG{
		Hdr: dns.RR_Header{Name: "key.", Rrtype: dns.TypeTSIG, Class: dns.ClassANY}, Algorithm: dns.HmacSHA256,
		TimeSigned: 1, Fudge: 300, OrigId: q.Id,
	})
}

func TestLargeResponseTCP(t *testing.T) {
	b := newBench(t, town(t))
	b.up.answer(func(q *dns.Msg) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		for i := range 2000 {
			m.Answer = append(m.Answer, addressRecord(q.Question[0].Name, netip.AddrFrom4([4]byte{10, 2, byte(i >> 8), byte(i)})))
		}
		m.Compress = true
		return m
	})
	if m := b.ask("tcp", "big.example.org", dns.TypeA); len(m.Answer) != 2000 {
		t.Errorf("%d addresses over TCP, want 2000", len(m.Answer))
	}
	b.up.answer(func(q *dns.Msg) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		m.Truncated = true
		return m
	})
	if m := b.ask("udp", "big.example.org", dns.TypeA); !m.Truncated {
		t.Error("upstream's truncation was lost")
	}
}

func TestSeveralQuestionsOnOneStream(t *testing.T) {
	b := newBench(t, town(t))
	c, err := net.Dial("tcp", b.tcp)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(soon)); err != nil {
		t.Fatal(err)
	}
	co := &dns.Conn{Conn: c}
	for i := range 3 { // all at once
		q := new(dns.Msg).SetQuestion("db.shop.svc.cluster.local.", dns.TypeA)
		q.Id = uint16(i)
		if err := co.WriteMsg(q); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		m, err := co.ReadMsg()
		if err != nil || m.Id != uint16(i) || len(m.Answer) != 1 {
			t.Fatalf("answer %d: %v, %v", i, m, err)
		}
	}
}

func TestZoneTransferIsRelayed(t *testing.T) {
	soa, err := dns.NewRR("example.org. 60 IN SOA ns.example.org. me.example.org. 1 2 3 4 5")
	if err != nil {
		t.Fatal(err)
	}
	transfer := make(chan error, 1)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	b := newBench(t, town(t), func(_ *Config, _ *Pod, _ *Deps, up *upstream) { up.addr = ln.Addr().(*net.TCPAddr).AddrPort() })
	go func() { // two messages, as a zone of some size has
		c, err := ln.Accept()
		if err != nil {
			transfer <- err
			return
		}
		defer c.Close()
		co := &dns.Conn{Conn: c}
		q, err := co.ReadMsg()
		for range 2 {
			if err == nil {
				m := new(dns.Msg).SetReply(q)
				m.Answer = []dns.RR{soa}
				err = co.WriteMsg(m)
			}
		}
		transfer <- err
	}()
	q := new(dns.Msg).SetAxfr("example.org.")
	env, err := new(dns.Transfer).In(q, b.tcp)
	if err != nil {
		t.Fatal(err)
	}
	got := 0
	for e := range env {
		if e.Error != nil {
			t.Fatal(e.Error)
		}
		got += len(e.RR)
	}
	if err := <-transfer; err != nil || got != 2 {
		t.Errorf("%d records, %v; want both messages", got, err)
	}
}

// A zone transfer for a pod that nobody has told of is refused, and takes no place of
// those that wait for upstream: of the pod or of the node.
func TestZoneTransferOfAnUnknownPod(t *testing.T) {
	budget := NewBudget()
	b := newBench(t, store(t), func(_ *Config, _ *Pod, d *Deps, _ *upstream) { d.Budget = budget })
	for range 3 {
		env, err := new(dns.Transfer).In(new(dns.Msg).SetAxfr("example.org."), b.tcp)
		if err != nil {
			t.Fatal(err)
		}
		for e := range env {
			if e.Error == nil {
				t.Errorf("got %d records, want the end", len(e.RR))
			}
		}
	}
	b.leave()
	<-b.done
	if pod, node := len(b.waiting), len(budget.slots); pod != 0 || node != 0 {
		t.Errorf("%d places of the pod and %d of the node are taken for ever", pod, node)
	}
}

func TestUnknownClientServFail(t *testing.T) {
	b := newBench(t, store(t, service("shop", "db.shop.svc.cluster.local", nil, "10.96.0.1")))
	if m := b.ask("udp", "db.shop.svc.cluster.local", dns.TypeA); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("unknown client got %s", dns.RcodeToString[m.Rcode])
	}
	if seen := b.up.asked(); len(seen) > 0 {
		t.Errorf("upstream was asked %q", seen)
	}
}

func TestClientKnownByTheAgentOnly(t *testing.T) {
	state := store(t, service("shop", "db.shop.svc.cluster.local", func(s *workloadapi.Service) {
		s.Addresses = []*workloadapi.NetworkAddress{{Network: "mine", Address: []byte{10, 96, 0, 1}}}
	}))
	state.Seed(workload.LocalWorkload{UID: "1", Name: "web", Namespace: "shop", ServiceAccount: "default"})
	b := newBench(t, state, func(c *Config, _ *Pod, _ *Deps, _ *upstream) { c.Network = "mine" })
	if got := records(b.ask("udp", "db", dns.TypeA)); got != "db. A 10.96.0.1" {
		t.Errorf("a pod that only the agent knows got %q", got)
	}
}

func TestWhomToAsk(t *testing.T) {
	unknown := func(netip.AddrPort, netip.AddrPort) (netip.AddrPort, error) {
		return netip.AddrPort{}, errors.New("not known")
	}
	ourselves := func(_, local netip.AddrPort) (netip.AddrPort, error) { return local, nil }
	for _, tt := range []struct {
		name     string
		asked    func(client, local netip.AddrPort) (netip.AddrPort, error)
		fallback bool
		want     int
	}{
		{"whom the pod has asked", nil, false, dns.RcodeNameError},
		{"not known: our own resolver", unknown, true, dns.RcodeNameError},
		{"not known, and no resolver", unknown, false, dns.RcodeServerFailure},
		{"ourselves: our own resolver", ourselves, true, dns.RcodeNameError},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, town(t), func(_ *Config, p *Pod, d *Deps, up *upstream) {
				if tt.asked != nil {
					p.Asked = tt.asked
				}
				if tt.fallback {
					d.Fallback = func() ([]netip.AddrPort, error) { return []netip.AddrPort{up.addr}, nil }
				}
			})
			if m := b.ask("udp", "www.example.org", dns.TypeA); m.Rcode != tt.want {
				t.Errorf("%s, want %s", dns.RcodeToString[m.Rcode], dns.RcodeToString[tt.want])
			}
		})
	}
}

func TestSecondResolverWhenTheFirstIsAway(t *testing.T) {
	gone, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	away := gone.LocalAddr().(*net.UDPAddr).AddrPort()
	gone.Close()
	b := newBench(t, town(t), func(_ *Config, p *Pod, d *Deps, up *upstream) {
		p.Asked = func(_, _ netip.AddrPort) (netip.AddrPort, error) { return netip.AddrPort{}, errors.New("not known") }
		d.Fallback = func() ([]netip.AddrPort, error) { return []netip.AddrPort{away, up.addr}, nil }
	})
	if m := b.ask("udp", "www.example.org", dns.TypeA); m.Rcode != dns.RcodeNameError {
		t.Errorf("%s, want the second one's NXDOMAIN", dns.RcodeToString[m.Rcode])
	}
}

func TestUpstreamSilent(t *testing.T) {
	b := newBench(t, town(t), func(c *Config, _ *Pod, _ *Deps, _ *upstream) { c.Patience = 50 * time.Millisecond })
	b.up.answer(func(*dns.Msg) *dns.Msg { return nil })
	for _, network := range []string{"udp", "tcp"} {
		if m := b.ask(network, "www.example.org", dns.TypeA); m.Rcode != dns.RcodeServerFailure {
			t.Errorf("%s: %s, want SERVFAIL", network, dns.RcodeToString[m.Rcode])
		}
	}
	if n, err := testutil.GatherAndCount(b.reg, "istio_dns_upstream_failures_total"); n != 2 || err != nil {
		t.Errorf("failures were counted for %d protocols, %v; want 2", n, err)
	}
}

// A guesser sends answers with every id but one, from the right address; the
// true answer comes last.
func TestGuessedAnswersAreNotTaken(t *testing.T) {
	guesser, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer guesser.Close()
	for _, tt := range []struct {
		name    string
		guesses int
		want    int
	}{
		{"some", mostStrangers / 2, dns.RcodeSuccess},
		{"a flood", mostStrangers, dns.RcodeServerFailure},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, town(t), func(_ *Config, _ *Pod, _ *Deps, up *upstream) {
				up.addr = guesser.LocalAddr().(*net.UDPAddr).AddrPort()
			})
			done := make(chan error, 1)
			go func() { done <- guess(guesser, tt.guesses) }()
			m := b.ask("udp", "www.example.org", dns.TypeA)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if m.Rcode != tt.want {
				t.Errorf("%s, want %s", dns.RcodeToString[m.Rcode], dns.RcodeToString[tt.want])
			}
			if tt.want == dns.RcodeSuccess && records(m) != "www.example.org. A 10.9.9.9" {
				t.Errorf("taken for the answer: %q", records(m))
			}
		})
	}
}

// guess answers one question with n wrong ids, and then rightly.
func guess(c net.PacketConn, n int) error {
	if err := c.SetDeadline(time.Now().Add(soon)); err != nil {
		return err
	}
	buf := make([]byte, 512)
	size, from, err := c.ReadFrom(buf)
	if err != nil {
		return err
	}
	var q dns.Msg
	if err := q.Unpack(buf[:size]); err != nil {
		return err
	}
	for i := range n + 1 {
		m := new(dns.Msg).SetReply(&q)
		addr := netip.MustParseAddr("10.6.6.6")
		if i < n {
			m.Id += uint16(i + 1)
		} else {
			addr = netip.MustParseAddr("10.9.9.9")
		}
		m.Answer = []dns.RR{addressRecord(q.Question[0].Name, addr)}
		raw, err := m.Pack()
		if err != nil {
			return err
		}
		if _, err := c.WriteTo(raw, from); err != nil {
			return err
		}
	}
	return nil
}

// Each question goes out with an id and from a port of its own.
func TestIdsAndPortsDiffer(t *testing.T) {
	ports := make(chan string, 16)
	b := newBench(t, town(t), func(_ *Config, p *Pod, _ *Deps, _ *upstream) {
		dial := p.Dial
		p.Dial = func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
			c, err := dial(ctx, network, to)
			if err == nil {
				ports <- c.LocalAddr().String()
			}
			return c, err
		}
	})
	ids := make(chan uint16, 16)
	b.up.answer(func(q *dns.Msg) *dns.Msg { ids <- q.Id; return new(dns.Msg).SetReply(q) })
	seenIDs, seenPorts := map[uint16]bool{}, map[string]bool{}
	for range 8 {
		b.ask("udp", "www.example.org", dns.TypeA, func(q *dns.Msg) { q.Id = 42 })
		seenIDs[<-ids] = true
		seenPorts[<-ports] = true
	}
	if len(seenIDs) < 7 || len(seenPorts) < 2 {
		t.Errorf("%d ids and %d ports for 8 questions: they can be guessed", len(seenIDs), len(seenPorts))
	}
}

func TestBusy(t *testing.T) {
	b := newBench(t, town(t))
	for range podQuestions { // as many as may wait
		if _, err := b.enter(); err != nil {
			t.Fatal(err)
		}
	}
	for _, network := range []string{"udp", "tcp"} {
		if m := b.ask(network, "www.example.org", dns.TypeA); m.Rcode != dns.RcodeServerFailure {
			t.Errorf("%s: %s, want SERVFAIL", network, dns.RcodeToString[m.Rcode])
		}
		// What the picture knows needs no room.
		if got := records(b.ask(network, "api.example.com", dns.TypeA)); got == "" {
			t.Errorf("%s: no answer from the picture", network)
		}
	}
	if seen := b.up.asked(); len(seen) > 0 {
		t.Errorf("upstream was asked %q", seen)
	}
}

func TestBudgetIsShared(t *testing.T) {
	budget := NewBudget()
	for range nodeQuestions {
		budget.slots <- struct{}{}
	}
	b := newBench(t, town(t), func(_ *Config, _ *Pod, d *Deps, up *upstream) { d.Budget = budget })
	if _, err := b.enter(); !errors.Is(err, errBusy) {
		t.Errorf("enter with the node's budget used up: %v", err)
	}
	if len(b.waiting) > 0 {
		t.Error("the pod's own place was kept")
	}
}

func TestBeforeTheFirstPicture(t *testing.T) {
	acked := make(chan struct{})
	b := newBench(t, town(t), func(_ *Config, _ *Pod, d *Deps, up *upstream) { d.Acked = acked })
	answered := make(chan string, 1)
	go func() { answered <- records(b.ask("udp", "api.example.com", dns.TypeA)) }()
	select {
	case got := <-answered:
		t.Fatalf("answered %q before the picture was there", got)
	case <-time.After(50 * time.Millisecond):
	}
	close(acked)
	if got := <-answered; got != "api.example.com. A 240.240.0.1" {
		t.Errorf("answered %q", got)
	}
}

func TestNoPictureInTime(t *testing.T) {
	b := newBench(t, town(t), func(_ *Config, _ *Pod, d *Deps, up *upstream) { d.Acked = nil })
	b.up.answer(func(q *dns.Msg) *dns.Msg { return new(dns.Msg).SetReply(q) })
	if m := b.ask("udp", "www.example.org", dns.TypeA); m.Rcode != dns.RcodeSuccess {
		t.Errorf("without a control plane: %s", dns.RcodeToString[m.Rcode])
	}
}

func TestSilenceAndRefusals(t *testing.T) {
	b := newBench(t, town(t))
	c, err := net.Dial("udp", b.udp)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	good := pack(t, new(dns.Msg).SetQuestion("db.shop.svc.cluster.local.", dns.TypeA))
	answer := slices.Clone(good)
	answer[2] |= flagResponse
	for _, tt := range []struct {
		name string
		raw  []byte
		want string // the code of the answer; "" is silence
	}{
		{"empty", nil, ""},
		{"half a header", good[:7], ""},
		{"an answer", answer, ""},
		{"cut in the middle of a record", append(slices.Concat(good[:10], []byte{0, 1}, good[12:]), 0, 0, 41), "FORMERR"},
		{"too large", append(slices.Clone(good), make([]byte, largestQuestion)...), "FORMERR"},
		{"good", good, "NOERROR"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := c.Write(tt.raw); err != nil {
				t.Fatal(err)
			}
			// What is answered after it shows that it was met with silence.
			if _, err := c.Write(good); err != nil {
				t.Fatal(err)
			}
			want := []string{tt.want, "NOERROR"}
			if tt.want == "" {
				want = want[1:]
			}
			for _, w := range want {
				buf := make([]byte, 4096)
				if err := c.SetReadDeadline(time.Now().Add(soon)); err != nil {
					t.Fatal(err)
				}
				n, err := c.Read(buf)
				if err != nil {
					t.Fatal(err)
				}
				if got := dns.RcodeToString[int(buf[:n][3]&0xf)]; got != w {
					t.Errorf("answered %s, want %s", got, w)
				}
			}
		})
	}
}

// What is under way when the proxy is asked to end is answered; what would take
// longer than its life is not waited for.
func TestDrain(t *testing.T) {
	b := newBench(t, town(t))
	arrived, say := make(chan struct{}), make(chan struct{})
	b.up.answer(func(q *dns.Msg) *dns.Msg {
		close(arrived)
		<-say
		return new(dns.Msg).SetReply(q)
	})
	answered := make(chan int, 1)
	go func() { answered <- b.ask("udp", "www.example.org", dns.TypeA).Rcode }()
	<-arrived
	b.leave()
	close(say)
	if code := <-answered; code != dns.RcodeSuccess {
		t.Errorf("a question under way was answered with %s", dns.RcodeToString[code])
	}
	<-b.done
}

func TestCut(t *testing.T) {
	b := newBench(t, town(t))
	arrived, say := make(chan struct{}), make(chan struct{})
	defer close(say)
	b.up.answer(func(*dns.Msg) *dns.Msg {
		close(arrived)
		<-say
		return nil
	})
	c, err := net.Dial("tcp", b.tcp)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := (&dns.Conn{Conn: c}).WriteMsg(new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA)); err != nil {
		t.Fatal(err)
	}
	<-arrived
	b.leave()
	b.cut(errors.New("the pod is gone"))
	select {
	case <-b.done:
	case <-time.After(soon):
		t.Fatal("a question that nobody answers holds the end up")
	}
}

func TestStreamsAreBounded(t *testing.T) {
	b := newBench(t, town(t))
	for range podStreams {
		b.streams <- struct{}{}
	}
	q := new(dns.Msg).SetQuestion("db.", dns.TypeA)
	if _, _, err := (&dns.Client{Net: "tcp", Timeout: soon}).Exchange(q, b.tcp); err == nil {
		t.Error("one stream more than may be was served")
	}
}

func TestMetrics(t *testing.T) {
	b := newBench(t, town(t))
	b.ask("udp", "db", dns.TypeA)
	b.ask("udp", "www.example.org", dns.TypeA)
	b.ask("udp", "www.example.org", 65280) // a type without a name
	for _, tt := range []struct{ metric, labels string }{
		{"istio_dns_requests_total", `{request_protocol="udp",request_query_type="a",source_canonical_revision="v1",source_canonical_service="web"} 2`},
		{"istio_dns_requests_total", `{request_protocol="udp",request_query_type="unknown",source_canonical_revision="v1",source_canonical_service="web"} 1`},
		{"istio_dns_upstream_requests_total", `{request_protocol="udp",request_query_type="a",source_canonical_revision="v1",source_canonical_service="web"} 1`},
	} {
		text, err := testutil.CollectAndFormat(b.reg, expfmt.TypeTextPlain, tt.metric)
		if err != nil || !strings.Contains(string(text), tt.metric+tt.labels) {
			t.Errorf("no %s%s in:\n%s (%v)", tt.metric, tt.labels, text, err)
		}
	}
}

func TestResolvers(t *testing.T) {
	path := t.TempDir() + "/resolv.conf"
	write(t, path, "# us\nnameserver 10.96.0.10\nnameserver fd00::a\nsearch shop.svc.cluster.local\noptions ndots:5\n")
	got, err := Resolvers(path)
	if want := "[10.96.0.10:53 [fd00::a]:53]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("Resolvers = %v, %v; want %s", got, err, want)
	}
	write(t, path, "nameserver example.com\n")
	if got, err := Resolvers(path); err == nil || !strings.Contains(err.Error(), "example.com") {
		t.Errorf("a name in place of an address: %v, %v", got, err)
	}
	if _, err := Resolvers(path + ".not"); err == nil {
		t.Error("no file is no error")
	}
}

// write makes a file.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
