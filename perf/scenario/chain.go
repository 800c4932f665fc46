package scenario

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/internal/lab"
	"github.com/ambit-mesh/ambit/perf/load"
	"github.com/ambit-mesh/ambit/perf/report"
)

const (
	// chainLength is how many services stand in a row.
	chainLength = 10
	// chainRatePerSecond is low enough for ten pairs of proxies on a small machine.
	chainRatePerSecond = 100
)

// chained is the way through ten services in a row, each on the other node than the
// one before it.
var chained = way{
	"chain", "ten services in a row", across.from, [2]string{across.from[0], chainName(1)}, []int{1, 2},
}

func chainName(i int) string { return fmt.Sprintf("chain-%d", i) }

// between are the pods that a request of w visits behind the first.
func (w way) between(s *site) (pods []*lab.Pod) {
	if w.name != chained.name {
		return nil
	}
	for i := 2; i <= chainLength; i++ {
		pods = append(pods, s.lab.Pod(w.to[0], chainName(i)))
	}
	return pods
}

// behind are the addresses of between.
func (w way) behind(s *site) (addrs []string) {
	for _, p := range w.between(s) {
		addrs = append(addrs, p.At(load.ChainPort).String())
	}
	return addrs
}

// port is where requests of w go.
func (w way) port() uint16 {
	if w.name == chained.name {
		return load.ChainPort
	}
	return load.WebPort
}

// addPod adds a pod with the programs of the package load to the namespace of the
// ways.
func (s *site) addPod(ctx context.Context, name string, node int) error {
	_, err := s.lab.StartPod(ctx, lab.PodSpec{Namespace: across.from[0], Name: name, App: name, ServiceAccount: across.to[1], Node: node})
	return err
}

// removePods removes the pods whose names have a beginning.
func (s *site) removePods(ctx context.Context, prefix string) error {
	for _, p := range slices.Clone(s.lab.Pods()) {
		if !strings.HasPrefix(p.Name, prefix) {
			continue
		}
		if err := s.lab.StopPod(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// chainRate measures latency at a fixed rate through ten services in a row.
func chainRate(plan report.Plan) scene {
	return scene{
		name:     fmt.Sprintf("chain/rate/%d", chainRatePerSecond),
		title:    fmt.Sprintf("Latency at %d requests/s through %s, every other one on the other node", chainRatePerSecond, chained.title),
		variants: acrossVariants, in: standard,
		prepare: func(ctx context.Context, s *site) error {
			for i := 1; i <= chainLength; i++ {
				if err := s.addPod(ctx, chainName(i), 1+i%2); err != nil {
					return err
				}
			}
			return nil
		},
		undo: func(ctx context.Context, s *site) error { return s.removePods(ctx, "chain-") },
		take: func(ctx context.Context, s *site, rep int) (*report.Sample, error) {
			return takeRate(ctx, s, chained, rep, chainRatePerSecond, plan)
		},
	}
}
