package dns

import (
	"encoding/binary"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// question is one message of a pod, as far as it has to be understood.
type question struct {
	raw    []byte
	id     uint16
	opcode int

	// The only question of the message; asked is false when there is none, or
	// not one.
	asked bool
	name  string // as it was written, with the last dot
	kind  uint16
	class uint16
}

// headerSize is the size of the header of a message. Source: RFC 1035, section
// 4.1.1.
const headerSize = 12

// flagResponse is QR in the third byte of the header.
const flagResponse = 0x80

// parseQuestion reads raw. It reports whether it is a message that deserves an
// answer at all: a whole header, and not itself an answer.
func parseQuestion(raw []byte) (question, bool) {
	if len(raw) < headerSize || raw[2]&flagResponse != 0 {
		return question{}, false
	}
	q := question{raw: raw, id: binary.BigEndian.Uint16(raw), opcode: int(raw[2]>>3) & 0xf}
	if binary.BigEndian.Uint16(raw[4:]) != 1 {
		return q, true
	}
	name, off, err := dns.UnpackDomainName(raw, headerSize)
	if err != nil || off+4 > len(raw) {
		return q, true
	}
	q.asked, q.name = true, name
	q.kind, q.class = binary.BigEndian.Uint16(raw[off:]), binary.BigEndian.Uint16(raw[off+2:])
	return q, true
}

// forAddresses reports whether q asks for something that the picture may know.
func (q *question) forAddresses() bool {
	return q.opcode == dns.OpcodeQuery && q.asked && q.class == dns.ClassINET &&
		(q.kind == dns.TypeA || q.kind == dns.TypeAAAA)
}

// transfer reports whether the answer to q is a stream of messages.
func (q *question) transfer() bool {
	return q.opcode == dns.OpcodeQuery && q.asked && (q.kind == dns.TypeAXFR || q.kind == dns.TypeIXFR)
}

// kindName is the label of q in the metrics. Types without a name share one, or
// a pod could make as many series as there are numbers.
func (q *question) kindName() string {
	if name, ok := dns.TypeToString[q.kind]; ok && q.asked {
		return strings.ToLower(name)
	}
	return "unknown"
}

// smallAnswer is how large an answer everybody takes over UDP. Source: RFC 1035,
// section 2.3.4.
const smallAnswer = 512

// understand reads the whole message. signed says that an answer of ours would
// not be believed.
func (q *question) understand() (m *dns.Msg, signed bool, err error) {
	m = new(dns.Msg)
	if err := m.Unpack(q.raw); err != nil {
		return nil, false, err
	}
	return m, m.IsTsig() != nil, nil
}

// answer writes what was found for q, which in is all of. Over UDP what the
// asker has no room for is left out, and the message says so.
func (q *question) answer(in *dns.Msg, f Found, udp bool) ([]byte, error) {
	var m dns.Msg
	m.SetRcode(in, dns.RcodeSuccess)
	m.Authoritative, m.RecursionAvailable, m.Compress = true, true, true
	m.CheckingDisabled = in.CheckingDisabled
	room := smallAnswer
	if opt := in.IsEdns0(); opt != nil {
		room = min(max(room, int(opt.UDPSize())), largestAnswer)
		m.SetEdns0(largestAnswer, opt.Do())
		if opt.Version() != 0 {
			m.Rcode = dns.RcodeBadVers
			return m.Pack()
		}
	}
	if !udp {
		room = dns.MaxMsgSize
	}
	owner := q.name
	if f.Alias != "" {
		owner = dns.Fqdn(f.Alias)
		m.Answer = append(m.Answer, &dns.CNAME{
			Hdr:    dns.RR_Header{Name: q.name, Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: ttl},
			Target: owner,
		})
	}
	for _, a := range f.Addresses {
		m.Answer = append(m.Answer, addressRecord(owner, a))
	}
	m.Truncate(room)
	return m.Pack()
}

// addressRecord is the record of one address of owner.
func addressRecord(owner string, a netip.Addr) dns.RR {
	h := dns.RR_Header{Name: owner, Class: dns.ClassINET, Ttl: ttl}
	if a.Is4() {
		h.Rrtype = dns.TypeA
		return &dns.A{Hdr: h, A: a.AsSlice()}
	}
	h.Rrtype = dns.TypeAAAA
	return &dns.AAAA{Hdr: h, AAAA: a.AsSlice()}
}

// failure is the answer that says no more than code. It repeats the question
// when there was one.
func (q *question) failure(code int) []byte {
	m := dns.Msg{MsgHdr: dns.MsgHdr{
		Id: q.id, Response: true, Opcode: q.opcode, Rcode: code,
		RecursionDesired: q.raw[2]&1 != 0, RecursionAvailable: true,
	}}
	if q.asked {
		m.Question = []dns.Question{{Name: q.name, Qtype: q.kind, Qclass: q.class}}
	}
	out, err := m.Pack()
	if err != nil { // a name that can be read and not written
		m.Question = nil
		if out, err = m.Pack(); err != nil {
			return nil
		}
	}
	return out
}

// answers reports whether raw is an answer to q that was sent with id: the same
// id and kind of message, and the same question. An answer that only says what
// went wrong may leave the question out.
func (q *question) answers(raw []byte, id uint16) bool {
	if len(raw) < headerSize || raw[2]&flagResponse == 0 ||
		binary.BigEndian.Uint16(raw) != id || int(raw[2]>>3)&0xf != q.opcode {
		return false
	}
	if !q.asked {
		return true
	}
	if binary.BigEndian.Uint16(raw[4:]) == 0 {
		return raw[3]&0xf != dns.RcodeSuccess
	}
	name, off, err := dns.UnpackDomainName(raw, headerSize)
	return err == nil && off+4 <= len(raw) && strings.EqualFold(name, q.name) &&
		binary.BigEndian.Uint16(raw[off:]) == q.kind && binary.BigEndian.Uint16(raw[off+2:]) == q.class
}

// withID returns a copy of raw that carries id.
func withID(raw []byte, id uint16) []byte {
	out := append([]byte(nil), raw...)
	binary.BigEndian.PutUint16(out, id)
	return out
}
