package scenario

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/perf/load"
	"github.com/ambit-mesh/ambit/perf/measure"
	"github.com/ambit-mesh/ambit/perf/report"
)

const (
	// settled is how long memory is left alone before it is read.
	settled = time.Second
	// idling is how long connections are idle before it is: a proxy that gives
	// memory back does so when it has noticed, and an idle connection is one that
	// has been for longer than a second.
	idling = 3 * time.Second
)

// resident is the memory of all proxies between two nodes, in bytes.
func (s *site) resident() (float64, error) { return s.residentOn(across) }

// residentOn is that of the proxies on a way.
func (s *site) residentOn(w way) (float64, error) {
	proxies, err := s.proxies(w)
	if err != nil {
		return 0, err
	}
	sample, err := measure.Take(proxies)
	if err != nil {
		return 0, err
	}
	sum := int64(0)
	for _, c := range sample.Processes {
		sum += c.Resident
	}
	return float64(sum), nil
}

// memory measures what fresh proxies hold, and what idle connections add.
func memory(idle int, plan report.Plan, in depth) scene {
	return scene{
		name: fmt.Sprintf("memory/%d", idle), title: fmt.Sprintf("Memory of both proxies between two nodes, and with %d idle connections", idle),
		variants: meshVariants, repetitions: fewer(plan), in: in,
		prepare: func(ctx context.Context, s *site) error {
			for i := range idle / perPair {
				if err := errors.Join(s.addPod(ctx, holder(i), 1), s.addPod(ctx, held(i), 2)); err != nil {
					return err
				}
			}
			return nil
		},
		undo: func(ctx context.Context, s *site) error { return s.removePods(ctx, "idle-") },
		take: func(ctx context.Context, s *site, rep int) (*report.Sample, error) {
			was, err := s.fresh(ctx)
			if err != nil {
				return nil, err
			}
			for i := range idle / perPair {
				w := way{from: [2]string{across.from[0], holder(i)}, to: [2]string{across.from[0], held(i)}}
				stop, err := s.hold(ctx, w, perPair)
				if err != nil {
					return nil, err
				}
				defer stop()
			}
			if err := lifecycle.Sleep(ctx, idling); err != nil {
				return nil, err
			}
			is, err := s.resident()
			if err != nil {
				return nil, err
			}
			return &report.Sample{Variant: s.variant, Repetition: rep, Values: map[report.Metric]float64{
				report.IdleMemory:    was,
				report.PerConnection: (is - was) / float64(idle),
			}}, nil
		},
	}
}

// perPair is how many idle connections are between two pods: a pod may use a part
// of the files that a proxy may have open, and where that is 20,000 it is 2,500.
const perPair = 1000

func holder(i int) string { return fmt.Sprintf("idle-from-%d", i) }
func held(i int) string   { return fmt.Sprintf("idle-to-%d", i) }

// hold opens connections on a way that are idle until stop is called.
func (s *site) hold(ctx context.Context, w way, n int) (stop func(), err error) {
	if err := s.settle(ctx, w); err != nil {
		return nil, err
	}
	client := s.client(w.from)
	run, err := client.Start(ctx, load.Order{Kind: load.Hold, Address: s.address(w, load.WebPort), Connections: n})
	if err != nil {
		client.Close()
		return nil, err
	}
	return func() { run.Stop(); client.Close() }, nil
}

// fresh gives the site new proxies and returns what they hold.
func (s *site) fresh(ctx context.Context) (float64, error) {
	if err := s.restart(ctx); err != nil {
		return 0, err
	}
	if err := lifecycle.Sleep(ctx, settled); err != nil {
		return 0, err
	}
	return s.resident()
}

// heavyConnections is how many connections the load has that is gone later.
const heavyConnections = 2000

// afterLoad measures what proxies still hold some time after load has gone. The
// sites are loaded one after another and then left alone together.
func afterLoad(plan report.Plan) scene {
	before := map[string]float64{}
	return scene{
		name: "memory/after-load", title: fmt.Sprintf("Memory of both proxies %v after load has gone", plan.Rest),
		variants: meshVariants, repetitions: 1, in: standard, rest: plan.Rest,
		load: func(ctx context.Context, s *site) (err error) {
			if before[s.variant], err = s.fresh(ctx); err != nil {
				return err
			}
			return s.heavy(ctx, plan)
		},
		take: func(_ context.Context, s *site, rep int) (*report.Sample, error) {
			is, err := s.resident()
			if err != nil {
				return nil, err
			}
			return &report.Sample{Variant: s.variant, Repetition: rep, Values: map[report.Metric]float64{
				report.IdleMemory: before[s.variant], report.AfterLoad: is, report.AfterLoadShare: is / before[s.variant],
			}}, nil
		},
	}
}

// heavy makes proxies hold what they can: many connections, bulk over many
// streams, and connections that come and go.
func (s *site) heavy(ctx context.Context, plan report.Plan) error {
	client := s.client(across.from)
	defer client.Close()
	stop, err := s.hold(ctx, across, heavyConnections)
	if err != nil {
		return err
	}
	defer stop()
	bulk, err := client.Start(ctx, load.Order{Kind: load.Bulk, Address: s.address(across, load.BulkPort), Connections: 64, Direction: load.Both})
	if err != nil {
		return err
	}
	defer bulk.Stop()
	churn, err := client.Start(ctx, load.Order{
		Kind: load.Churn, Address: s.address(across, load.WebPort), Connections: churners, Window: plan.Window,
	})
	if err != nil {
		return err
	}
	_, err = churn.Result()
	return err
}
