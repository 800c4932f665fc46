package redirect

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
)

// ProbeTable is the nftables table, of family inet on the node, by which probes of
// the kubelet get a source address that the rules of pods let pass.
const ProbeTable = "ambit-probes"

// SetProbes has connections that a process of the node makes to pods come from
// the address from, of their family; an invalid one means none of that family.
// Without pods nothing of ours is left. Any process of the node counts: the rule
// that sees a packet leave does not know whose it was in all cases.
func SetProbes(node *netns.NS, pods []netip.Addr, from ...netip.Addr) error {
	from = slices.DeleteFunc(slices.Clone(from), func(a netip.Addr) bool { return !a.IsValid() })
	if len(pods) == 0 || len(from) == 0 {
		return removeTable(node, ProbeTable)
	}
	return withNftables(node, func(c *nftables.Conn) error {
		table := &nftables.Table{Name: ProbeTable, Family: nftables.TableFamilyINet}
		c.AddTable(table)
		c.DelTable(table)
		c.AddTable(table)
		accept := nftables.ChainPolicyAccept
		chain := c.AddChain(&nftables.Chain{
			Name: "nat-postrouting", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting,
			// Before others that would give packets of the node an address.
			Priority: nftables.ChainPriorityRef(*nftables.ChainPriorityNATSource - 1), Policy: &accept,
		})
		for _, source := range from {
			if err := addProbes(c, table, chain, pods, source); err != nil {
				return err
			}
		}
		if err := c.Flush(); err != nil {
			return fmt.Errorf("write table %s: %w", ProbeTable, explain(err))
		}
		return nil
	})
}

// addProbes adds the set of pods of one family, and its rule.
func addProbes(c *nftables.Conn, table *nftables.Table, chain *nftables.Chain, pods []netip.Addr, source netip.Addr) error {
	set := &nftables.Set{Table: table, Name: "pods-v6", KeyType: nftables.TypeIP6Addr}
	number, offset4, offset6 := uint32(nfIPv6), uint32(16), uint32(24)
	if source.Is4() {
		set.Name, set.KeyType, number = "pods-v4", nftables.TypeIPAddr, nfIPv4
	}
	var members []nftables.SetElement
	for _, p := range pods {
		if p.Is4() == source.Is4() {
			members = append(members, nftables.SetElement{Key: p.AsSlice()})
		}
	}
	if err := c.AddSet(set, members); err != nil {
		return fmt.Errorf("set %s: %w", set.Name, err)
	}
	exprs := match{key: family, number: number}.exprs()
	exprs = append(exprs, match{key: proto, number: tcp}.exprs()...)
	load := offset6
	size := uint32(16)
	if source.Is4() {
		load, size = offset4, 4
	}
	exprs = append(exprs, loadPayload(expr.PayloadBaseNetworkHeader, load, size)...)
	exprs = append(exprs,
		&expr.Lookup{SourceRegister: reg, SetName: set.Name, SetID: set.ID},
		// A packet that no process of the node has sent has no user, which ends the
		// rule; any user will do.
		&expr.Meta{Key: expr.MetaKeySKUID, Register: reg},
		&expr.Cmp{Op: expr.CmpOpLte, Register: reg, Data: []byte{0xff, 0xff, 0xff, 0xff}},
		&expr.Counter{},
		&expr.Immediate{Register: reg, Data: source.AsSlice()},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: number, RegAddrMin: reg},
	)
	c.AddRule(&nftables.Rule{
		Table: table, Chain: chain, Exprs: exprs,
		UserData: userdata.AppendString(nil, userdata.TypeComment, "probes of the kubelet"),
	})
	return nil
}

// removeTable takes one of our tables of family inet away. What is not there is no
// error.
func removeTable(ns *netns.NS, name string) error {
	return withNftables(ns, func(c *nftables.Conn) error {
		tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
		if err != nil {
			return fmt.Errorf("list tables: %w", err)
		}
		for _, t := range tables {
			if t.Name == name {
				c.DelTable(t)
			}
		}
		if err := c.Flush(); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("delete table %s: %w", name, err)
		}
		return nil
	})
}
