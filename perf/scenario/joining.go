package scenario

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/ambit-mesh/ambit/internal/lab"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/perf/load"
	"github.com/ambit-mesh/ambit/perf/report"
)

// firstByteTimeout is how long one exchange may take.
const firstByteTimeout = 10 * time.Second

// firstByte connects from inside a namespace, asks, and returns how long it took
// until the first byte of the answer was there.
func firstByte(ctx context.Context, ns lab.Namespace, to string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, firstByteTimeout)
	defer cancel()
	begun := time.Now()
	var c net.Conn
	err := ns.Do(func() (err error) {
		c, err = new(net.Dialer).DialContext(ctx, "tcp", to)
		return err
	})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	if _, err := c.Write(load.OneRequest()); err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		return 0, err
	}
	return time.Since(begun), nil
}

// joiners is how many pods join a node over all repetitions, and batch how many of
// them are there at a time.
const (
	joiners = 200
	batch   = 40
)

// joining measures how long CNI ADD takes, and how long after it a new pod has the
// first byte of an answer from the other node.
func joining(plan report.Plan) scene {
	return scene{
		name: "join", title: fmt.Sprintf("%d pods join, %d at a time; each calls the other node at once", joiners, batch),
		variants: acrossVariants, repetitions: joiners / batch, in: standard,
		take: func(ctx context.Context, s *site, rep int) (*report.Sample, error) {
			return join(ctx, s, rep, batch)
		},
	}
}

// join lets n pods join node 1 and leave again.
func join(ctx context.Context, s *site, rep, n int) (_ *report.Sample, err error) {
	out := &report.Sample{Variant: s.variant, Repetition: rep, Series: map[report.Series][]float64{}}
	var pods []*lab.Pod
	defer func() {
		for _, p := range pods {
			err = errors.Join(err, s.lab.StopPod(context.WithoutCancel(ctx), p))
		}
	}()
	to := s.address(across, load.WebPort)
	for i := range n {
		name := fmt.Sprintf("new-%d-%d", rep, i)
		p, err := s.lab.StartPod(ctx, lab.PodSpec{
			Namespace: across.from[0], Name: name, App: name, ServiceAccount: "web", Node: 1, Bare: true,
		})
		if err != nil {
			return nil, err
		}
		pods = append(pods, p)
		took, err := firstByte(ctx, p.NetNS, to)
		if err != nil {
			return nil, fmt.Errorf("first request of %v: %w", p, err)
		}
		out.Series[report.SeriesAdd] = append(out.Series[report.SeriesAdd], p.Added.Seconds())
		out.Series[report.SeriesFirstByte] = append(out.Series[report.SeriesFirstByte], took.Seconds())
	}
	return out, nil
}

const (
	// tunnelPort is where tunnels to a pod end.
	tunnelPort = 15008
	// coldTries is how many cold exchanges a sample has.
	coldTries = 20
	// afterCut is how long proxies have to notice that their tunnels are gone.
	afterCut = 50 * time.Millisecond
)

// cold measures the first exchange between two pods when no tunnel stands.
func cold(w way, plan report.Plan) scene {
	return scene{
		name: w.name + "/cold", title: fmt.Sprintf("A connection and a request between %s when no tunnel stands", w.title),
		variants: w.variants(),
		take: func(ctx context.Context, s *site, rep int) (*report.Sample, error) {
			out := &report.Sample{Variant: s.variant, Repetition: rep, Series: map[report.Series][]float64{}}
			from, to := s.lab.Pod(w.from[0], w.from[1]), s.lab.Pod(w.to[0], w.to[1])
			for range coldTries {
				if err := to.NetNS.Do(cutTunnels); err != nil {
					return nil, err
				}
				if err := lifecycle.Sleep(ctx, afterCut); err != nil {
					return nil, err
				}
				took, err := firstByte(ctx, from.NetNS, s.address(w, load.WebPort))
				if err != nil {
					return nil, err
				}
				out.Series[report.SeriesCold] = append(out.Series[report.SeriesCold], took.Seconds())
			}
			return out, nil
		},
	}
}

// cutTunnels ends all tunnels to the pod in whose namespace the calling thread is,
// as a network does that has lost them.
func cutTunnels() error {
	for _, family := range []uint8{syscall.AF_INET, syscall.AF_INET6} {
		socks, err := netlink.SocketDiagTCP(family)
		if err != nil {
			return err
		}
		for _, sock := range socks {
			if sock.ID.SourcePort != tunnelPort || sock.State != netlink.TCP_ESTABLISHED {
				continue
			}
			err := netlink.SocketDestroy(
				&net.TCPAddr{IP: sock.ID.Source, Port: int(sock.ID.SourcePort)},
				&net.TCPAddr{IP: sock.ID.Destination, Port: int(sock.ID.DestinationPort)})
			if err != nil && !errors.Is(err, syscall.ENOENT) {
				return fmt.Errorf("end a tunnel: %w", err)
			}
		}
	}
	return nil
}
