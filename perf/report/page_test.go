package report

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The page needs nothing else, shows what was measured and what was not, and takes
// no markup from the names of others.
func TestPage(t *testing.T) {
	latency := &Case{Name: "across/rate/1000", Title: "Latency"}
	for _, v := range []string{None, Ours, Peer, HAProxy, Nginx} {
		for rep := range 2 {
			latency.Samples = append(latency.Samples, &Sample{Variant: v, Repetition: rep, Latency: latencyOf(t, 6000)})
		}
	}
	r := &Report{
		Started: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Machine: Machine{CPU: "a <b>processor</b>", Cores: 2},
		Programs: []Program{{Ours, "ztunnel 1"}, {Peer, "ztunnel <script>"}},
		Missing:  []Missing{{"wireguard", "this kernel has none"}},
		Cases: []*Case{
			caseOf("across/most", Requests, map[string][]float64{None: {50000, 51000}, Ours: {20000, 20200}, Peer: {10000, 10100}}),
			caseOf("memory/1000", PerConnection, map[string][]float64{Ours: {1000}, Peer: {2000}}),
			caseOf("a case of its own", Throughput, map[string][]float64{Ours: {5, 6, 7}}),
			latency,
		},
	}
	path := filepath.Join(t.TempDir(), "page.html")
	if err := r.WritePage(path); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	for _, want := range []string{
		"a &lt;b&gt;processor", "ztunnel &lt;script&gt;", "this kernel has none", "across/most", "a case of its own", "met, as wanted", "percentile", "haproxy",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	// Bars; requests; connections' memory; throughput; curve and median of latency.
	if n := strings.Count(text, "<svg"); n != 6 {
		t.Errorf("%d plots, want 6", n)
	}
	links := regexp.MustCompile(`(src|href)="[^#]|url\(|<script|@import`)
	if got := links.FindString(text); got != "" {
		t.Errorf("the page needs something else: %q", got)
	}
}

// A run of which nothing is known still has a page.
func TestPageOfAnEmptyRun(t *testing.T) {
	r := &Report{Cases: []*Case{{Name: "idle", Title: "Nothing", Samples: []*Sample{{Variant: Ours, Invalid: "the load failed"}}}}}
	if err := r.WritePage(filepath.Join(t.TempDir(), "page.html")); err != nil {
		t.Error(err)
	}
}
