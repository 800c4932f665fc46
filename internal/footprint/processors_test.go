package footprint

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

func TestEnough(t *testing.T) {
	const second = time.Second
	tests := []struct {
		name string
		w    work
		want int
	}{
		{"nothing", work{used: 0, of: second, turns: 0}, 1},
		{"calm", work{used: second / 100, of: second, turns: 0}, 1},
		{"requests", work{used: second / 2, of: second, turns: 60_000}, 1},
		{"many requests", work{used: second * 7 / 10, of: second, turns: 80_000}, 2},
		{"a transfer: those beside it would wait", work{used: second * 4 / 10, of: second, turns: 3_000}, 2},
		{"transfers on a large machine", work{used: 3 * second, of: second, turns: 20_000}, 12},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.w.enough(); got != tt.want {
				t.Errorf("%d processors, want %d", got, tt.want)
			}
		})
	}
}

// More come at once, up to what there is; fewer only after a while without need, one
// at a time.
func TestProcessorsNext(t *testing.T) {
	p := processors{now: 1, most: 4}
	busy := work{used: 3 * time.Second, of: time.Second, turns: 10_000}
	short := work{used: time.Second, of: time.Second, turns: 100_000}
	for range fullAfter - 1 {
		if p.next(short) {
			t.Fatal("more for a burst of short pieces")
		}
	}
	if !p.next(short) || p.now != 2 {
		t.Fatalf("short pieces for long: %d processors, want 2", p.now)
	}
	if !p.next(busy) || p.now != 4 {
		t.Fatalf("long pieces: %d processors, want all 4", p.now)
	}
	calm := work{of: time.Second}
	for want := 3; want >= 1; want-- {
		for range spareAfter - 1 {
			if p.next(calm) {
				t.Fatalf("fewer after too few looks: %d", p.now)
			}
		}
		if !p.next(calm) || p.now != want {
			t.Fatalf("calm: %d processors, want %d", p.now, want)
		}
	}
	if p.next(calm) {
		t.Fatal("none is left")
	}
	for range spareAfter - 1 {
		p.next(calm)
	}
	starved := work{of: time.Second, starved: true}
	if !p.next(starved) || p.now != 4 {
		t.Fatalf("starved: %d processors, want all 4", p.now)
	}
	for range spareAfter - 1 {
		p.next(calm)
	}
	if p.now != 4 {
		t.Errorf("a wave of load does not count: %d processors", p.now)
	}
}

// A process that computes gets its processors, and all of them are there again at the
// end.
func TestPaceProcessors(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(before)
	ctx, cancel := context.WithCancel(t.Context())
	var g lifecycle.Group
	g.Go(ctx, "pace", func(ctx context.Context) { PaceProcessors(ctx, 3) })
	deadline := time.Now().Add(20 * time.Second)
	for x := 0; runtime.GOMAXPROCS(0) != 3; x++ { // not a pause in it: work
		if x%1024 == 0 && time.Now().After(deadline) {
			t.Fatalf("%d processors for one who computes all the time", runtime.GOMAXPROCS(0))
		}
	}
	cancel()
	g.Wait()
	if got := runtime.GOMAXPROCS(0); got != 3 {
		t.Errorf("%d processors afterwards, want 3", got)
	}
}

// The times of this process' threads grow with what it does.
func TestThreadTimes(t *testing.T) {
	before, _ := threadTimes("/proc/self/task")
	deadline := time.Now().Add(20 * time.Second)
	for now := before; now < before+uint64(10*time.Millisecond); now, _ = threadTimes("/proc/self/task") {
		if time.Now().After(deadline) {
			t.Fatal("the kernel does not say how long threads have run")
		}
	}
	if ran, waited := threadTimes("/nonexistent"); ran != 0 || waited != 0 {
		t.Errorf("times of no threads: %d, %d", ran, waited)
	}
}

func FuzzParseSchedstat(f *testing.F) {
	f.Add("12 34 5\n")
	f.Add("-1 2 3")
	f.Add("18446744073709551616 1 1")
	f.Fuzz(func(t *testing.T, text string) {
		if ran, waited := parseSchedstat(text); (ran != 0 || waited != 0) && len(strings.Fields(text)) != 3 {
			t.Errorf("%q: %d, %d", text, ran, waited)
		}
	})
}
