package report

import (
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/HdrHistogram/hdrhistogram-go"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// caseOf makes a case with one metric: values of a variant by repetition.
func caseOf(name string, m Metric, by map[string][]float64) *Case {
	c := &Case{Name: name, Title: name}
	for _, v := range columns {
		for rep, value := range by[v] {
			c.Samples = append(c.Samples, &Sample{Variant: v, Repetition: rep, Values: map[Metric]float64{m: value}})
		}
	}
	return c
}

func TestFigureHasMedianAndInterval(t *testing.T) {
	c := caseOf("c", Throughput, map[string][]float64{Ours: {5, 6, 7}})
	f := c.Figures()[Throughput][Ours]
	// Standard deviation 1, three values: 4.303 / sqrt(3) on each side.
	if half := 4.303 / math.Sqrt(3); f.Median != 6 || math.Abs(f.Low-(6-half)) > 1e-9 || math.Abs(f.High-(6+half)) > 1e-9 {
		t.Errorf("figure = %+v, want 6 ± %v", f, half)
	}
}

// A machine that becomes slower during the run slows neighbours equally: the
// ratio does not see it.
func TestRatioIsTakenWithinARepetition(t *testing.T) {
	c := caseOf("c", Throughput, map[string][]float64{Ours: {8, 6, 4}, Peer: {4, 3, 2}})
	by := c.Figures()[Throughput]
	r, ok := Ratio(by[Ours], by[Peer])
	if !ok || math.Abs(r.Median-2) > 1e-9 || r.High-r.Low > 1e-9 {
		t.Errorf("ratio = %+v, want exactly 2", r)
	}
}

func TestRatioNeedsTheSameRepetition(t *testing.T) {
	c := caseOf("c", Throughput, map[string][]float64{Ours: {8}, Peer: {4, 3}})
	c.Samples[0].Repetition = 5
	by := c.Figures()[Throughput]
	if r, ok := Ratio(by[Ours], by[Peer]); ok {
		t.Errorf("ratio = %+v of different repetitions", r)
	}
}

func TestInvalidSamplesCountForNothing(t *testing.T) {
	c := caseOf("c", Throughput, map[string][]float64{Ours: {5, 6, 700}})
	c.Samples[2].Invalid = "the generator was the limit"
	if f := c.Figures()[Throughput][Ours]; f.Median != 5.5 || f.N != 2 {
		t.Errorf("figure = %+v, want 5.5 of two", f)
	}
	var out strings.Builder
	if err := (&Report{Cases: []*Case{c}}).Table(&out); err != nil || !strings.Contains(out.String(), "the generator was the limit") {
		t.Errorf("error %v; the table does not say what was left out:\n%s", err, out.String())
	}
}

// latencyOf is a histogram of n values from 1 us upwards.
func latencyOf(t *testing.T, n int) string {
	t.Helper()
	h := hdrhistogram.New(1000, 1e11, 3)
	for i := range n {
		if err := h.RecordValue(int64(i+1) * 1000); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := h.EncodeV2()
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestPercentilesNeedSamplesBeyondThem(t *testing.T) {
	tests := []struct {
		name string
		per  int // samples per repetition, of two
		want map[Metric]bool
	}{
		{"too few for p90", 400, map[Metric]bool{P50: true, P90: false, P99: false}},
		{"p99 of all together", 5000, map[Metric]bool{P50: true, P99: true, P999: false}},
		{"p99.9 of all together", 50000, map[Metric]bool{P99: true, P999: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := &Case{Name: "c"}
			for rep := range 2 {
				c.Samples = append(c.Samples, &Sample{Variant: Ours, Repetition: rep, Latency: latencyOf(t, tt.per)})
			}
			figures := c.Figures()
			for m, want := range tt.want {
				if _, got := figures[m][Ours]; got != want {
					t.Errorf("%s printed = %v, want %v", m, got, want)
				}
			}
		})
	}
}

func TestAddedLatencyIsOverNone(t *testing.T) {
	c := &Case{Name: "c", Samples: []*Sample{
		{Variant: None, Latency: latencyOf(t, 1000)},
		{Variant: Ours, Latency: latencyOf(t, 3000)},
	}}
	f, ok := c.Figures()[AddedP50][Ours]
	if !ok || math.Abs(f.Median-1e6) > 2e4 { // 1500 us - 500 us
		t.Errorf("added p50 = %+v, %v; want about 1 ms", f, ok)
	}
}

// What the mesh adds needs a repetition in which both were measured.
func TestAddedLatencyOfDifferentRepetitionsIsNone(t *testing.T) {
	c := &Case{Name: "c", Samples: []*Sample{
		{Variant: None, Repetition: 1, Latency: latencyOf(t, 1000)},
		{Variant: Ours, Repetition: 2, Latency: latencyOf(t, 3000)},
	}}
	if f, ok := c.Figures()[AddedP50][Ours]; ok {
		t.Errorf("added p50 = %+v", f)
	}
}

func TestCompare(t *testing.T) {
	tests := []struct {
		name          string
		metric        Metric
		before, after []float64
		want          string
	}{
		{"less throughput", Throughput, []float64{6, 6.01, 6.02}, []float64{5, 5.01, 5.02}, "WORSE"},
		{"more throughput", Throughput, []float64{5, 5.01, 5.02}, []float64{6, 6.01, 6.02}, "better"},
		{"more CPU", CPUPerGB, []float64{1, 1.01, 1.02}, []float64{1.2, 1.21, 1.22}, "WORSE"},
		{"less within noise", Throughput, []float64{4, 6, 8}, []float64{3, 5, 7}, ""},
		{"less by a hair, for sure", Throughput, []float64{6, 6, 6}, []float64{5.9, 5.9, 5.9}, ""},
		{"one repetition proves nothing", Throughput, []float64{6}, []float64{3}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := &Report{Cases: []*Case{caseOf("c", tt.metric, map[string][]float64{Ours: tt.before})}}
			after := &Report{Cases: []*Case{caseOf("c", tt.metric, map[string][]float64{Ours: tt.after})}}
			var out strings.Builder
			worse, err := WriteChanges(&out, before, after, Compare(before, after))
			if err != nil {
				t.Fatal(err)
			}
			if wantWorse := tt.want == "WORSE"; (worse == 1) != wantWorse || !strings.Contains(out.String(), tt.want) {
				t.Errorf("%d worse, want %q:\n%s", worse, tt.want, out.String())
			}
		})
	}
}

// The machine was slower in the second run, and ours lost no more than the peer.
func TestCompareDividesByWhatRanBeside(t *testing.T) {
	of := func(ours, peer []float64) *Report {
		return &Report{Cases: []*Case{caseOf("c", Throughput, map[string][]float64{Ours: ours, Peer: peer})}}
	}
	fast := of([]float64{6, 6.01, 6.02}, []float64{3, 3.01, 3.02})
	slow := of([]float64{4, 4.01, 4.02}, []float64{2, 2.01, 2.02})
	worse := of([]float64{4, 4.01, 4.02}, []float64{3, 3.01, 3.02})
	if ch := Compare(fast, slow)[0]; ch.Beyond || ch.Against != Peer {
		t.Errorf("on a slower machine: %+v, want no change against %s", ch, Peer)
	}
	if ch := Compare(fast, worse)[0]; !ch.Worse {
		t.Errorf("ours alone became slower: %+v, want worse", ch)
	}
}

func TestWrittenReportIsReadBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.json")
	r := &Report{
		Machine: Machine{Cores: 2}, Missing: []Missing{{"haproxy", "not installed"}},
		Cases: []*Case{caseOf("c", Throughput, map[string][]float64{Ours: {5, 6, 7}, Peer: {5, 5, 5}})},
	}
	if err := r.Write(path); err != nil {
		t.Fatal(err)
	}
	back, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	var was, is strings.Builder
	if err := r.Table(&was); err != nil {
		t.Fatal(err)
	}
	if err := back.Table(&is); err != nil {
		t.Fatal(err)
	}
	if was.String() != is.String() || !strings.Contains(is.String(), "haproxy: not installed") {
		t.Errorf("before:\n%s\nafter:\n%s", was.String(), is.String())
	}
}

// Whatever a report holds: an error, or a table.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"format":1,"cases":[{"name":"c","samples":[{"variant":"ours","values":{"throughput":5},"latency":"x"}]}]}`))
	f.Add([]byte(`{"format":1,"cases":[{"samples":[{"variant":"ours","repetition":-1,"values":{"p50":1e300}}]}]}`))
	f.Add([]byte(`{"format":1,"cases":[null]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := parse(raw)
		if err != nil {
			return
		}
		var out strings.Builder
		if err := r.Table(&out); err != nil {
			t.Fatal(err)
		}
		for _, c := range r.Cases {
			if !strings.Contains(out.String(), fmt.Sprintf("(%s)", c.Name)) {
				t.Errorf("no table for case %q", c.Name)
			}
		}
		Compare(r, r)
	})
}
