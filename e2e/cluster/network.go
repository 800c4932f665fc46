package cluster

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ambit-mesh/ambit/e2e/cluster/machine"
	"github.com/ambit-mesh/ambit/internal/netns"
)

// Addresses inside a cluster. They never meet those of the host or of another
// cluster: nothing routes to them from outside.
var (
	podCIDR     = netip.MustParsePrefix("10.244.0.0/16")
	serviceCIDR = netip.MustParsePrefix("10.96.0.0/16")
	dnsAddress  = netip.MustParseAddr("10.96.0.10")
)

const (
	fabric    = "fabric" // the bridge, on the control machine
	uplink    = "eth0"   // of each node
	hostOctet = 254      // of the host in the cluster's subnet
)

// HostLink is the name of the host's end of the veth into the cluster of that name.
func HostLink(name string) string {
	sum := sha256.Sum256([]byte(name))
	return "amb-" + hex.EncodeToString(sum[:4])
}

// addressAt is address number n of the subnet.
func addressAt(subnet netip.Prefix, n byte) netip.Addr {
	a := subnet.Masked().Addr().As4()
	a[3] = n
	return netip.AddrFrom4(a)
}

// podCIDROf is the part of the pods' addresses that belongs to node n, from 1.
func podCIDROf(n int) netip.Prefix {
	a := podCIDR.Addr().As4()
	a[2] = byte(n)
	return netip.PrefixFrom(netip.AddrFrom4(a), 24)
}

// freeSubnet is the first of ours that nothing on this machine uses.
func freeSubnet() (netip.Prefix, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("read the host's routes: %w", err)
	}
	for i := range 250 {
		subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 55, byte(i), 0}), 24)
		used := false
		for _, r := range routes {
			if r.Dst == nil {
				continue
			}
			addr, _ := netip.AddrFromSlice(r.Dst.IP.To4())
			ones, _ := r.Dst.Mask.Size()
			if ones > 0 && netip.PrefixFrom(addr, ones).Overlaps(subnet) {
				used = true
			}
		}
		if !used {
			return subnet, nil
		}
	}
	return netip.Prefix{}, errors.New("no subnet 10.55.N.0/24 is free: name one with --subnet")
}

// wire connects the machines: a bridge on the control machine, a veth from it to each
// node and one to the host. All of it ends with the control machine.
func wire(s state) error {
	control := s.Machines[0]
	err := inside(control.Init.PID, func() error {
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: fabric}}
		if err := netlink.LinkAdd(bridge); err != nil {
			return fmt.Errorf("make the bridge: %w", err)
		}
		return configure(fabric, netip.PrefixFrom(control.Address, s.Subnet.Bits()))
	})
	if err != nil {
		return err
	}
	if err := plug(control, HostLink(s.Name), "host", os.Getpid()); err != nil {
		return err
	}
	if err := configure(HostLink(s.Name), netip.PrefixFrom(addressAt(s.Subnet, hostOctet), s.Subnet.Bits())); err != nil {
		return err
	}
	for _, m := range s.Machines[1:] {
		if err := plugNode(s, m); err != nil {
			return err
		}
	}
	return inside(control.Init.PID, func() error { return routes(s, control) })
}

// plugNode connects one node.
func plugNode(s state, m machineRecord) error {
	if err := plug(s.Machines[0], uplink, m.Name, m.Init.PID); err != nil {
		return err
	}
	return inside(m.Init.PID, func() error {
		if err := configure(uplink, netip.PrefixFrom(m.Address, s.Subnet.Bits())); err != nil {
			return err
		}
		return routes(s, m)
	})
}

// plug makes a veth: one end, named port, at the bridge of the control machine, the
// other, named far, in the network of process pid.
func plug(control machineRecord, far, port string, pid int) error {
	to, err := machine.NetNS(pid)
	if err != nil {
		return err
	}
	defer to.Close()
	return inside(control.Init.PID, func() error {
		bridge, err := netlink.LinkByName(fabric)
		if err != nil {
			return fmt.Errorf("the bridge: %w", err)
		}
		// A machine that has ended leaves its port until the kernel has taken its network
		// apart, which may be after its successor has started.
		if old, err := netlink.LinkByName(port); err == nil {
			if err := netlink.LinkDel(old); err != nil && !errors.Is(err, unix.ENODEV) {
				return fmt.Errorf("remove %s of a machine before: %w", port, err)
			}
		}
		return to.WithFD(func(fd int) error {
			veth := &netlink.Veth{
				LinkAttrs: netlink.LinkAttrs{Name: port, MasterIndex: bridge.Attrs().Index},
				PeerName:  far, PeerNamespace: netlink.NsFd(fd),
			}
			if err := netlink.LinkAdd(veth); err != nil {
				return fmt.Errorf("veth between %s and %s: %w", port, far, err)
			}
			return netlink.LinkSetUp(veth)
		})
	})
}

// configure brings the loopback and an interface of this namespace up.
func configure(name string, address netip.Prefix) error {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	addr := &netlink.Addr{IPNet: ipNet(address)}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("address %v of %s: %w", address, name, err)
	}
	return netlink.LinkSetUp(link)
}

// routes leads the pods of all other nodes to their node, from this namespace.
func routes(s state, here machineRecord) error {
	for _, m := range s.Machines[1:] {
		if m.Name == here.Name {
			continue
		}
		err := netlink.RouteReplace(&netlink.Route{Dst: ipNet(m.PodCIDR), Gw: m.Address.AsSlice()})
		if err != nil {
			return fmt.Errorf("route to the pods of %s: %w", m.Name, err)
		}
	}
	if here.Name == controlName {
		return nil
	}
	// A default route, because resolvers and kube-proxy expect one; it leads to the
	// control machine, which forwards nothing out of the cluster.
	err := netlink.RouteReplace(&netlink.Route{Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0")), Gw: s.Machines[0].Address.AsSlice()})
	if err != nil {
		return fmt.Errorf("default route: %w", err)
	}
	return nil
}

// inside runs fn in the network of process pid.
func inside(pid int, fn func() error) error {
	ns, err := machine.NetNS(pid)
	if err != nil {
		return err
	}
	defer ns.Close()
	return ns.Do(fn)
}

// InNetwork runs fn on a thread in the network of a node, for example to capture.
func (n Node) InNetwork(fn func() error) error { return inside(n.PID, fn) }

// NetNS opens the network namespace of a node. The caller closes it.
func (n Node) NetNS() (*netns.NS, error) { return machine.NetNS(n.PID) }

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
