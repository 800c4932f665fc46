package scenario

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/ambit-mesh/ambit/internal/lab"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/perf/load"
	"github.com/ambit-mesh/ambit/perf/peer"
	"github.com/ambit-mesh/ambit/perf/report"
)

// yardstick is a program that is measured beside a mesh and is none.
type yardstick interface {
	variant() string
	// find returns which build it is, or why it is missing.
	find(ctx context.Context) (version string, err error)
	// start makes it carry the bytes between the two nodes.
	start(ctx context.Context, cfg Config, none *site) (*site, error)
}

// yardsticks are all of them, in the order of the report.
func yardsticks() []yardstick {
	return []yardstick{
		plainProxy{peer.Proxy{Name: "haproxy"}, 20000}, plainProxy{peer.Proxy{Name: "haproxy", TLS: true}, 20010},
		plainProxy{peer.Proxy{Name: "nginx"}, 20020}, plainProxy{peer.Proxy{Name: "nginx", TLS: true}, 20030},
		vpn{report.WireGuardGo}, vpn{report.WireGuard},
	}
}

// yardstickNamed finds the yardstick that is a variant; nil when it is none.
func yardstickNamed(variant string) yardstick {
	for _, y := range yardsticks() {
		if y.variant() == variant {
			return y
		}
	}
	return nil
}

// plainProxy is a proxy on each node. Its ports on a node begin at port.
type plainProxy struct {
	peer.Proxy
	port uint16
}

func (p plainProxy) variant() string { return p.String() }

func (p plainProxy) find(ctx context.Context) (string, error) {
	_, version, err := p.Find(ctx)
	return version, err
}

// start puts two hops into the lab without a mesh.
func (p plainProxy) start(ctx context.Context, _ Config, none *site) (*site, error) {
	s := &site{variant: p.variant(), lab: none.lab, guest: true, entries: map[uint16]netip.AddrPort{}}
	near, far := none.lab.Node(1), none.lab.Node(2)
	var first, second []peer.Route
	for i, port := range []uint16{load.WebPort, load.BulkPort} {
		entry := netip.AddrPortFrom(near.Address, p.port+uint16(i))
		middle := netip.AddrPortFrom(far.Address, p.port+uint16(i))
		s.entries[port] = entry
		first = append(first, peer.Route{Listen: entry, To: middle, TLSOut: p.TLS})
		second = append(second, peer.Route{Listen: middle, To: none.lab.Pod(across.to[0], across.to[1]).At(port), TLSIn: p.TLS})
	}
	dirs := []string{filepath.Join(near.Dir, p.String()), filepath.Join(far.Dir, p.String())}
	if err := errors.Join(os.MkdirAll(dirs[0], 0o700), os.MkdirAll(dirs[1], 0o700)); err != nil {
		return nil, err
	}
	if err := peer.WriteCertificates(dirs...); err != nil {
		return nil, err
	}
	for i, routes := range [][]peer.Route{first, second} {
		path, args, err := p.Command(ctx, dirs[i], routes)
		if err == nil {
			var hop *lab.Process
			if hop, err = none.lab.Run(ctx, none.lab.Node(i+1), none.lab.Node(i+1).NetNS, p.String(), path, args...); err == nil {
				s.hops = append(s.hops, hop)
			}
		}
		if err != nil {
			return nil, errors.Join(err, s.close(ctx))
		}
	}
	if err := s.settle(ctx, across); err != nil {
		for _, hop := range s.hops {
			err = fmt.Errorf("%w\n%s", err, hop.LogTail(4))
		}
		return nil, errors.Join(err, s.close(ctx))
	}
	return s, nil
}

// vpn is WireGuard between the two nodes: in a program, or in the kernel.
type vpn struct{ name string }

func (v vpn) variant() string { return v.name }

// find tries: there is no other way to know what a kernel has.
func (v vpn) find(context.Context) (string, error) {
	if v.name == report.WireGuardGo {
		return peer.WireGuardVersion(), peer.HasTUN()
	}
	return "of the kernel", peer.HasKernelWireGuard()
}

// start builds a lab of its own, because it changes the routes between the nodes.
func (v vpn) start(ctx context.Context, cfg Config, _ *site) (*site, error) {
	l, err := lab.Up(ctx, lab.Config{Name: cfg.Name + "-" + shortName(v.name), BinDir: cfg.BinDir, App: cfg.App, NoMesh: true, PassEnv: raceSettings})
	if err != nil {
		return nil, err
	}
	s := &site{variant: v.name, lab: l}
	if err = v.join(ctx, cfg, s); err == nil {
		err = s.settle(ctx, across)
	}
	if err != nil {
		return nil, errors.Join(err, s.close(ctx))
	}
	return s, nil
}

// join makes both ends and lets the pods' packets go through them.
func (v vpn) join(ctx context.Context, cfg Config, s *site) error {
	var ends []peer.End
	for i, n := range s.lab.Nodes() {
		// The control socket of an interface is one of the machine, not of the node.
		end, err := peer.NewEnd(fmt.Sprintf("wg%d-%x", i+1, os.Getpid()), n.Address, n.PodCIDR)
		if err != nil {
			return err
		}
		ends = append(ends, end)
		if v.name == report.WireGuard {
			if err := n.NetNS.Do(func() error { return peer.AddKernelDevice(end.Interface) }); err != nil {
				return err
			}
			continue
		}
		hop, err := s.lab.Run(ctx, n, n.NetNS, v.name, cfg.WireGuard[0], append(cfg.WireGuard[1:len(cfg.WireGuard):len(cfg.WireGuard)], "--interface", end.Interface)...)
		if err != nil {
			return err
		}
		s.hops = append(s.hops, hop)
		if err := waitSocket(ctx, peer.ControlSocket(end.Interface)); err != nil {
			return err
		}
	}
	return errors.Join(
		s.lab.Node(1).NetNS.Do(func() error { return peer.Join(ends[0], ends[1]) }),
		s.lab.Node(2).NetNS.Do(func() error { return peer.Join(ends[1], ends[0]) }))
}

// waitSocket waits until somebody serves the Unix socket at path.
func waitSocket(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		c, err := new(net.Dialer).DialContext(ctx, "unix", path)
		if err == nil {
			return c.Close()
		}
		if lifecycle.Sleep(ctx, 20*time.Millisecond) != nil {
			return err
		}
	}
}
