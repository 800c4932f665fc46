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

// tail is how much longer than the window a load runs, so that the second
// sample is taken while it still does.
const tail = 100 * time.Millisecond

// observed is what a window has shown.
type observed struct {
	usage   measure.Usage
	proxies []string      // that carried the bytes, as usage names them
	done    load.Counters // by both ends
	results []load.Result // of the loads that have a window, in order
}

// window makes a pod carry out orders at the same time and looks at what
// happens in the middle of them.
func window(ctx context.Context, s *site, w way, warm, length time.Duration, orders ...load.Order) (observed, error) {
	client, server := s.client(w.from), s.client(w.to)
	defer client.Close()
	defer server.Close()
	var runs []*load.Running
	defer func() {
		for _, r := range runs {
			r.Stop()
		}
	}()
	for _, o := range orders {
		if o.Kind == load.Rate || o.Kind == load.Most || o.Kind == load.Churn || o.Kind == load.Unary {
			o.Warm, o.Window = warm, length+tail
		}
		r, err := client.Start(ctx, o)
		if err != nil {
			return observed{}, err
		}
		runs = append(runs, r)
	}
	if err := lifecycle.Sleep(ctx, warm); err != nil {
		return observed{}, err
	}
	processes, proxies, err := s.processes(w)
	if err != nil {
		return observed{}, err
	}
	first, err := look(ctx, processes, client, server)
	if err != nil {
		return observed{}, err
	}
	if err := lifecycle.Sleep(ctx, length); err != nil {
		return observed{}, err
	}
	second, err := look(ctx, processes, client, server)
	if err != nil {
		return observed{}, err
	}
	out := observed{usage: measure.Between(first.sample, second.sample), proxies: proxies, done: second.counters.Since(first.counters)}
	for i, o := range orders {
		if o.Kind == load.Bulk || o.Kind == load.Hold {
			continue
		}
		res, err := runs[i].Result()
		if err != nil {
			return observed{}, fmt.Errorf("%s load: %w", o.Kind, err)
		}
		out.results = append(out.results, res)
	}
	return out, nil
}

// glance is the state of all that works at a moment.
type glance struct {
	sample   measure.Sample
	counters load.Counters
}

// look takes counters and processor times as close together as it can.
func look(ctx context.Context, processes []measure.Process, client, server *load.Client) (glance, error) {
	a, err1 := client.Counters(ctx)
	b, err2 := server.Counters(ctx)
	sample, err3 := measure.Take(processes)
	return glance{sample, a.Plus(b)}, errors.Join(err1, err2, err3)
}

// sample begins a sample of the report with what every load has.
func (o observed) sample(s *site, rep int) *report.Sample {
	out := &report.Sample{
		Variant: s.variant, Repetition: rep, Values: map[report.Metric]float64{},
		Others: o.usage.Others(), Processes: map[string]float64{},
	}
	for name, c := range o.usage.Processes {
		out.Processes[name] = c.CPU.Seconds()
	}
	if len(o.results) > 0 {
		out.Latency, out.Lateness = o.results[0].Latency, o.results[0].Lateness
	}
	return out
}
