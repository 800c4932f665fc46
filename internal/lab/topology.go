package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Addresses of the lab. They live in its own namespaces, so they cannot meet
// those of the machine.
const (
	fabricBits   = 24
	controlAddr  = "192.168.77.1"
	externalAddr = "192.168.77.200" // a machine of no cluster, in the fabric
	nodeAddrBase = "192.168.77.10"  // plus the number of the node
	serviceBase  = "10.96.77.0"
	bridgeName   = "ambit-br0"
)

// nodeAddr is the address of node i, counted from 1.
func nodeAddr(i int) netip.Addr {
	a := netip.MustParseAddr(nodeAddrBase).As4()
	a[3] += byte(i)
	return netip.AddrFrom4(a)
}

// podCIDR is the range of the pods of node i, counted from 1.
func podCIDR(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, byte(i), 0}), 24)
}

// serviceAddr is the address of service i, counted from 1.
func serviceAddr(i int) netip.Addr {
	a := netip.MustParseAddr(serviceBase).As4()
	a[3] = byte(i)
	return netip.AddrFrom4(a)
}

// portName is the interface of the fabric that leads to a namespace: a capture
// there sees all that the namespace sends and receives.
func portName(what string) string { return "to-" + what }

// buildFabric makes the bridge between the nodes.
func (l *Lab) buildFabric() error {
	if err := l.makeNamespace(l.fabric); err != nil {
		return err
	}
	return l.fabric.Do(func() error {
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName}}
		if err := netlink.LinkAdd(br); err != nil {
			return fmt.Errorf("add bridge %s: %w", bridgeName, err)
		}
		if err := addAddress(br, netip.MustParseAddr(externalAddr)); err != nil {
			return err
		}
		if err := netlink.LinkSetUp(br); err != nil {
			return err
		}
		// The fabric plays a machine outside of the cluster too, which answers pods.
		return routeToPods(l.cfg.Nodes, 0)
	})
}

// attach makes a namespace and joins it to the fabric.
func (l *Lab) attach(ns Namespace, port string, addr netip.Addr) error {
	if err := l.makeNamespace(ns); err != nil {
		return err
	}
	inside, err := os.Open(ns.Path())
	if err != nil {
		return err
	}
	defer inside.Close()
	err = l.fabric.Do(func() error {
		veth := &netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: portName(port)},
			PeerName:      "eth0",
			PeerNamespace: netlink.NsFd(int(inside.Fd())),
		}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("add veth %s: %w", veth.Name, err)
		}
		br, err := netlink.LinkByName(bridgeName)
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetMaster(veth, br), netlink.LinkSetUp(veth))
	})
	if err != nil {
		return err
	}
	return ns.Do(func() error {
		eth, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return errors.Join(addAddress(eth, addr), netlink.LinkSetUp(eth))
	})
}

// makeNode makes the namespace of node i with the routes to the others' pods.
func (l *Lab) makeNode(i int) error {
	n := l.nodes[i-1]
	if err := l.attach(n.NetNS, n.Name, n.Address); err != nil {
		return err
	}
	return n.NetNS.Do(func() error {
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
			return fmt.Errorf("let %s forward: %w", n.Name, err)
		}
		gateway := netip.MustParseAddr(externalAddr)
		return errors.Join(
			routeToPods(l.cfg.Nodes, i),
			addRoute(netip.PrefixFrom(netip.IPv4Unspecified(), 0), gateway),
		)
	})
}

// routeToPods adds routes to the pods of all nodes but one, in the namespace of
// the calling thread.
func routeToPods(nodes, except int) error {
	for i := 1; i <= nodes; i++ {
		if i == except {
			continue
		}
		if err := addRoute(podCIDR(i), nodeAddr(i)); err != nil {
			return err
		}
	}
	return nil
}

// addRoute adds a route in the namespace of the calling thread.
func addRoute(to netip.Prefix, via netip.Addr) error {
	dst, err := netlink.ParseIPNet(to.String())
	if err != nil {
		return err
	}
	if err := netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: via.AsSlice()}); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("route to %v via %v: %w", to, via, err)
	}
	return nil
}

// addAddress gives link an address of the fabric.
func addAddress(link netlink.Link, addr netip.Addr) error {
	a, err := netlink.ParseAddr(netip.PrefixFrom(addr, fabricBits).String())
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, a); err != nil {
		return fmt.Errorf("address %v on %s: %w", addr, link.Attrs().Name, err)
	}
	return nil
}
