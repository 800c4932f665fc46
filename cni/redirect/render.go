package redirect

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
)

// renderTable is a table as text, in the manner of nft, so that two tables are
// the same exactly if their texts are. Counts and handles are left out; what is
// not known here is named, so that it makes a difference.
func renderTable(chains []*nftables.Chain, rules []*nftables.Rule) string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s\n", TableName)
	for _, c := range chains {
		fmt.Fprintf(&b, "chain %s: %s\n", c.Name, renderHook(c))
		for _, r := range rules {
			if r.Chain.Name == c.Name {
				fmt.Fprintf(&b, "  %s\n", renderRule(r))
			}
		}
	}
	return b.String()
}

// renderHook says where a chain hooks in.
func renderHook(c *nftables.Chain) string {
	if c.Hooknum == nil || c.Priority == nil {
		return "no hook"
	}
	policy := "accept"
	if c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
		policy = "drop"
	}
	hook := fmt.Sprintf("hook %d", *c.Hooknum)
	switch *c.Hooknum {
	case *nftables.ChainHookPrerouting:
		hook = "prerouting"
	case *nftables.ChainHookOutput:
		hook = "output"
	case *nftables.ChainHookInput:
		hook = "input"
	}
	return fmt.Sprintf("type %s hook %s priority %d policy %s", c.Type, hook, *c.Priority, policy)
}

// machine follows the registers of a rule, so that its text names what is
// compared instead of where it was kept.
type machine struct {
	text []string
	regs map[uint32]operand
}

// operand is what a register holds: the text of it, and how values of its kind
// are written.
type operand struct {
	text   string
	format func([]byte) string
	data   []byte // of a constant; its user knows how to write it
}

// as writes a constant in the format of its user, and anything else as it is.
func (o operand) as(format func([]byte) string) string {
	if o.data != nil {
		return format(o.data)
	}
	return o.text
}

// renderRule is a rule as text, its comment included.
func renderRule(r *nftables.Rule) string {
	m := machine{regs: map[uint32]operand{}}
	for _, e := range r.Exprs {
		m.step(e)
	}
	if why, ok := userdata.GetString(r.UserData, userdata.TypeComment); ok {
		m.say("comment %q", why)
	}
	return strings.Join(m.text, " ")
}

// say adds to the text of the rule.
func (m *machine) say(format string, args ...any) {
	m.text = append(m.text, fmt.Sprintf(format, args...))
}

// step follows one expression.
func (m *machine) step(e expr.Any) {
	switch e := e.(type) {
	case *expr.Meta:
		m.meta(e)
	case *expr.Ct:
		m.ct(e)
	case *expr.Payload:
		m.regs[e.DestRegister] = payloadOperand(e)
	case *expr.Immediate:
		m.regs[e.Register] = operand{data: e.Data}
	case *expr.Bitwise:
		src := m.regs[e.SourceRegister]
		m.regs[e.DestRegister] = operand{text: src.text + bits(e), format: src.format}
	case *expr.Cmp:
		m.compare(e)
	case *expr.Counter:
		m.say("counter")
	case *expr.Socket:
		// The library does not read it back; the comparison that follows tells of it.
	case *expr.Notrack:
		m.say("notrack")
	case *expr.Redir:
		m.say("redirect to :%s", m.regs[e.RegisterProtoMin].as(formatPort))
		if max := e.RegisterProtoMax; max != 0 && max != e.RegisterProtoMin {
			m.say("- :%s", m.regs[max].as(formatPort))
		}
	case *expr.Verdict:
		m.say("%s", verdict(e))
	default:
		m.say("(%T %+v)", e, e)
	}
}

// meta loads or sets a property of the packet.
func (m *machine) meta(e *expr.Meta) {
	names := map[expr.MetaKey]operand{
		expr.MetaKeyMARK:    {text: "meta mark", format: formatMark},
		expr.MetaKeyL4PROTO: {text: "meta l4proto", format: formatProto},
		expr.MetaKeyNFPROTO: {text: "meta nfproto", format: formatFamily},
		expr.MetaKeyIIFNAME: {text: "iifname", format: formatName},
		expr.MetaKeyOIFNAME: {text: "oifname", format: formatName},
	}
	op, ok := names[e.Key]
	if !ok {
		op = operand{text: fmt.Sprintf("meta %d", e.Key), format: formatHex}
	}
	if e.SourceRegister {
		m.say("%s set %s", op.text, m.regs[e.Register].as(op.format))
		return
	}
	m.regs[e.Register] = op
}

// ct loads or sets a property of the connection.
func (m *machine) ct(e *expr.Ct) {
	names := map[expr.CtKey]operand{
		expr.CtKeyMARK: {text: "ct mark", format: formatMark},
		expr.CtKeyZONE: {text: "ct zone", format: formatZone},
	}
	op, ok := names[e.Key]
	if !ok {
		op = operand{text: fmt.Sprintf("ct %d", e.Key), format: formatHex}
	}
	// The library does not read back the register that is the source of a set. A
	// load has one of at least 1, so none means a set, and ours use reg.
	if e.SourceRegister || e.Register == 0 {
		m.say("%s set %s", op.text, m.regs[reg].as(op.format))
		return
	}
	m.regs[e.Register] = op
}

// compare writes a condition.
func (m *machine) compare(e *expr.Cmp) {
	op := m.regs[e.Register]
	if e.Register == socketReg && e.Op == expr.CmpOpLte {
		m.say("socket transparent <= %s", formatHex(e.Data))
		return
	}
	if op.format == nil {
		op = operand{text: fmt.Sprintf("register %d", e.Register), format: formatHex}
	}
	sign, ok := map[expr.CmpOp]string{expr.CmpOpEq: "", expr.CmpOpNeq: "!= "}[e.Op]
	if !ok {
		sign = fmt.Sprintf("op%d ", e.Op)
	}
	m.say("%s %s%s", op.text, sign, op.format(e.Data))
}

// payloadOperand names the header fields that our rules use.
func payloadOperand(e *expr.Payload) operand {
	type field struct {
		base         expr.PayloadBase
		offset, size uint32
	}
	fields := map[field]operand{
		{expr.PayloadBaseNetworkHeader, 12, 4}:  {text: "ip saddr", format: formatAddr},
		{expr.PayloadBaseNetworkHeader, 16, 4}:  {text: "ip daddr", format: formatAddr},
		{expr.PayloadBaseNetworkHeader, 8, 16}:  {text: "ip6 saddr", format: formatAddr},
		{expr.PayloadBaseNetworkHeader, 24, 16}: {text: "ip6 daddr", format: formatAddr},
		{expr.PayloadBaseTransportHeader, 0, 2}: {text: "sport", format: formatPort},
		{expr.PayloadBaseTransportHeader, 2, 2}: {text: "dport", format: formatPort},

		{expr.PayloadBaseTransportHeader, flagsOffset, 1}: {text: "tcp flags", format: formatHex},
	}
	if op, ok := fields[field{e.Base, e.Offset, e.Len}]; ok && e.OperationType == expr.PayloadLoad {
		return op
	}
	return operand{text: fmt.Sprintf("payload %d of %d at %d+%d", e.OperationType, e.Base, e.Offset, e.Len), format: formatHex}
}

// bits writes what a bitwise expression does to its operand.
func bits(e *expr.Bitwise) string {
	text := " & " + formatMark(e.Mask)
	if strings.Trim(string(e.Xor), "\x00") != "" {
		text += " ^ " + formatMark(e.Xor)
	}
	return text
}

// verdict writes the end of a rule.
func verdict(e *expr.Verdict) string {
	switch e.Kind {
	case expr.VerdictAccept:
		return "accept"
	case expr.VerdictDrop:
		return "drop"
	case expr.VerdictReturn:
		return "return"
	}
	return fmt.Sprintf("verdict %d %s", e.Kind, e.Chain)
}

// The formats of values. Data of an unexpected size is written as it is.

func formatHex(b []byte) string { return fmt.Sprintf("0x%x", b) }

func formatMark(b []byte) string {
	if len(b) != 4 {
		return formatHex(b)
	}
	return fmt.Sprintf("%#x", binary.NativeEndian.Uint32(b))
}

func formatPort(b []byte) string {
	if len(b) != 2 {
		return formatHex(b)
	}
	return fmt.Sprint(binary.BigEndian.Uint16(b))
}

func formatZone(b []byte) string {
	if len(b) != 2 {
		return formatHex(b)
	}
	return fmt.Sprint(binary.NativeEndian.Uint16(b))
}

func formatAddr(b []byte) string {
	if a, ok := netip.AddrFromSlice(b); ok {
		return a.String()
	}
	return formatHex(b)
}

func formatName(b []byte) string { return fmt.Sprintf("%q", strings.TrimRight(string(b), "\x00")) }

func formatProto(b []byte) string {
	switch string(b) {
	case string([]byte{tcp}):
		return "tcp"
	case string([]byte{udp}):
		return "udp"
	}
	return formatHex(b)
}

func formatFamily(b []byte) string {
	switch string(b) {
	case string([]byte{nfIPv4}):
		return "ipv4"
	case string([]byte{nfIPv6}):
		return "ipv6"
	}
	return formatHex(b)
}
