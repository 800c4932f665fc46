package footprint

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func TestGrowthFor(t *testing.T) {
	tests := []struct {
		name string
		live uint64
		want int
	}{
		{"nothing yet", 0, 400},
		{"an idle proxy", 3 << 20, 400},
		{"more would pass 16 MiB", 4 << 20, 200},
		{"near it", 7 << 20, 100},
		{"a large world", 300 << 20, 100},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := growthFor(tt.live); got != tt.want {
				t.Errorf("%d bytes live: %d %%, want %d", tt.live, got, tt.want)
			}
		})
	}
}

// Each collection is followed by a call, also the second one.
func TestAfterEachCollection(t *testing.T) {
	called := make(chan struct{}, 16)
	afterEachCollection(func() {
		select {
		case called <- struct{}{}:
		default:
		}
	})
	for i := range 3 {
		runtime.GC()
		select {
		case <-called:
		case <-time.After(10 * time.Second):
			t.Fatalf("no call after collection %d", i+1)
		}
	}
}

// The heap may grow further only while collections follow each other and find no
// more alive than before.
func TestPacerNext(t *testing.T) {
	p := newPacer()
	now := time.Now()
	steps := []struct {
		why   string
		live  uint64
		after time.Duration
		want  int
	}{
		{"the start", 2 << 20, 0, 100},
		{"once", 2 << 20, 100 * time.Millisecond, 100},
		{"twice", 2 << 20, 100 * time.Millisecond, 100},
		{"a third time", 2 << 20, 100 * time.Millisecond, 400},
		{"a little more", 2<<20 + 2<<16, 900 * time.Millisecond, 400},
		{"many connections", 3 << 20, 100 * time.Millisecond, 100},
		{"once", 3 << 20, 100 * time.Millisecond, 100},
		{"twice", 3 << 20, 100 * time.Millisecond, 100},
		{"a third time", 3 << 20, 100 * time.Millisecond, 400},
		{"less", 1 << 20, 100 * time.Millisecond, 400},
		{"long idle", 1 << 20, time.Minute, 100},
	}
	for i, s := range steps {
		now = now.Add(s.after)
		if got := p.next(s.live, now); got != s.want {
			t.Errorf("step %d, %s: %d %%, want %d", i, s.why, got, s.want)
		}
	}
}

// What is decided is in force, and a value that somebody has set is left alone.
func TestPaceCollector(t *testing.T) {
	before := debug.SetGCPercent(70)
	defer debug.SetGCPercent(before)
	PaceCollector([]string{"GOGC=50"})
	if got := debug.SetGCPercent(70); got != 70 {
		t.Errorf("with GOGC set it is %d %%, want what it was", got)
	}
	newPacer().adjust()
	if got := debug.SetGCPercent(70); got != growthLeast {
		t.Errorf("at the start the heap may grow by %d %%, want %d", got, growthLeast)
	}
}
