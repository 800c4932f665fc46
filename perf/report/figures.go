package report

import (
	"cmp"
	"math"
	"slices"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/ambit-mesh/ambit/perf/load"
)

// beyond is how many samples must lie beyond a percentile for it to be printed.
const beyond = 100

// Figure is a metric of one variant over all repetitions.
type Figure struct {
	Median    float64
	Low, High float64 // the interval; equal to Median when there is none
	N         int     // repetitions that count

	each map[int]float64 // per repetition; nil for percentiles of all together
}

// interval says whether Low and High mean something.
func (f Figure) interval() bool { return f.N > 1 && f.each != nil }

// Figures computes all figures of a case, by metric and variant.
func (c *Case) Figures() map[Metric]map[string]Figure {
	out := map[Metric]map[string]Figure{}
	put := func(m Metric, variant string, f Figure) {
		if out[m] == nil {
			out[m] = map[string]Figure{}
		}
		out[m][variant] = f
	}
	for _, variant := range c.Variants() {
		samples := c.valid(variant)
		for m := range metrics {
			if f, ok := figureOf(m, samples); ok {
				put(m, variant, f)
			}
		}
	}
	for m, a := range metrics {
		if a.over == "" {
			continue
		}
		none, ok := out[a.over][None]
		if !ok {
			continue
		}
		for variant, f := range out[a.over] {
			if variant == None {
				continue
			}
			if d, ok := minus(f, none); ok {
				put(m, variant, d)
			}
		}
	}
	return out
}

// figureOf computes a metric of one variant, if its samples tell it.
func figureOf(m Metric, samples map[int]*Sample) (Figure, bool) {
	a := metrics[m]
	switch {
	case a.percentile > 0:
		return percentileOf(m, a.percentile, samples)
	case a.series != "":
		return rankOf(a.series, a.rank, samples)
	}
	each := map[int]float64{}
	for rep, s := range samples {
		if v, ok := s.Values[m]; ok {
			each[rep] = v
		}
	}
	return figure(each)
}

// percentileOf computes a percentile: per repetition when each has enough
// samples beyond it, else of all together, without an interval.
func percentileOf(m Metric, percentile float64, samples map[int]*Sample) (Figure, bool) {
	each := map[int]float64{}
	var all *hdrhistogram.Histogram
	apart := true
	for rep, s := range samples {
		encoded := s.Latency
		if m == LateP99 {
			encoded = s.Lateness
		}
		h, err := load.Decode(encoded)
		if encoded == "" || err != nil {
			continue
		}
		each[rep] = float64(h.ValueAtPercentile(percentile))
		apart = apart && enough(h, percentile)
		if all == nil {
			all = h
		} else {
			all.Merge(h)
		}
	}
	if all == nil || !enough(all, percentile) {
		return Figure{}, false
	}
	if apart {
		return figure(each)
	}
	v := float64(all.ValueAtPercentile(percentile))
	return Figure{Median: v, Low: v, High: v, N: len(each)}, true
}

// rankOf computes the value of a rank: the median per repetition, what is rare of
// all repetitions together and without an interval.
func rankOf(series Series, rank float64, samples map[int]*Sample) (Figure, bool) {
	each := map[int]float64{}
	var all []float64
	for rep, s := range samples {
		if values := s.Series[series]; len(values) > 0 {
			each[rep] = ranked(values, rank)
			all = append(all, values...)
		}
	}
	if rank == 0.5 {
		return figure(each)
	}
	if float64(len(all))*(1-rank) < 1 {
		return Figure{}, false
	}
	v := ranked(all, rank)
	return Figure{Median: v, Low: v, High: v, N: len(each)}, true
}

// ranked is the smallest value that a share of values does not exceed.
func ranked(values []float64, rank float64) float64 {
	if rank == 0.5 {
		return median(values)
	}
	sorted := slices.Sorted(slices.Values(values))
	at := int(math.Ceil(rank*float64(len(sorted))-1e-9)) - 1 // rank is not exact
	return sorted[max(at, 0)]
}

// enough tells whether a percentile of h may be printed. The largest value is a
// fact, not an estimate.
func enough(h *hdrhistogram.Histogram, percentile float64) bool {
	return percentile >= 100 || float64(h.TotalCount())*(1-percentile/100) >= beyond-1e-6
}

// figure makes a figure of one value per repetition.
func figure(each map[int]float64) (Figure, bool) {
	if len(each) == 0 {
		return Figure{}, false
	}
	values := make([]float64, 0, len(each))
	for _, v := range each {
		values = append(values, v)
	}
	f := Figure{Median: median(values), N: len(values), each: each}
	f.Low, f.High = around(f.Median, halfWidth(values))
	return f, true
}

// minus is what f is more than base, repetition by repetition where both have
// them.
func minus(f, base Figure) (Figure, bool) {
	if f.each == nil || base.each == nil {
		v := f.Median - base.Median
		return Figure{Median: v, Low: v, High: v, N: f.N}, true
	}
	each := map[int]float64{}
	for rep, v := range f.each {
		if b, ok := base.each[rep]; ok {
			each[rep] = v - b
		}
	}
	return figure(each)
}

// Ratio is one figure over another.
func Ratio(f, base Figure) (Figure, bool) {
	if f.each == nil || base.each == nil {
		if f.Median <= 0 || base.Median <= 0 {
			return Figure{}, false
		}
		v := f.Median / base.Median
		return Figure{Median: v, Low: v, High: v, N: min(f.N, base.N)}, true
	}
	var logs []float64
	each := map[int]float64{}
	for rep, v := range f.each {
		b, ok := base.each[rep]
		if !ok || v <= 0 || b <= 0 {
			continue
		}
		logs = append(logs, math.Log(v/b))
		each[rep] = v / b
	}
	if len(logs) == 0 {
		return Figure{}, false
	}
	mid := median(logs)
	low, high := around(mid, halfWidth(logs))
	return Figure{Median: math.Exp(mid), Low: math.Exp(low), High: math.Exp(high), N: len(logs), each: each}, true
}

func around(mid, half float64) (low, high float64) { return mid - half, mid + half }

// median returns the middle of values.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

// studentT holds the two-sided 95 % quantiles of Student's distribution for 1,
// 2, 3 ... degrees of freedom. Beyond its end it is nearly the normal one.
var studentT = []float64{
	12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
	2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
}

// halfWidth is half of the 95 % interval of the mean of values; 0 when there is
// but one.
func halfWidth(values []float64) float64 {
	n := len(values)
	if n < 2 {
		return 0
	}
	mean := 0.0
	for _, v := range values {
		mean += v / float64(n)
	}
	sum := 0.0
	for _, v := range values {
		sum += (v - mean) * (v - mean)
	}
	t := 1.96
	if n-2 < len(studentT) {
		t = studentT[n-2]
	}
	return t * math.Sqrt(sum/float64(n-1)/float64(n))
}

// inOrder lists metrics as a reader wants them.
func inOrder(figures map[Metric]map[string]Figure) []Metric {
	var names []Metric
	for m := range figures {
		names = append(names, m)
	}
	slices.SortFunc(names, func(a, b Metric) int { return cmp.Compare(metrics[a].order, metrics[b].order) })
	return names
}
