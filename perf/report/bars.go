package report

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// Bar is what a figure of ours has to reach.
type Bar struct {
	Case    string
	Metric  Metric
	Against string  // the variant it is divided by; empty: it is taken as it is
	Must    float64 // in the unit that is printed, or a ratio
	Wanted  float64 // zero: no more than Must
}

// bars are those of the project: ours over another ztunnel's in the same run, on
// two processors, and some that are absolute.
var bars = []Bar{
	{"across/bulk/up/1", Throughput, Peer, 1.0, 1.15},
	{"across/bulk/up/8", Throughput, Peer, 1.1, 1.25},
	{"across/bulk/up/64", Throughput, Peer, 1.1, 1.25},
	{"same/bulk/up/1", Throughput, Peer, 1.8, 2.0},
	{"across/bulk/up/1", CPUPerGB, Peer, 1.1, 0.95},
	{"across/bulk/up/8", CPUPerGB, Peer, 1.0, 0.9},
	{"across/most", Requests, Peer, 1.15, 1.3},
	{"across/rate/1000", AddedP50, Peer, 0.65, 0.5},
	{"across/rate/1000", AddedP99, Peer, 1.0, 0},
	{"across/rate-during-bulk/2000", P99, Peer, 0.5, 0.3},
	{"across/churn", Connections, Peer, 1.25, 1.6},
	{"across/rate/1000", CPUPer1000, Peer, 0.75, 0.6},
	{"memory/1000", IdleMemory, Peer, 0.7, 0.6},
	{"memory/1000", PerConnection, Peer, 1.2, 0.8},
	{"waypoint/most", Requests, Envoy, 1.3, 1.8},
	{"waypoint/rate/1000", CPUPer1000, Envoy, 0.6, 0.4},
	{"waypoint/rate/1000", AddedP50, Envoy, 0.8, 0.5},
	{"waypoint/rate/1000", AddedP99, Envoy, 1.0, 0.5},
	{"waypoint/grpc", Requests, Envoy, 1.0, 1.3},
	{"waypoint/memory", IdleMemory, Envoy, 0.5, 0},
	{"waypoint/memory", WithClients, Envoy, 0.8, 0},
	{"idle", IdleCPU, "", 0.5, 0.1},
	{"memory/after-load", AfterLoadShare, "", 1.2, 0},
	{"join", AddedAddSlow, "", 50, 20},
	{"join", FirstByteSlow, "", 250, 100},
	{"control/50000", ColdSync, "", 3, 0},
	{"control/50000", ChangeSlow, "", 100, 0},
}

// Verdict says how a figure stands to a bar.
type Verdict string

// The verdicts. A bar is met, or missed, when the whole interval clears it; while the
// interval holds it, it is open.
const (
	BarWanted    Verdict = "met, as wanted"
	BarMet       Verdict = "met"
	BarOpen      Verdict = "open"
	BarMissed    Verdict = "missed"
	BarUnknown   Verdict = "not measured"
	barNeedsPeer Verdict = "needs the peer"
)

// Judged is a bar with what a run says of it.
type Judged struct {
	Bar
	Figure  Figure // the ratio, or the figure in the unit that is printed
	Verdict Verdict
}

// Higher says whether more is better.
func (b Bar) Higher() bool { return metrics[b.Metric].higher }

// Title names the bar for people, with its unit.
func (b Bar) Title() string {
	a := metrics[b.Metric]
	if b.Against != "" {
		return a.title + ", over " + b.Against + "'s"
	}
	return a.title + ", " + a.unit
}

// Judge compares a run with the bars.
func (r *Report) Judge() []Judged {
	figures := map[string]map[Metric]map[string]Figure{}
	for _, c := range r.Cases {
		figures[c.Name] = c.Figures()
	}
	out := make([]Judged, len(bars))
	for i, b := range bars {
		out[i] = Judged{Bar: b, Verdict: BarUnknown}
		by := figures[b.Case][b.Metric]
		f, ok := by[Ours]
		if !ok {
			continue
		}
		if b.Against == "" {
			f = f.times(metrics[b.Metric].scale)
		} else if f, ok = Ratio(f, by[b.Against]); !ok {
			out[i].Verdict = barNeedsPeer
			continue
		}
		out[i].Figure, out[i].Verdict = f, b.verdict(f)
	}
	return out
}

// times is f in another unit.
func (f Figure) times(scale float64) Figure {
	out := Figure{Median: f.Median * scale, Low: f.Low * scale, High: f.High * scale, N: f.N}
	if f.each != nil {
		out.each = map[int]float64{}
		for rep, v := range f.each {
			out.each[rep] = v * scale
		}
	}
	return out
}

// verdict compares one figure.
func (b Bar) verdict(f Figure) Verdict {
	clears := func(bar float64) bool {
		if b.Higher() {
			return f.Low >= bar
		}
		return f.High <= bar
	}
	misses := f.High < b.Must
	if !b.Higher() {
		misses = f.Low > b.Must
	}
	switch {
	case b.Wanted != 0 && clears(b.Wanted):
		return BarWanted
	case clears(b.Must):
		return BarMet
	case misses:
		return BarMissed
	}
	return BarOpen
}

// limit writes a bar.
func (b Bar) limit(v float64) string {
	if v == 0 {
		return ""
	}
	sign := "<="
	if b.Higher() {
		sign = ">="
	}
	return sign + " " + number(v)
}

// barTable writes all bars for a terminal; nothing when the run has none of them.
func (r *Report) barTable(out io.Writer) error {
	judged := r.Judge()
	any := false
	for _, j := range judged {
		any = any || j.Verdict != BarUnknown
	}
	if !any {
		return nil
	}
	fmt.Fprint(out, "\nThe bars\n")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "case\tmeasure\tis\t95 %\tmust\twanted\t")
	for _, j := range judged {
		is, span := "-", ""
		if j.Figure.N > 0 {
			is = number(j.Figure.Median)
		}
		if j.Figure.interval() {
			span = number(j.Figure.Low) + "-" + number(j.Figure.High)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", j.Case, j.Title(), is, span, j.limit(j.Must), j.limit(j.Wanted), j.Verdict)
	}
	return w.Flush()
}
