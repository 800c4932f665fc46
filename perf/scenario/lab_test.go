package scenario

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/internal/lab"
	"github.com/ambit-mesh/ambit/internal/lab/labtest"
	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
	"github.com/ambit-mesh/ambit/perf/report"
)

// What is measured stands: real namespaces, real programs.
func TestOnALab(t *testing.T) {
	netnstest.Require(t)
	if err := lab.Preflight(); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	binDir := t.TempDir()
	if err := labtest.Build(t.Context(), binDir, labtest.Ztunnel, labtest.Waypoint, labtest.IstiodLite,
		labtest.Plugin, labtest.Agent, labtest.Bridge, labtest.HostLocal); err != nil {
		t.Fatal(err)
	}
	// The plugins are called several times per pod: without the race detector's second
	// of waiting at each end.
	t.Setenv("GORACE", "atexit_sleep_ms=0")
	t.Run("all cases", func(t *testing.T) { allCases(t, self, binDir) })
	t.Run("pods that join", func(t *testing.T) { podsThatJoin(t, self, binDir) })
}

// allCases wants figures of ours from each kind of case, and nothing left behind.
func allCases(t *testing.T, self, binDir string) {
	name := "pt" + strconv.Itoa(os.Getpid()%100000)
	r, err := Run(t.Context(), Config{
		Name: name, BinDir: binDir, App: []string{self, "pod"}, WireGuard: []string{self, "wireguard"},
		Plan:     report.Plan{Name: "test", Repetitions: 2, Warm: 50 * time.Millisecond, Window: 200 * time.Millisecond, Rest: 100 * time.Millisecond, Changes: 2},
		Only:     []string{"memory/1000", "across/most", "across/rate/1000", "across/cold", "chain", "control/1000", "waypoint/"},
		Progress: func(what string) { t.Log(what) },
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]report.Metric{
		"memory/1000": report.PerConnection, "across/most": report.Requests, "across/rate/1000": report.CPUPer1000,
		"across/cold": report.ColdP50, "chain/rate/100": report.CPUPer1000, "control/1000": report.ChangeP50,
		"waypoint/most": report.Requests, "waypoint/rate/1000": report.CPUPer1000, "waypoint/grpc": report.Requests, "waypoint/memory": report.WithClients,
	}
	for _, c := range r.Cases {
		figures := c.Figures()
		if f, ok := figures[want[c.Name]][report.Ours]; !ok || f.Median == 0 {
			t.Errorf("%s: no %q of ours: %+v", c.Name, want[c.Name], c.Samples)
		}
		delete(want, c.Name)
	}
	if len(want) > 0 {
		t.Errorf("cases that have not run: %v", want)
	}
	if n := len(r.Case("across/most").Variants()) + len(r.Missing); n != len(yardsticks())+len(acrossVariants)+1 { // and Envoy
		t.Errorf("%d variants or missing ones, want each yardstick to be one or the other: %+v", n, r.Missing)
	}
	left, err := filepath.Glob("/run/netns/" + name + "*")
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// podsThatJoin wants them to reach the other node at once, and to be gone again.
func podsThatJoin(t *testing.T, self, binDir string) {
	name := "pj" + strconv.Itoa(os.Getpid()%100000)
	cfg, err := Config{Name: name, BinDir: binDir, App: []string{self, "pod"}, Plan: quick}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	s, err := startSite(t.Context(), cfg, report.Ours, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.close(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	before := len(s.lab.Pods())
	sample, err := join(t.Context(), s, 0, 3)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []report.Series{report.SeriesAdd, report.SeriesFirstByte} {
		if n := len(sample.Series[name]); n != 3 {
			t.Errorf("%d values of %s, want 3", n, name)
		}
	}
	if n := len(s.lab.Pods()); n != before {
		t.Errorf("%d pods, want %d as before", n, before)
	}
	if took, err := firstByte(t.Context(), s.lab.Pod("shop", "web").NetNS, "10.77.2.2:1"); err == nil {
		t.Errorf("a port that nobody serves has answered after %v", took)
	}
}
