package redirect

import (
	"fmt"
	"net/netip"

	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// Address families as nftables numbers them.
const (
	nfIPv4 = unix.NFPROTO_IPV4
	nfIPv6 = unix.NFPROTO_IPV6
)

// reg is the register that every rule computes in. socketReg is for what is known
// of a packet's socket alone: the library that reads rules back leaves out where
// it comes from.
const (
	reg       = 1
	socketReg = 2
)

// Where the flags of a TCP header are, and two of them. Source: RFC 9293, section
// 3.1.
const (
	flagsOffset = 13
	flagSYN     = 0x02
	flagACK     = 0x10
)

// baseChains says where our chains hook in. A route chain asks for the route
// again when a packet's mark has changed.
func baseChains(t *nftables.Table) map[chain]*nftables.Chain {
	base := func(name chain, kind nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) *nftables.Chain {
		policy := nftables.ChainPolicyAccept
		return &nftables.Chain{Name: string(name), Table: t, Type: kind, Hooknum: hook, Priority: prio, Policy: &policy}
	}
	pre, in, out := nftables.ChainHookPrerouting, nftables.ChainHookInput, nftables.ChainHookOutput
	return map[chain]*nftables.Chain{
		zonePrerouting: base(zonePrerouting, nftables.ChainTypeFilter, pre, nftables.ChainPriorityRaw),
		zoneOutput:     base(zoneOutput, nftables.ChainTypeFilter, out, nftables.ChainPriorityRaw),
		markPrerouting: base(markPrerouting, nftables.ChainTypeFilter, pre, nftables.ChainPriorityMangle),
		markOutput:     base(markOutput, nftables.ChainTypeRoute, out, nftables.ChainPriorityMangle),
		natPrerouting:  base(natPrerouting, nftables.ChainTypeNAT, pre, nftables.ChainPriorityNATDest),
		guardInput:     base(guardInput, nftables.ChainTypeFilter, in, nftables.ChainPriorityFilter),
		natOutput:      base(natOutput, nftables.ChainTypeNAT, out, nftables.ChainPriorityNATDest),
		guardOutput:    base(guardOutput, nftables.ChainTypeFilter, out, nftables.ChainPriorityFilter),
	}
}

// ourTable is the table that is ours.
func ourTable() *nftables.Table {
	return &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}
}

// compile turns the rules of cfg into what the kernel takes: the chains that
// have rules, in order of their first, and the rules.
func compile(cfg Config) (*nftables.Table, []*nftables.Chain, []*nftables.Rule) {
	table := ourTable()
	bases := baseChains(table)
	var chains []*nftables.Chain
	var rules []*nftables.Rule
	seen := map[chain]bool{}
	for _, r := range cfg.rules() {
		if !seen[r.chain] {
			seen[r.chain] = true
			chains = append(chains, bases[r.chain])
		}
		rules = append(rules, &nftables.Rule{
			Table: table, Chain: bases[r.chain], Exprs: r.exprs(),
			UserData: userdata.AppendString(nil, userdata.TypeComment, r.why),
		})
	}
	return table, chains, rules
}

// exprs is the rule as the kernel's small machine runs it. Every rule counts.
func (r rule) exprs() []expr.Any {
	var e []expr.Any
	for _, m := range r.matches {
		e = append(e, m.exprs()...)
	}
	e = append(e, &expr.Counter{})
	return append(e, r.action.exprs()...)
}

// exprs loads what the match looks at, and compares.
func (m match) exprs() []expr.Any {
	if m.key == anySocket {
		// A packet without a socket ends the rule; with one, whether it is transparent
		// is a truth value, and any will do.
		return []expr.Any{
			&expr.Socket{Key: expr.SocketKeyTransparent, Register: socketReg},
			&expr.Cmp{Op: expr.CmpOpLte, Register: socketReg, Data: []byte{1}},
		}
	}
	op := expr.CmpOpEq
	if m.not {
		op = expr.CmpOpNeq
	}
	load, data := m.operands()
	return append(load, &expr.Cmp{Op: op, Register: reg, Data: data})
}

// operands returns how the match's key gets into the register, and what it is
// compared with.
func (m match) operands() (load []expr.Any, data []byte) {
	meta := func(k expr.MetaKey) []expr.Any { return []expr.Any{&expr.Meta{Key: k, Register: reg}} }
	ours := &expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(netns.MarkMask), Xor: make([]byte, 4)}
	switch m.key {
	case mark:
		return append(meta(expr.MetaKeyMARK), ours), binaryutil.NativeEndian.PutUint32(m.number)
	case connMark:
		return []expr.Any{&expr.Ct{Key: expr.CtKeyMARK, Register: reg}, ours}, binaryutil.NativeEndian.PutUint32(m.number)
	case proto:
		return meta(expr.MetaKeyL4PROTO), []byte{byte(m.number)}
	case family:
		return meta(expr.MetaKeyNFPROTO), []byte{byte(m.number)}
	case srcAddr:
		return loadAddr(m.addr, 12, 8), m.addr.AsSlice()
	case dstAddr:
		return loadAddr(m.addr, 16, 24), m.addr.AsSlice()
	case srcPort:
		return loadPayload(expr.PayloadBaseTransportHeader, 0, 2), binaryutil.BigEndian.PutUint16(uint16(m.number))
	case dstPort:
		return loadPayload(expr.PayloadBaseTransportHeader, 2, 2), binaryutil.BigEndian.PutUint16(uint16(m.number))
	case begins:
		flags := append(loadPayload(expr.PayloadBaseTransportHeader, flagsOffset, 1),
			&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 1, Mask: []byte{flagSYN | flagACK}, Xor: []byte{0}})
		return flags, []byte{flagSYN}
	case inIface:
		return meta(expr.MetaKeyIIFNAME), ifName(m.name)
	case outIface:
		return meta(expr.MetaKeyOIFNAME), ifName(m.name)
	}
	panic(fmt.Sprintf("redirect: key %d is not known to compile", m.key))
}

// loadAddr loads an address from where it is in an IPv4 or IPv6 header.
// Source: RFC 791, section 3.1; RFC 8200, section 3.
func loadAddr(a netip.Addr, offset4, offset6 uint32) []expr.Any {
	if a.Is4() {
		return loadPayload(expr.PayloadBaseNetworkHeader, offset4, 4)
	}
	return loadPayload(expr.PayloadBaseNetworkHeader, offset6, 16)
}

// loadPayload loads bytes of a header.
func loadPayload(base expr.PayloadBase, offset, size uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: reg, Base: base, Offset: offset, Len: size}}
}

// ifName is an interface's name as the kernel compares it: the whole field.
func ifName(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

// exprs is what the action does.
func (a action) exprs() []expr.Any {
	switch a.kind {
	case accept:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}
	case drop:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}
	case redirectTo:
		return []expr.Any{
			&expr.Immediate{Register: reg, Data: binaryutil.BigEndian.PutUint16(uint16(a.number))},
			&expr.Redir{RegisterProtoMin: reg},
		}
	case setConnMark:
		return []expr.Any{
			&expr.Ct{Key: expr.CtKeyMARK, Register: reg},
			&expr.Bitwise{
				SourceRegister: reg, DestRegister: reg, Len: 4,
				Mask: binaryutil.NativeEndian.PutUint32(^uint32(netns.MarkMask)), Xor: binaryutil.NativeEndian.PutUint32(a.number),
			},
			&expr.Ct{Key: expr.CtKeyMARK, Register: reg, SourceRegister: true},
		}
	case restoreMark:
		return []expr.Any{
			&expr.Ct{Key: expr.CtKeyMARK, Register: reg},
			&expr.Meta{Key: expr.MetaKeyMARK, Register: reg, SourceRegister: true},
		}
	case untrack:
		return []expr.Any{&expr.Notrack{}}
	case setZone:
		return []expr.Any{
			&expr.Immediate{Register: reg, Data: binaryutil.NativeEndian.PutUint16(uint16(a.number))},
			&expr.Ct{Key: expr.CtKeyZONE, Register: reg, SourceRegister: true},
		}
	}
	panic(fmt.Sprintf("redirect: action %d is not known to compile", a.kind))
}
