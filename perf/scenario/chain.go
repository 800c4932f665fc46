package scenario

import (
	"context"
	"fmt"
	"slices"

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

// chainRate measures latency at a fixed rate through ten services in a row.
func chainRate(plan report.Plan) scene {
	return scene{
		name:     fmt.Sprintf("chain/rate/%d", chainRatePerSecond),
		title:    fmt.Sprintf("Latency at %d requests/s through %s, every other one on the other node", chainRatePerSecond, chained.title),
		variants: acrossVariants, in: standard,
		prepare: func(ctx context.Context, s *site) error {
			for i := range chainLength {
				spec := lab.PodSpec{
					Namespace: chained.to[0], Name: chainName(i + 1), App: chainName(i + 1), ServiceAccount: "cart", Node: 2 - i%2,
				}
				if _, err := s.lab.StartPod(ctx, spec); err != nil {
					return err
				}
			}
			return nil
		},
		undo: func(ctx context.Context, s *site) error {
			for _, p := range slices.Clone(s.lab.Pods()) {
				if p.Namespace == chained.to[0] && p.App == p.Name && len(p.Name) > 6 && p.Name[:6] == "chain-" {
					if err := s.lab.StopPod(ctx, p); err != nil {
						return err
					}
				}
			}
			return nil
		},
		take: func(ctx context.Context, s *site, rep int) (*report.Sample, error) {
			return takeRate(ctx, s, chained, rep, chainRatePerSecond, plan)
		},
	}
}
