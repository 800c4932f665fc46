package scenario

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/lab"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/perf/load"
	"github.com/ambit-mesh/ambit/perf/peer"
	"github.com/ambit-mesh/ambit/perf/report"
)

// through is the way through a waypoint: client, its node's ztunnel, the waypoint,
// the other node's ztunnel, server. No ztunnel counts as carrier: what is measured
// is the hop between them.
var through = way{"waypoint", "two nodes, through a waypoint", across.from, across.to, nil}

// hopVariants are those of a waypoint: the same mesh without one, ours, and Envoy in
// its place.
var hopVariants = []string{report.None, report.Ours, report.Envoy}

// Ports of the services that are bound to a waypoint.
const (
	hopWebPort  = 80
	hopCallPort = 81
)

// Calls of gRPC: callConnections connections with so many calls at a time that there
// are as many as connections of HTTP/1.1.
const (
	callConnections = 4
	callStreams     = connections / callConnections
)

// hopScenes are the cases of a waypoint.
func hopScenes(plan report.Plan) []scene {
	return []scene{hopMemory(plan), hopMost(plan), hopRate(1000, plan), hopCalls(plan)}
}

// hopScene fills in what all cases of a waypoint have in common.
func hopScene(s scene) scene {
	s.name = through.name + "/" + s.name
	s.variants, s.hop = hopVariants, true
	s.needs = func() error {
		if runtime.NumCPU() < 2 {
			return errors.New("a waypoint gets a processor of its own, and there is only one")
		}
		return nil
	}
	s.prepare = func(_ context.Context, s *site) error { return s.pin() }
	return s
}

func hopMost(plan report.Plan) scene {
	s := most(through, plan, standard)
	s.name, s.title, s.yardsticks = "most", fmt.Sprintf("Most requests a second through a waypoint, %d connections, 1 KiB", connections), false
	return hopScene(s)
}

func hopRate(perSecond int, plan report.Plan) scene {
	s := rate(through, perSecond, plan, standard)
	s.name, s.title = fmt.Sprintf("rate/%d", perSecond), fmt.Sprintf("Latency at %d requests/s through a waypoint, %d connections, 1 KiB", perSecond, connections)
	return hopScene(s)
}

// hopCalls measures the most calls of gRPC a second.
func hopCalls(plan report.Plan) scene {
	return hopScene(scene{
		name:  "grpc",
		title: fmt.Sprintf("Most unary calls of gRPC a second through a waypoint, %d streams on %d connections, 1 KiB", connections, callConnections),
		in:    standard, ceiling: report.Requests,
		take: func(ctx context.Context, s *site, rep int) (*report.Sample, error) {
			return takeMost(ctx, s, through, rep, plan, load.Order{
				Kind: load.Unary, Address: s.address(through, load.CallPort), Connections: callConnections, Streams: callStreams,
			})
		},
	})
}

// hopClients is how many connections the memory of a waypoint is measured with.
const hopClients = 1000

// hopMemory measures what a fresh waypoint holds, and with many clients.
func hopMemory(plan report.Plan) scene {
	s := hopScene(scene{
		name: "memory", title: fmt.Sprintf("Memory of a waypoint, and with %d idle connections", hopClients),
		repetitions: fewer(plan), in: standard,
		take: func(ctx context.Context, s *site, rep int) (*report.Sample, error) {
			if err := s.renew(ctx); err != nil {
				return nil, err
			}
			if err := lifecycle.Sleep(ctx, settled); err != nil {
				return nil, err
			}
			was, err := s.residentOn(through)
			if err != nil {
				return nil, err
			}
			stop, err := s.hold(ctx, through, hopClients)
			if err != nil {
				return nil, err
			}
			defer stop()
			if err := lifecycle.Sleep(ctx, settled); err != nil {
				return nil, err
			}
			is, err := s.residentOn(through)
			return &report.Sample{Variant: s.variant, Repetition: rep, Values: map[report.Metric]float64{
				report.IdleMemory: was, report.WithClients: is,
			}}, err
		},
	})
	s.variants = hopVariants[1:]
	return s
}

// buildHops builds one lab with a waypoint of ours, one that is Envoy, and a service
// of the same pods bound to each and one bound to none.
func buildHops(ctx context.Context, cfg Config, sites map[string]*site, r *report.Report) error {
	cfg.Progress("building a mesh with waypoints")
	l, err := lab.Up(ctx, lab.Config{
		Name: cfg.Name + "-hop", BinDir: cfg.BinDir, App: cfg.App, SecretTTL: 24 * time.Hour, PassEnv: raceSettings, ZtunnelEnv: cfg.OursEnv,
		WaypointEnv: append([]string{"GOMAXPROCS=1"}, cfg.OursEnv...),
	})
	if err != nil {
		return err
	}
	none := &site{variant: report.None, lab: l}
	sites[none.variant] = none
	if err := none.bind("", 1); err != nil {
		return err
	}
	variants := []string{report.Ours}
	envoy := peer.Envoy{Path: cfg.Envoy}
	if version, err := envoy.Find(ctx); err != nil {
		r.Missing = append(r.Missing, report.Missing{Peer: report.Envoy, Why: err.Error()})
	} else {
		variants = append(variants, report.Envoy)
		r.Programs = append(r.Programs, report.Program{Variant: report.Envoy, Version: version})
	}
	for i, v := range variants {
		s := &site{variant: v, lab: l, guest: true}
		sites[v] = s
		spec := lab.WaypointSpec{Namespace: through.to[0], Name: "waypoint-" + v, Node: 1, Address: lab.ExtraServiceAddr(10 + i)}
		if err := s.bind(spec.Name, 2+i); err != nil {
			return err
		}
		if v == report.Envoy {
			spec.Run = func(ctx context.Context, p *lab.Pod) (*lab.Process, error) { return s.runEnvoy(ctx, envoy, p) }
		}
		if s.waypoint, err = l.StartWaypointAs(ctx, spec); err != nil {
			return err
		}
		s.hops = []*lab.Process{s.waypoint.Process}
	}
	for _, s := range sites {
		if err := s.settle(ctx, through); err != nil {
			return errors.Join(err, s.explain())
		}
	}
	return nil
}

// explain is what the programs of a site have said last.
func (s *site) explain() error {
	var errs []error
	for _, h := range s.hops {
		errs = append(errs, fmt.Errorf("%s: %s", h.Record.Name, h.LogTail(6)))
	}
	return errors.Join(errs...)
}

// bind writes the i-th service of the server's pods, bound to a waypoint or to none,
// and has clients call it. Callers past the waypoint stay welcome: there are several.
func (s *site) bind(waypoint string, i int) error {
	name, labels := fmt.Sprintf("hop-%d", i), ""
	if waypoint != "" {
		labels = fmt.Sprintf(`istio.io/use-waypoint: %s, ambit.dev/only-through-waypoint: "false"`, waypoint)
	}
	addr := lab.ExtraServiceAddr(i)
	s.entries = map[uint16]netip.AddrPort{
		load.WebPort: netip.AddrPortFrom(addr, hopWebPort), load.CallPort: netip.AddrPortFrom(addr, hopCallPort),
	}
	return s.lab.Manifests().Apply(name, fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: %s, namespace: %s, labels: {%s}}
spec:
  clusterIP: %s
  selector: {app: %s}
  ports:
  - {name: http, port: %d, targetPort: %d}
  - {name: grpc, port: %d, targetPort: %d}
`, name, through.to[0], labels, addr, through.to[1], hopWebPort, load.WebPort, hopCallPort, load.CallPort))
}

// runEnvoy starts Envoy in the pod of a waypoint.
func (s *site) runEnvoy(ctx context.Context, e peer.Envoy, p *lab.Pod) (*lab.Process, error) {
	cert, err := s.lab.Certificate(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("certificate for Envoy: %w", err)
	}
	server := s.lab.Pod(through.to[0], through.to[1])
	endpoint, err := identity.ParseID(server.Principal())
	if err != nil {
		return nil, err
	}
	hop := peer.EnvoyHop{
		Certificate: cert, Endpoint: endpoint, Tunnel: server.At(tunnelPort),
		Services: map[netip.AddrPort]netip.AddrPort{},
	}
	for port, entry := range s.entries {
		hop.Services[entry] = server.At(port)
	}
	path, args, err := e.Command(filepath.Join(p.Node.Dir, s.variant), hop)
	if err != nil {
		return nil, err
	}
	return s.lab.Run(ctx, p.Node, p.NetNS, s.variant, path, args...)
}

// pin gives a waypoint the last processor for itself, and the others to all else.
func (s *site) pin() error {
	last := runtime.NumCPU() - 1
	if s.waypoint != nil {
		return lab.Pin(s.waypoint.Process.Record.PID, last)
	}
	var others []int
	for cpu := range last {
		others = append(others, cpu)
	}
	all, _, err := s.processes(through)
	for _, p := range all {
		err = errors.Join(err, lab.Pin(p.PID, others...))
	}
	return err
}

// renew starts the site's waypoint anew.
func (s *site) renew(ctx context.Context) error {
	if err := s.lab.RestartWaypoint(ctx, s.waypoint); err != nil {
		return err
	}
	s.hops = []*lab.Process{s.waypoint.Process}
	return errors.Join(s.pin(), s.settle(ctx, through))
}

// wantsHops says whether a case needs waypoints.
func wantsHops(wanted []scene) bool {
	return slices.ContainsFunc(wanted, func(sc scene) bool { return sc.hop })
}
