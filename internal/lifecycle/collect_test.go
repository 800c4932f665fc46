package lifecycle

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

// A heap that has become large is collected as the runtime does by itself, and a
// value that somebody has set is left alone.
func TestPaceCollector(t *testing.T) {
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	PaceCollector([]string{"GOGC=50"})
	if got := debug.SetGCPercent(100); got != 100 {
		t.Errorf("with GOGC set it is %d %%, want what it was", got)
	}
	p := newPacer()
	runtime.GC()
	p.adjust()
	if got := debug.SetGCPercent(100); got <= growthLeast {
		t.Errorf("a small heap may grow by %d %%, want more than %d", got, growthLeast)
	}
	large := make([]byte, 64<<20)
	runtime.GC()
	p.adjust()
	if got := debug.SetGCPercent(100); got != growthLeast {
		t.Errorf("a large heap may grow by %d %%, want %d", got, growthLeast)
	}
	runtime.KeepAlive(large)
}
