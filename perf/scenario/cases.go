package scenario

import (
	"context"
	"fmt"
	"time"

	"github.com/ambit-mesh/ambit/perf/load"
	"github.com/ambit-mesh/ambit/perf/report"
)

// scene is one case: how to take a sample of a site.
type scene struct {
	name, title string
	variants    []string
	repetitions int // zero means what the plan says
	in          depth
	// needs says why the case cannot run here; nil means that it can.
	needs func() error
	// prepare makes a site ready for the case, and undo makes it as it was before; nil
	// means that there is nothing to do.
	prepare, undo func(ctx context.Context, s *site) error
	// load is what is done to all sites before each repetition, and rest how long they
	// are then left alone, at the same time.
	load func(ctx context.Context, s *site) error
	rest time.Duration
	take func(ctx context.Context, s *site, rep int) (*report.Sample, error)
	// ceiling is the metric by which the sample of a mesh must stay clearly below
	// that of none, or the generator was the limit; empty means that it cannot be.
	ceiling report.Metric
	// yardsticks says that plain proxies and VPNs are measured too.
	yardsticks bool
	// hop says that the sites are those of a waypoint; see hop.go.
	hop bool
}

// depth says in which plans a case runs.
type depth int

// The depths: every plan, every plan but the quick one, only the long one.
const (
	always depth = iota
	standard
	deep
)

// runs says whether a plan has the case.
func (s scene) runs(plan report.Plan) bool {
	switch plan.Name {
	case quick.Name:
		return s.in == always
	case long.Name:
		return true
	}
	return s.in <= standard
}

// Variants of a way: only within a node can ours leave out encryption.
var (
	acrossVariants = []string{report.None, report.Ours, report.Peer}
	sameVariants   = []string{report.None, report.Ours, report.OursEncrypted, report.Peer}
	meshVariants   = []string{report.Ours, report.Peer}
)

func (w way) variants() []string {
	if w.name == same.name {
		return sameVariants
	}
	return acrossVariants
}

// scenes are all cases of a plan, in the order in which they run: memory first,
// before load has made a proxy hold more, and a world of many workloads last,
// because it stays in the control plane's memory.
func scenes(plan report.Plan) []scene {
	all := []scene{
		idleCPU(plan),
		memory(1000, plan, always), memory(10000, plan, standard),
		bulk(across, 1, load.Up, plan, always), bulk(across, 8, load.Up, plan, always),
		bulk(across, 64, load.Up, plan, standard), bulk(across, 1, load.Down, plan, standard),
		bulk(across, 8, load.Down, plan, deep), bulk(across, 1, load.Both, plan, deep), bulk(across, 8, load.Both, plan, deep),
		iperf(1, plan, standard), iperf(8, plan, deep),
		bulk(same, 1, load.Up, plan, always), bulk(same, 8, load.Up, plan, standard), bulk(same, 8, load.Down, plan, deep),
		most(across, plan, always), most(same, plan, standard),
		rate(across, 1000, plan, always), rate(across, 100, plan, deep), rate(same, 1000, plan, standard),
		duringBulk(across, 2000, plan),
		churn(across, plan, always), churn(same, plan, deep),
		cold(across, plan),
		chainRate(plan),
		joining(plan),
		afterLoad(plan),
		controlPlane(1000, plan, always), controlPlane(10000, plan, standard), controlPlane(50000, plan, standard),
	}
	all = append(hopScenes(plan), all...)
	var out []scene
	for _, s := range all {
		if s.runs(plan) {
			out = append(out, s)
		}
	}
	return out
}

// bulk measures how many bytes go through, and what they cost.
func bulk(w way, streams int, d load.Direction, plan report.Plan, in depth) scene {
	return scene{
		name:     fmt.Sprintf("%s/bulk/%s/%d", w.name, d, streams),
		title:    fmt.Sprintf("Bulk between %s, %s, %s", w.title, plural(streams), d),
		variants: w.variants(), in: in, ceiling: report.Throughput, yardsticks: w.name == across.name && d == load.Up && streams == 1,
		take: func(ctx context.Context, s *site, rep int) (*report.Sample, error) {
			o, err := window(ctx, s, w, plan.Warm, plan.Window, load.Order{
				Kind: load.Bulk, Address: s.address(w, load.BulkPort), Connections: streams, Direction: d,
			})
			if err != nil {
				return nil, err
			}
			out := o.sample(s, rep)
			gigabytes := float64(o.done.Received) / 1e9
			if gigabytes == 0 {
				out.Invalid = "nothing has arrived"
				return out, nil
			}
			out.Values[report.Throughput] = gigabytes * 8 / o.usage.Took.Seconds()
			out.Values[report.HostPerGB] = o.usage.Busy.Seconds() / gigabytes
			if o.proxies != nil {
				out.Values[report.CPUPerGB] = o.usage.Of(o.proxies...).CPU.Seconds() / gigabytes
			}
			return out, nil
		},
	}
}

// plural counts streams in words.
func plural(streams int) string {
	if streams == 1 {
		return "1 stream"
	}
	return fmt.Sprintf("%d streams", streams)
}

// perRequest fills in what requests cost.
func perRequest(out *report.Sample, o observed) {
	n := float64(o.done.Answers)
	if n == 0 {
		out.Invalid = "no request was answered"
		return
	}
	out.Values[report.HostPer1000] = o.usage.Busy.Seconds() / n * 1000
	if o.proxies != nil {
		c := o.usage.Of(o.proxies...)
		out.Values[report.CPUPer1000] = c.CPU.Seconds() / n * 1000
		out.Values[report.Switches] = float64(c.Switches) / n
	}
}

// connections is how many connections requests use.
const connections = 64

// most measures the most requests a second.
func most(w way, plan report.Plan, in depth) scene {
	return scene{
		name:     w.name + "/most",
		title:    fmt.Sprintf("Most requests a second between %s, %d connections, 1 KiB", w.title, connections),
		variants: w.variants(), in: in, ceiling: report.Requests, yardsticks: w.name == across.name,
		take: func(ctx context.Context, s *site, rep int) (*report.Sample, error) {
			return takeMost(ctx, s, w, rep, plan, load.Order{
				Kind: load.Most, Address: s.address(w, load.WebPort), Connections: connections,
			})
		},
	}
}

// takeMost takes a sample of as many requests as go through.
func takeMost(ctx context.Context, s *site, w way, rep int, plan report.Plan, order load.Order) (*report.Sample, error) {
	o, err := window(ctx, s, w, plan.Warm, plan.Window, order)
	if err != nil {
		return nil, err
	}
	out := o.sample(s, rep)
	out.Latency = "" // of a closed loop it says how long the queue was, not how fast the mesh is
	perRequest(out, o)
	out.Values[report.Requests] = float64(o.done.Answers) / o.usage.Took.Seconds()
	return out, nil
}

// rateWindow is long enough for 100 samples beyond the 99th percentile over all
// repetitions.
func rateWindow(perSecond int, plan report.Plan) time.Duration {
	needed := time.Duration(float64(10000) / float64(plan.Repetitions) / float64(perSecond) * float64(time.Second))
	if needed > 4*plan.Window {
		return 2 * plan.Window // at low rates p99 would take minutes: p50 and p90 must do
	}
	return max(plan.Window, needed+50*time.Millisecond)
}

// rate measures latency at a fixed rate.
func rate(w way, perSecond int, plan report.Plan, in depth) scene {
	return scene{
		name:     fmt.Sprintf("%s/rate/%d", w.name, perSecond),
		title:    fmt.Sprintf("Latency at %d requests/s between %s, %d connections, 1 KiB", perSecond, w.title, connections),
		variants: w.variants(), in: in, yardsticks: w.name == across.name && perSecond == 1000,
		take: func(ctx context.Context, s *site, rep int) (*report.Sample, error) {
			return takeRate(ctx, s, w, rep, perSecond, plan)
		},
	}
}

// duringBulk measures small requests while bulk fills the way between the same
// pods.
func duringBulk(w way, perSecond int, plan report.Plan) scene {
	return scene{
		name:     fmt.Sprintf("%s/rate-during-bulk/%d", w.name, perSecond),
		title:    fmt.Sprintf("Latency at %d requests/s between %s while one stream of bulk runs", perSecond, w.title),
		variants: w.variants(),
		take: func(ctx context.Context, s *site, rep int) (*report.Sample, error) {
			return takeRate(ctx, s, w, rep, perSecond, plan, load.Order{
				Kind: load.Bulk, Address: s.address(w, load.BulkPort), Connections: 1, Direction: load.Up,
			})
		},
	}
}

// takeRate takes a sample of a fixed rate, beside other loads.
func takeRate(ctx context.Context, s *site, w way, rep, perSecond int, plan report.Plan, beside ...load.Order) (*report.Sample, error) {
	orders := append(beside[:len(beside):len(beside)], load.Order{
		Kind: load.Rate, Address: s.address(w, w.port()), Connections: connections, PerSecond: perSecond, Chain: w.behind(s),
	})
	o, err := window(ctx, s, w, plan.Warm, rateWindow(perSecond, plan), orders...)
	if err != nil {
		return nil, err
	}
	out := o.sample(s, rep)
	if len(beside) > 0 {
		out.Values[report.Throughput] = float64(o.done.Received) * 8 / 1e9 / o.usage.Took.Seconds()
	} else {
		perRequest(out, o)
	}
	if why, err := late(out); err != nil {
		return nil, err
	} else if why != "" {
		out.Invalid = why
	}
	return out, nil
}

// late says why the latencies of a sample tell more about the generator than
// about what it has measured: it sent late by a good part of them.
func late(s *report.Sample) (string, error) {
	latency, err := load.Decode(s.Latency)
	if err != nil {
		return "", err
	}
	lateness, err := load.Decode(s.Lateness)
	if err != nil {
		return "", err
	}
	for _, p := range []float64{50, 99} {
		by, of := time.Duration(lateness.ValueAtPercentile(p)), time.Duration(latency.ValueAtPercentile(p))
		if by > of/2 {
			return fmt.Sprintf("the generator sent %v late at p%.0f, of a latency of %v", by, p, of), nil
		}
	}
	return "", nil
}

// churners is how many connections are made at a time.
const churners = 16

// churn measures new connections a second, tunnels being there.
func churn(w way, plan report.Plan, in depth) scene {
	return scene{
		name:     w.name + "/churn",
		title:    fmt.Sprintf("New connections a second between %s, %d at a time, one request each", w.title, churners),
		variants: w.variants(), in: in, ceiling: report.Connections, yardsticks: w.name == across.name,
		take: func(ctx context.Context, s *site, rep int) (*report.Sample, error) {
			o, err := window(ctx, s, w, plan.Warm, plan.Window, load.Order{
				Kind: load.Churn, Address: s.address(w, load.WebPort), Connections: churners,
			})
			if err != nil {
				return nil, err
			}
			out := o.sample(s, rep)
			out.Latency = "" // as in most
			perRequest(out, o)
			out.Values[report.Connections] = float64(o.done.Connections) / o.usage.Took.Seconds()
			return out, nil
		},
	}
}

// fewer is how often to repeat what takes long and varies little.
func fewer(plan report.Plan) int { return max(2, plan.Repetitions/2) }

// idleCPU measures what a proxy costs when nothing happens.
func idleCPU(plan report.Plan) scene {
	return scene{
		name: "idle", title: "Nothing happens", variants: meshVariants, repetitions: fewer(plan),
		take: func(ctx context.Context, s *site, rep int) (*report.Sample, error) {
			o, err := window(ctx, s, across, time.Second, 3*plan.Window)
			if err != nil {
				return nil, err
			}
			out := o.sample(s, rep)
			out.Values[report.IdleCPU] = o.usage.Of(o.proxies[0]).Running.Seconds() / o.usage.Took.Seconds()
			return out, nil
		},
	}
}
