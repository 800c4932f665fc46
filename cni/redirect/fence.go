package redirect

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// FenceTable is the nftables table that holds fences: of family netdev on the
// node, of family inet inside a pod.
const FenceTable = "ambit-fence"

// SetFences makes exactly these interfaces of the node ones that nothing passes,
// in either direction. A fence goes with its interface; one that is gone already
// is left out.
func SetFences(node *netns.NS, links []string) error {
	err := withRoutes(node, func(h *netlink.Handle) error {
		links = slices.DeleteFunc(slices.Clone(links), func(link string) bool {
			_, err := h.LinkByName(link)
			return errors.As(err, &netlink.LinkNotFoundError{})
		})
		return nil
	})
	if err != nil {
		return err
	}
	return withNftables(node, func(c *nftables.Conn) error {
		table := &nftables.Table{Name: FenceTable, Family: nftables.TableFamilyNetdev}
		all, err := c.ListChainsOfTableFamily(nftables.TableFamilyNetdev)
		if err != nil {
			return fmt.Errorf("list fences: %w", err)
		}
		have := map[string]bool{}
		for _, ch := range all {
			if ch.Table.Name == FenceTable {
				have[ch.Name] = true
			}
		}
		want := map[string]*nftables.Chain{}
		for _, link := range links {
			for _, ch := range fenceChains(table, link) {
				want[ch.Name] = ch
			}
		}
		if len(want) == 0 {
			if len(have) > 0 {
				c.DelTable(table)
			}
			return c.Flush()
		}
		c.AddTable(table)
		for name := range have {
			if want[name] == nil {
				c.DelChain(&nftables.Chain{Name: name, Table: table})
			}
		}
		for name, ch := range want {
			if !have[name] {
				c.AddChain(ch)
			}
		}
		if err := c.Flush(); err != nil {
			return fmt.Errorf("write fences of %v: %w", links, explain(err))
		}
		return nil
	})
}

// fenceChains drop what comes by a link and what goes by it.
func fenceChains(table *nftables.Table, link string) []*nftables.Chain {
	drop := nftables.ChainPolicyDrop
	hook := func(name string, hook *nftables.ChainHook) *nftables.Chain {
		return &nftables.Chain{
			Name: name + link, Table: table, Type: nftables.ChainTypeFilter, Hooknum: hook,
			Priority: nftables.ChainPriorityRaw, Policy: &drop, Device: link,
		}
	}
	return []*nftables.Chain{hook("from-", nftables.ChainHookIngress), hook("to-", nftables.ChainHookEgress)}
}

// Fences lists the fenced interfaces of the node.
func Fences(node *netns.NS) (links []string, err error) {
	err = withNftables(node, func(c *nftables.Conn) error {
		all, err := c.ListChainsOfTableFamily(nftables.TableFamilyNetdev)
		if err != nil {
			return fmt.Errorf("list fences: %w", err)
		}
		for _, ch := range all {
			if link, ok := strings.CutPrefix(ch.Name, "from-"); ok && ch.Table.Name == FenceTable {
				links = append(links, link)
			}
		}
		return nil
	})
	slices.Sort(links)
	return links, err
}

// FenceInside drops all that passes the interfaces of a pod, but lo: for pods
// whose interface has no end on the node.
func FenceInside(pod *netns.NS) error {
	return withNftables(pod, func(c *nftables.Conn) error {
		table := &nftables.Table{Name: FenceTable, Family: nftables.TableFamilyINet}
		c.AddTable(table)
		c.DelTable(table)
		c.AddTable(table)
		for _, side := range []struct {
			name string
			hook *nftables.ChainHook
			key  expr.MetaKey
		}{{"from", nftables.ChainHookPrerouting, expr.MetaKeyIIFNAME}, {"to", nftables.ChainHookPostrouting, expr.MetaKeyOIFNAME}} {
			ch := c.AddChain(&nftables.Chain{
				Name: side.name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: side.hook, Priority: nftables.ChainPriorityRaw,
			})
			c.AddRule(&nftables.Rule{Table: table, Chain: ch, Exprs: []expr.Any{
				&expr.Meta{Key: side.key, Register: reg},
				&expr.Cmp{Op: expr.CmpOpNeq, Register: reg, Data: ifName("lo")},
				&expr.Counter{},
				&expr.Verdict{Kind: expr.VerdictDrop},
			}})
		}
		if err := c.Flush(); err != nil {
			return fmt.Errorf("write table %s: %w", FenceTable, explain(err))
		}
		return nil
	})
}

// FencedInside says whether FenceInside has been called.
func FencedInside(pod *netns.NS) (fenced bool, err error) {
	err = withNftables(pod, func(c *nftables.Conn) error {
		tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
		if err != nil {
			return fmt.Errorf("list tables: %w", err)
		}
		fenced = slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == FenceTable })
		return nil
	})
	return fenced, err
}

// OpenInside takes away what FenceInside has written. What is not there is no
// error.
func OpenInside(pod *netns.NS) error { return removeTable(pod, FenceTable) }

// LinksInto returns the interfaces of the node whose other end is in the pod's
// namespace. The namespace is not entered.
func LinksInto(node, pod *netns.NS) (links []string, err error) {
	err = withRoutes(node, func(h *netlink.Handle) error {
		return pod.WithFD(func(fd int) error {
			id, err := h.GetNetNsIdByFd(fd)
			if err != nil {
				return fmt.Errorf("number of %v: %w", pod, err)
			}
			if id < 0 {
				return nil // no interface of the node leads there
			}
			all, err := h.LinkList()
			if err != nil {
				return fmt.Errorf("list interfaces: %w", err)
			}
			for _, l := range all {
				if _, veth := l.(*netlink.Veth); veth && l.Attrs().NetNsID == id {
					links = append(links, l.Attrs().Name)
				}
			}
			return nil
		})
	})
	return links, err
}

// LinkTo returns the interface of the node behind which addr alone lives: where a
// route to it and to no other address leads, or the port of the bridge that has
// learnt its neighbour. When a pod has gone, the way to its address is that to
// everything else, which must never be taken for the pod's: on a node that is itself
// a container it is of the same kind.
func LinkTo(node *netns.NS, addr netip.Addr) (link string, err error) {
	err = withRoutes(node, func(h *netlink.Handle) error {
		routes, err := h.RouteGetWithOptions(addr.AsSlice(), &netlink.RouteGetOptions{FIBMatch: true})
		if err != nil || len(routes) == 0 {
			return fmt.Errorf("route to %v: %w", addr, errors.Join(err, errNoLink))
		}
		if via := routes[0].Gw; via != nil || routes[0].Via != nil {
			return fmt.Errorf("the way to %v is by another node, %v: %w", addr, via, errNoLink)
		}
		l, err := h.LinkByIndex(routes[0].LinkIndex)
		if err != nil {
			return fmt.Errorf("interface to %v: %w", addr, err)
		}
		switch l.(type) {
		case *netlink.Bridge:
			link, err = bridgePort(h, l, addr)
			return err
		case *netlink.Veth:
			if dst := routes[0].Dst; dst == nil || !isHost(dst) {
				return fmt.Errorf("the way to %v is that to %v, by interface %s: %w", addr, dst, l.Attrs().Name, errNoLink)
			}
			link = l.Attrs().Name
			return nil
		}
		return fmt.Errorf("the way to %v is interface %s of type %s, which may be that of others too: %w", addr, l.Attrs().Name, l.Type(), errNoLink)
	})
	return link, err
}

// isHost says whether a destination is one address.
func isHost(dst *net.IPNet) bool {
	ones, bits := dst.Mask.Size()
	return ones == bits
}

// errNoLink says that a pod has no interface of its own on the node.
var errNoLink = errors.New("no interface of the node is the pod's alone")

// bridgePort returns the port of the bridge behind which addr lives.
func bridgePort(h *netlink.Handle, bridge netlink.Link, addr netip.Addr) (string, error) {
	family := unix.AF_INET
	if addr.Is6() {
		family = unix.AF_INET6
	}
	neighbours, err := h.NeighList(bridge.Attrs().Index, family)
	if err != nil {
		return "", fmt.Errorf("list neighbours: %w", err)
	}
	var mac net.HardwareAddr
	for _, n := range neighbours {
		if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap() == addr {
			mac = n.HardwareAddr
		}
	}
	learnt, err := h.NeighList(0, unix.AF_BRIDGE)
	if err != nil {
		return "", fmt.Errorf("list what bridges have learnt: %w", err)
	}
	for _, n := range learnt {
		if len(mac) == 0 || n.HardwareAddr.String() != mac.String() || n.MasterIndex != bridge.Attrs().Index {
			continue
		}
		port, err := h.LinkByIndex(n.LinkIndex)
		if err != nil {
			continue
		}
		if _, veth := port.(*netlink.Veth); veth { // not that of the network beyond
			return port.Attrs().Name, nil
		}
	}
	return "", fmt.Errorf("bridge %s has not learnt where %v is: %w", bridge.Attrs().Name, addr, errNoLink)
}
