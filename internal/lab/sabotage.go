package lab

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/ambit-mesh/ambit/internal/netns"
)

// sabotageTable holds the rules that a lab puts in from outside to break
// something on purpose.
const sabotageTable = "lab-sabotage"

// tcpFIN is the FIN flag in byte 13 of a TCP header. Source: RFC 9293, section
// 3.1.
const tcpFIN = 0x01

// DropFIN drops each packet from the pod to port that carries FIN, so that an
// end never arrives. port is what the program dialed.
func (p *Pod) DropFIN(port uint16) error {
	return p.addSabotage(nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityRaw,
		append(matchDport(port), append([]expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{tcpFIN}, Xor: []byte{0}},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0}},
		}, &expr.Verdict{Kind: expr.VerdictDrop})...))
}

// Refuse drops what comes into the pod for port.
func (p *Pod) Refuse(port uint16) error {
	return p.addSabotage(nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw,
		append(matchDport(port), &expr.Verdict{Kind: expr.VerdictDrop}))
}

// Masquerade hides the source of connections that reach the pod's own programs
// over loopback from src: the program then sees the pod itself.
func (p *Pod) Masquerade(src netip.Addr) error {
	lo := make([]byte, unix.IFNAMSIZ)
	copy(lo, "lo")
	return p.addSabotage(nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: lo},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: src.AsSlice()},
		&expr.Immediate{Register: 1, Data: p.Address.AsSlice()},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1},
	})
}

// Uncapture lets what the pod sends to dst leave without redirection, as if its
// rules had been taken away: it carries the mark of the proxy's own packets, which
// neither the redirection nor the guards behind it touch.
func (p *Pod) Uncapture(dst netip.Addr) error {
	return p.addSabotage(nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityRaw, []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: dst.AsSlice()},
		&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint32(netns.Mark)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true},
	})
}

// matchDport is the match of a TCP destination port.
func matchDport(port uint16) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
	}
}

// addSabotage adds one rule in a table of the lab's own in the pod.
func (p *Pod) addSabotage(typ nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority, exprs []expr.Any) error {
	return p.NetNS.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: sabotageTable})
		chain := conn.AddChain(&nftables.Chain{Table: table, Name: "sabotage", Type: typ, Hooknum: hook, Priority: prio})
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
		if err := conn.Flush(); err != nil {
			return fmt.Errorf("sabotage %v: %w", p, err)
		}
		return nil
	})
}

// Repair takes all sabotage rules out of the pod.
func (p *Pod) Repair() error {
	return p.NetNS.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		tables, err := conn.ListTablesOfFamily(nftables.TableFamilyIPv4)
		if err != nil {
			return err
		}
		for _, t := range tables {
			if t.Name == sabotageTable {
				conn.DelTable(t)
				return conn.Flush()
			}
		}
		return nil
	})
}
