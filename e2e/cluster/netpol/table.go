package netpol

import (
	"fmt"
	"net/netip"
	"strings"
)

// tableName is the node's table; nobody else writes to it.
const tableName = "lab_netpol"

// Table writes the guards as input of `nft -f`, which replaces the table in one
// transaction.
func Table(guards []Guard) string {
	var out strings.Builder
	// Added before it is deleted, so that the first time is like any other.
	fmt.Fprintf(&out, "add table inet %[1]s\ndelete table inet %[1]s\ntable inet %[1]s {\n", tableName)
	for i, g := range guards {
		writeChain(&out, fmt.Sprintf("to_%d", i), g.Ingress, g.Pod, "saddr")
		writeChain(&out, fmt.Sprintf("from_%d", i), g.Egress, g.Pod, "daddr")
	}
	// Before the usual filters, after addresses of services have become those of pods.
	out.WriteString("\tchain forward {\n\t\ttype filter hook forward priority filter - 5; policy accept;\n\t\tct state established,related accept\n")
	for i, g := range guards {
		if g.Egress != nil {
			fmt.Fprintf(&out, "\t\t%s saddr %v jump from_%d\n", family(g.Pod), g.Pod, i)
		}
		if g.Ingress != nil {
			fmt.Fprintf(&out, "\t\t%s daddr %v jump to_%d\n", family(g.Pod), g.Pod, i)
		}
	}
	out.WriteString("\t}\n}\n")
	return out.String()
}

// writeChain writes a direction of a guard: what is allowed returns, for the other
// end may have a guard of its own.
func writeChain(out *strings.Builder, name string, d *Direction, pod netip.Addr, peer string) {
	if d == nil {
		return
	}
	fmt.Fprintf(out, "\tchain %s {\n", name)
	for _, r := range d.Rules {
		match, possible := r.peers(family(pod), peer)
		if !possible {
			continue
		}
		if r.Ports == nil {
			fmt.Fprintf(out, "\t\t%sreturn\n", match)
		}
		for _, p := range r.Ports {
			fmt.Fprintf(out, "\t\t%s%s dport %d-%d return\n", match, strings.ToLower(string(p.Protocol)), p.First, p.Last)
		}
	}
	out.WriteString("\t\tcounter drop\n\t}\n")
}

// peers writes the match on the other end; possible is false when no peer has an
// address of the pod's family.
func (r Rule) peers(family, field string) (match string, possible bool) {
	if r.Any {
		return "", true
	}
	in := ofFamily(r.Peers, family)
	if len(in) == 0 {
		return "", false
	}
	match = fmt.Sprintf("%s %s { %s } ", family, field, strings.Join(in, ", "))
	if not := ofFamily(r.Except, family); len(not) > 0 {
		match += fmt.Sprintf("%s %s != { %s } ", family, field, strings.Join(not, ", "))
	}
	return match, true
}

// ofFamily writes the prefixes of a family, without those that lie in another one: a
// set of nftables wants no overlap.
func ofFamily(all []netip.Prefix, want string) []string {
	var out []string
	for i, p := range all {
		covered := false
		for j, other := range all {
			if other.Overlaps(p) && (other.Bits() < p.Bits() || other.Bits() == p.Bits() && j < i) {
				covered = true
			}
		}
		if !covered && family(p.Addr()) == want {
			out = append(out, p.String())
		}
	}
	return out
}

// family is what nftables calls the family of an address.
func family(a netip.Addr) string {
	if a.Is4() {
		return "ip"
	}
	return "ip6"
}
