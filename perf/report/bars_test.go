package report

import (
	"math"
	"strings"
	"testing"
)

// A bar is met when the whole interval clears it, on the side that is better.
func TestVerdictOfABar(t *testing.T) {
	up := Bar{Case: "c", Metric: Throughput, Against: Peer, Must: 1.1, Wanted: 1.25}
	down := Bar{Case: "c", Metric: CPUPerGB, Against: Peer, Must: 1.0, Wanted: 0.9}
	tests := []struct {
		name      string
		bar       Bar
		low, high float64
		want      Verdict
	}{
		{"more is better, and wanted", up, 1.26, 1.5, BarWanted},
		{"met, and what is wanted lies in the interval", up, 1.12, 1.5, BarMet},
		{"the interval holds the bar", up, 1.05, 1.2, BarOpen},
		{"below", up, 0.8, 1.09, BarMissed},
		{"less is better, and wanted", down, 0.7, 0.9, BarWanted},
		{"less is better, met", down, 0.7, 1.0, BarMet},
		{"less is better, open", down, 0.9, 1.01, BarOpen},
		{"less is better, above", down, 1.01, 1.2, BarMissed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.bar.verdict(Figure{Low: tt.low, High: tt.high}); got != tt.want {
				t.Errorf("%v to %v: %q, want %q", tt.low, tt.high, got, tt.want)
			}
		})
	}
}

// Each bar names a case and a metric that exist, and a run says which it can judge.
func TestJudge(t *testing.T) {
	for _, b := range bars {
		if _, ok := metrics[b.Metric]; !ok || b.Case == "" || b.Must == 0 {
			t.Errorf("bar %+v", b)
		}
	}
	r := &Report{Cases: []*Case{
		caseOf("across/most", Requests, map[string][]float64{Ours: {20, 20.2, 20.4}, Peer: {10, 10.1, 10.2}}),
		caseOf("across/churn", Connections, map[string][]float64{Ours: {5, 5, 5}}),
		caseOf("idle", IdleCPU, map[string][]float64{Ours: {0.004, 0.004, 0.004}}),
	}}
	want := map[string]Verdict{"across/most": BarWanted, "across/churn": barNeedsPeer, "idle": BarMet, "join": BarUnknown}
	for _, j := range r.Judge() {
		if v, ok := want[j.Case]; ok && j.Verdict != v {
			t.Errorf("%s, %s: %q, want %q", j.Case, j.Metric, j.Verdict, v)
		}
	}
	var out strings.Builder
	if err := r.Table(&out); err != nil || !strings.Contains(out.String(), "The bars") || !strings.Contains(out.String(), string(BarWanted)) {
		t.Errorf("%v; the table does not show the bars:\n%s", err, out.String())
	}
}

// What happens seldom: the median per repetition, the slowest but one in a hundred of
// all together, and nothing of fewer.
func TestRanks(t *testing.T) {
	sample := func(rep, n int) *Sample {
		s := &Sample{Variant: Ours, Repetition: rep, Series: map[Series][]float64{}}
		for i := range n {
			s.Series[SeriesAdd] = append(s.Series[SeriesAdd], float64(i))
		}
		return s
	}
	c := &Case{Name: "c", Samples: []*Sample{sample(0, 101), sample(1, 103)}}
	by := c.Figures()
	if f := by[AddP50][Ours]; f.Median != 50.5 || f.N != 2 || !f.interval() {
		t.Errorf("median = %+v, want 50.5 of two repetitions", f)
	}
	// Of 204 values the third from above: 102, 101, 100.
	if f := by[AddSlow][Ours]; f.Median != 100 || f.interval() {
		t.Errorf("slow = %+v, want 100 without an interval", f)
	}
	// Of 100 the second from above: one in 100 is slower.
	hundred := &Case{Name: "c", Samples: []*Sample{sample(0, 100)}}
	if f := hundred.Figures()[AddSlow][Ours]; f.Median != 98 {
		t.Errorf("slow of 100 values = %+v, want 98", f)
	}
	few := &Case{Name: "c", Samples: []*Sample{sample(0, 99)}}
	if f, ok := few.Figures()[AddSlow][Ours]; ok {
		t.Errorf("slow of 99 values = %+v", f)
	}
}

func TestRankedAgainstCounting(t *testing.T) {
	values := []float64{5, 1, 4, 2, 3, 9, 8, 7, 6, 0}
	for rank := 0.05; rank < 1; rank += 0.1 {
		got, below := ranked(values, rank), 0
		for _, v := range values {
			if v < got {
				below++
			}
		}
		if math.Abs(float64(below)-rank*float64(len(values))) > 1 {
			t.Errorf("rank %v: %v has %d below it", rank, got, below)
		}
	}
}
