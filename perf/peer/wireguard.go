package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/ipc"
	"golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

const (
	// tunnelMTU leaves room for what WireGuard puts around a packet of 1,500 bytes.
	tunnelMTU = 1420
	// tunnelPort is where the two ends talk to each other.
	tunnelPort = 51820
)

// End is one end of a tunnel.
type End struct {
	Interface string
	Address   netip.Addr   // of the node, outside of the tunnel
	Pods      netip.Prefix // behind this end
	Key       wgtypes.Key  // private
}

// NewEnd makes an end with a key of its own.
func NewEnd(ifName string, addr netip.Addr, pods netip.Prefix) (End, error) {
	key, err := wgtypes.GeneratePrivateKey()
	return End{Interface: ifName, Address: addr, Pods: pods, Key: key}, err
}

// RunWireGuard is WireGuard in a program: it makes the interface in the network
// namespace of the process and serves it until ctx ends.
func RunWireGuard(ctx context.Context, ifName string, log io.Writer) error {
	dev, err := tun.CreateTUN(ifName, tunnelMTU)
	if err != nil {
		return fmt.Errorf("TUN device %s: %w", ifName, err)
	}
	logger := &device.Logger{
		Verbosef: device.DiscardLogf,
		Errorf:   func(format string, args ...any) { fmt.Fprintf(log, format+"\n", args...) },
	}
	wg := device.NewDevice(dev, conn.NewDefaultBind(), logger)
	defer wg.Close()
	file, err := ipc.UAPIOpen(ifName)
	if err != nil {
		return err
	}
	ln, err := ipc.UAPIListen(ifName, file)
	if err != nil {
		return errors.Join(err, file.Close())
	}
	var group lifecycle.Group
	defer group.Wait()
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	for {
		c, err := ln.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept orders for %s: %w", ifName, err)
		}
		group.Go(ctx, "uapi", func(context.Context) { wg.IpcHandle(c) })
	}
}

// ControlSocket is where RunWireGuard takes the configuration of an interface.
func ControlSocket(ifName string) string { return "/var/run/wireguard/" + ifName + ".sock" }

// AddKernelDevice makes an interface of the kernel's WireGuard in the namespace of
// the calling thread. The error says that the kernel has none.
func AddKernelDevice(ifName string) error {
	link := &netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Name: ifName, MTU: tunnelMTU}}
	if err := netlink.LinkAdd(link); err != nil {
		return fmt.Errorf("this kernel has no WireGuard: %w", err)
	}
	return nil
}

// Join configures one end, in the namespace of the calling thread, to reach the
// other: keys, the interface, and the route to the other's pods in place of the
// one that is there.
func Join(here, there End) error {
	client, err := wgctrl.New()
	if err != nil {
		return err
	}
	defer client.Close()
	port := tunnelPort
	err = client.ConfigureDevice(here.Interface, wgtypes.Config{
		PrivateKey: &here.Key, ListenPort: &port, ReplacePeers: true,
		Peers: []wgtypes.PeerConfig{{
			PublicKey: there.Key.PublicKey(), Endpoint: net.UDPAddrFromAddrPort(netip.AddrPortFrom(there.Address, tunnelPort)),
			AllowedIPs: []net.IPNet{ipNet(there.Pods)},
		}},
	})
	if err != nil {
		return fmt.Errorf("configure %s: %w", here.Interface, err)
	}
	link, err := netlink.LinkByName(here.Interface)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	to := ipNet(there.Pods)
	route := &netlink.Route{Dst: &to, LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("route to %v through %s: %w", there.Pods, here.Interface, err)
	}
	return nil
}

// ipNet is p as the net package has it.
func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Masked().Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// WireGuardVersion is that of the module which RunWireGuard is made of.
func WireGuardVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, m := range info.Deps {
		if m.Path == "golang.zx2c4.com/wireguard" {
			return m.Path + " " + m.Version
		}
	}
	return "unknown"
}

// HasKernelWireGuard says why the kernel's WireGuard cannot be used; nil when it
// can. It tries in a network namespace that is gone afterwards.
func HasKernelWireGuard() error {
	result := make(chan error, 1)
	go func() {
		// Never unlocked: the thread belongs to the new namespace and ends with
		// this goroutine.
		runtime.LockOSThread()
		if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
			result <- err
			return
		}
		result <- AddKernelDevice("wg0")
	}()
	return <-result
}

// HasTUN says why WireGuard in a program cannot run; nil when it can.
func HasTUN() error {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("no TUN device: %w", err)
	}
	return f.Close()
}
