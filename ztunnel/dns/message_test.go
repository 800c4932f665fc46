package dns

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"

	"github.com/miekg/dns"
)

// pack is q on the wire.
func pack(t testing.TB, m *dns.Msg) []byte {
	t.Helper()
	raw, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// many returns n addresses.
func many(n int) (out []netip.Addr) {
	for i := range n {
		out = append(out, netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}))
	}
	return out
}

func TestAnswerSizes(t *testing.T) {
	for _, tt := range []struct {
		name      string
		addresses int
		edns      uint16 // 0: none
		udp       bool
		most      int
		truncated bool
	}{
		{"small", 3, 0, true, 512, false},
		{"large without EDNS", 100, 0, true, 512, true},
		{"EDNS has room", 60, 1232, true, 1232, false},
		{"EDNS has not enough room", 100, 1232, true, 1232, true},
		{"EDNS smaller than the least counts as the least", 20, 100, true, 512, false},
		{"EDNS of the largest size is bounded by us", 1024, 65535, true, 4096, true},
		{"TCP takes all", 1024, 0, false, 65535, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := new(dns.Msg).SetQuestion("big.shop.svc.cluster.local.", dns.TypeA)
			if tt.edns > 0 {
				in.SetEdns0(tt.edns, true)
			}
			q, ok := parseQuestion(pack(t, in))
			if !ok {
				t.Fatal("not a question")
			}
			raw, err := q.answer(in, Found{Addresses: many(tt.addresses)}, tt.udp)
			if err != nil {
				t.Fatal(err)
			}
			var out dns.Msg
			if err := out.Unpack(raw); err != nil {
				t.Fatal(err)
			}
			if len(raw) > tt.most || out.Truncated != tt.truncated {
				t.Errorf("%d bytes, truncated %v; want at most %d, %v", len(raw), out.Truncated, tt.most, tt.truncated)
			}
			if !tt.truncated && len(out.Answer) != tt.addresses {
				t.Errorf("%d addresses, want %d", len(out.Answer), tt.addresses)
			}
			if len(out.Answer) == 0 {
				t.Error("nothing was left: a resolver that knows no TCP would be lost")
			}
			opt := out.IsEdns0()
			if (opt != nil) != (tt.edns > 0) || opt != nil && !opt.Do() {
				t.Errorf("EDNS in the answer: %v", opt)
			}
		})
	}
}

func TestAnswerBits(t *testing.T) {
	in := new(dns.Msg).SetQuestion("API.example.com.shop.svc.cluster.local.", dns.TypeA)
	in.CheckingDisabled = true
	q, _ := parseQuestion(pack(t, in))
	raw, err := q.answer(in, Found{Alias: "api.example.com", Addresses: many(1)}, true)
	if err != nil {
		t.Fatal(err)
	}
	var out dns.Msg
	if err := out.Unpack(raw); err != nil {
		t.Fatal(err)
	}
	if !out.Authoritative || !out.RecursionAvailable || !out.RecursionDesired || !out.CheckingDisabled || out.Id != in.Id {
		t.Errorf("header %+v", out.MsgHdr)
	}
	got := fmt.Sprint(out.Answer[0], "; ", out.Answer[1])
	want := "API.example.com.shop.svc.cluster.local.\t30\tIN\tCNAME\tapi.example.com.; api.example.com.\t30\tIN\tA\t10.1.0.0"
	if got != want {
		t.Errorf("answer %q, want %q", got, want)
	}
	if out.Question[0].Name != in.Question[0].Name {
		t.Errorf("the question came back as %q: capitals are how some resolvers know their answers", out.Question[0].Name)
	}
}

func TestAnswerToUnknownEDNSVersion(t *testing.T) {
	in := new(dns.Msg).SetQuestion("db.", dns.TypeA)
	in.SetEdns0(1232, false)
	in.IsEdns0().SetVersion(1)
	q, _ := parseQuestion(pack(t, in))
	raw, err := q.answer(in, Found{Addresses: many(1)}, true)
	if err != nil {
		t.Fatal(err)
	}
	var out dns.Msg
	if err := out.Unpack(raw); err != nil || out.Rcode != dns.RcodeBadVers || len(out.Answer) > 0 {
		t.Errorf("answer %v, %v; want BADVERS", &out, err)
	}
}

func TestAnswers(t *testing.T) {
	in := new(dns.Msg).SetQuestion("db.test.", dns.TypeA)
	q, _ := parseQuestion(pack(t, in))
	for _, tt := range []struct {
		name   string
		change func(*dns.Msg)
		want   bool
	}{
		{"the answer", func(*dns.Msg) {}, true},
		{"in other letters", func(m *dns.Msg) { m.Question[0].Name = "DB.test." }, true},
		{"another id", func(m *dns.Msg) { m.Id++ }, false},
		{"a question", func(m *dns.Msg) { m.Response = false }, false},
		{"another name", func(m *dns.Msg) { m.Question[0].Name = "bd.test." }, false},
		{"another type", func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA }, false},
		{"another class", func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, false},
		{"another kind of message", func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }, false},
		{"success without the question", func(m *dns.Msg) { m.Question = nil }, false},
		{"failure without the question", func(m *dns.Msg) { m.Question, m.Rcode = nil, dns.RcodeFormatError }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := new(dns.Msg).SetReply(in)
			tt.change(m)
			if got := q.answers(pack(t, m), in.Id); got != tt.want {
				t.Errorf("answers = %v, want %v", got, tt.want)
			}
		})
	}
}

// FuzzQuestion: whatever a pod sends, we neither fall over nor answer what is
// not a question, and each answer of ours is a message that its own question
// would take.
func FuzzQuestion(f *testing.F) {
	q := new(dns.Msg).SetQuestion("db.shop.svc.cluster.local.", dns.TypeAAAA)
	f.Add(pack(f, q))
	q.SetEdns0(1232, true)
	f.Add(pack(f, q))
	f.Add(pack(f, new(dns.Msg).SetUpdate("example.com.")))
	f.Add(append(pack(f, q), 0xc0, 0x0c))
	f.Fuzz(func(t *testing.T, raw []byte) {
		q, ok := parseQuestion(raw)
		if !ok {
			return
		}
		if out := q.failure(dns.RcodeServerFailure); out != nil && !q.answers(out, q.id) {
			t.Errorf("failure %x is not an answer to %x", out, raw)
		}
		_ = q.kindName()
		if !q.forAddresses() {
			return
		}
		_ = Names{}.Lookup(store(t).Snapshot(), Client{Namespace: "shop"}, q.name, false)
		in, _, err := q.understand()
		if err != nil {
			return
		}
		for _, udp := range []bool{true, false} {
			out, err := q.answer(in, Found{Alias: "x.test", Addresses: many(40)}, udp)
			if err != nil {
				continue
			}
			if !q.answers(out, q.id) {
				t.Errorf("answer %x is not an answer to %x", out, raw)
			}
			if udp && len(out) > largestAnswer {
				t.Errorf("%d bytes over UDP", len(out))
			}
		}
	})
}

// FuzzAnswers: only a message with the id is ever taken for an answer.
func FuzzAnswers(f *testing.F) {
	in := new(dns.Msg).SetQuestion("db.test.", dns.TypeA)
	q, _ := parseQuestion(pack(f, in))
	f.Add(pack(f, new(dns.Msg).SetReply(in)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if !q.answers(raw, 7) {
			return
		}
		if raw[0] != 0 || raw[1] != 7 || raw[2]&flagResponse == 0 {
			t.Errorf("taken for an answer: %x", raw)
		}
		if out := withID(raw, 9); !bytes.Equal(out[2:], raw[2:]) || out[1] != 9 {
			t.Errorf("withID changed more than the id: %x", out)
		}
	})
}
