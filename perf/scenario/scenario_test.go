package scenario

import (
	"slices"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/perf/report"
)

func TestCasesHaveNamesOfTheirOwn(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range List(full) {
		if seen[c[0]] || c[1] == "" {
			t.Errorf("case %q: twice, or without a title", c[0])
		}
		seen[c[0]] = true
	}
	for _, c := range List(quick) {
		if !seen[c[0]] {
			t.Errorf("case %q is only in the quick plan", c[0])
		}
	}
	for _, b := range new(report.Report).Judge() {
		if !seen[b.Case] {
			t.Errorf("a bar names the case %q, which no plan has", b.Case)
		}
	}
}

// What a percentile needs is there at the rate of 1,000 in both plans.
func TestRateWindowIsLongEnoughForP99(t *testing.T) {
	for _, p := range []report.Plan{quick, full, long} {
		if n := rateWindow(1000, p).Seconds() * 1000 * float64(p.Repetitions); n < 10000 {
			t.Errorf("plan %s: %v requests, want 10,000", p.Name, n)
		}
		if w := rateWindow(1, p); w > 10*time.Second {
			t.Errorf("plan %s: a window of %v at one request a second", p.Name, w)
		}
	}
}

func TestVariantsThatAreNeeded(t *testing.T) {
	one := []scene{bulk(across, 1, "up", quick, always)}
	both := append(one, bulk(same, 1, "up", quick, always))
	tests := []struct {
		name    string
		scenes  []scene
		ztunnel string
		want    []string
	}{
		{"no peer named", one, "", []string{report.None, report.Ours}},
		{"with a peer", one, "/peer", []string{report.None, report.Ours, report.Peer}},
		{"within a node ours runs twice", both, "/peer", []string{report.None, report.Ours, report.OursEncrypted, report.Peer}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := variantsOf(tt.scenes, Config{Ztunnel: tt.ztunnel}); !slices.Equal(got, tt.want) {
				t.Errorf("variants = %v, want %v", got, tt.want)
			}
		})
	}
}

// A mesh that does as much as no mesh at all shows what the generator can do,
// and is no figure of the mesh.
func TestGeneratorAsLimitMakesInvalid(t *testing.T) {
	c := &report.Case{}
	add := func(variant string, v float64) *report.Sample {
		s := &report.Sample{Variant: variant, Values: map[report.Metric]float64{report.Throughput: v}}
		c.Samples = append(c.Samples, s)
		return s
	}
	none, near, far := add(report.None, 10), add(report.Ours, 9.5), add(report.Peer, 5)
	judgeCeiling(c, report.Throughput)
	if none.Invalid != "" || near.Invalid == "" || far.Invalid != "" {
		t.Errorf("invalid: none %q, near %q, far %q; want only the near one", none.Invalid, near.Invalid, far.Invalid)
	}
}

func TestBeginningsOfNames(t *testing.T) {
	for _, tt := range []struct {
		name, begin string
		want        bool
	}{
		{"memory/1000", "memory/1000", true},
		{"memory/10000", "memory/1000", false},
		{"memory/10000", "memory/", true},
		{"memory/after-load", "memory/after", true},
		{"across/bulk/up/1", "across/bulk", true},
		{"across/bulk/up/1", "same", false},
	} {
		if got := begins(tt.name, tt.begin); got != tt.want {
			t.Errorf("%s begins with %s: %v", tt.name, tt.begin, got)
		}
	}
}
