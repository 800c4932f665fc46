package telemetry

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
)

// heldWriter writes only when the test lets it.
type heldWriter struct {
	output
	gate   chan struct{} // one receive per Write; closed: never waits
	writes int           // owned by the queue's goroutine
}

func (w *heldWriter) Write(p []byte) (int, error) {
	<-w.gate
	w.writes++
	return w.output.Write(p)
}

func TestLogQueueBatchesWhatWaitsAndKeepsTheOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &heldWriter{gate: make(chan struct{})}
		q := NewLogQueue(w, 0)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { q.Run(ctx) })
		var want []string
		for i := range 100 {
			line := fmt.Sprint("line ", i)
			want = append(want, line)
			fmt.Fprintln(q, line)
			synctest.Wait() // the queue's goroutine holds the first line, or is held
		}
		close(w.gate)
		synctest.Wait()
		cancel()
		wg.Wait()
		if got := strings.Join(w.lines(), "\n"); got != strings.Join(want, "\n") {
			t.Errorf("lines:\n%s", got)
		}
		if w.writes != 2 {
			t.Errorf("%d writes, want 2: the first line, and all that came while it was written", w.writes)
		}
	})
}

// timedWriter notes when something was written, and how much.
type timedWriter struct {
	output
	start time.Time
	log   []string // owned by the queue's goroutine
}

func (w *timedWriter) Write(p []byte) (int, error) {
	w.log = append(w.log, fmt.Sprintf("%v: %d", time.Since(w.start), len(p)))
	return w.output.Write(p)
}

func TestLogQueueGathersWhatFollowsSoon(t *testing.T) {
	tests := []struct {
		name  string
		lines []time.Duration // when a line of size bytes comes
		size  int
		want  string // when so many bytes were written
	}{
		{"a line alone goes at once", []time.Duration{0}, 10, "0s: 10"},
		{"after a pause too", []time.Duration{0, time.Second}, 10, "0s: 10, 1s: 10"},
		{"those that follow go together", []time.Duration{0, time.Millisecond, 2 * time.Millisecond, 9 * time.Millisecond}, 10, "0s: 10, 10ms: 30"},
		{"and those that follow these", []time.Duration{0, time.Millisecond, 11 * time.Millisecond, 12 * time.Millisecond}, 10, "0s: 10, 10ms: 10, 20ms: 20"},
		{"many bytes do not wait", []time.Duration{0, time.Millisecond, 2 * time.Millisecond}, fullLines / 2, "0s: 16384, 2ms: 32768"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &timedWriter{start: time.Now()}
				q := NewLogQueue(w, 0)
				ctx, cancel := context.WithCancel(t.Context())
				var run sync.WaitGroup
				run.Go(func() { q.Run(ctx) })
				line := []byte(strings.Repeat("x", tt.size-1) + "\n")
				for _, at := range tt.lines {
					time.Sleep(at - time.Since(w.start))
					q.Write(line)
					synctest.Wait()
				}
				time.Sleep(time.Second)
				cancel()
				run.Wait()
				if got := strings.Join(w.log, ", "); got != tt.want {
					t.Errorf("written %s, want %s", got, tt.want)
				}
			})
		})
	}
}

func TestLogQueueDropsRatherThanBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &heldWriter{gate: make(chan struct{})}
		q := NewLogQueue(w, 100)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { q.Run(ctx) })
		line := strings.Repeat("x", 29) + "\n"
		for range 50 {
			q.Write([]byte(line)) // would deadlock here if it waited
			synctest.Wait()
		}
		if got := q.Dropped(); got != 46 { // one is being written, three wait
			t.Errorf("%d lines dropped, want 46", got)
		}
		close(w.gate)
		cancel()
		wg.Wait()
		if got := len(w.lines()); got != 4 {
			t.Errorf("%d lines written, want 4", got)
		}
	})
}

func TestLogQueueKeepsLastWords(t *testing.T) {
	out := new(output)
	q := NewLogQueue(out, 0)
	log, err := NewLogger(LogConfig{}, q)
	if err != nil {
		t.Fatal(err)
	}
	log.Zap().Info("before Run")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := q.Run(ctx); err != nil {
		t.Fatal(err)
	}
	log.Zap().Error("after Run", zap.Int("n", 1))
	if lines := out.lines(); len(lines) != 2 || !strings.HasSuffix(lines[1], "after Run\tn=1") {
		t.Errorf("lines are %q, want both", lines)
	}
}

// brokenWriter cannot be written to.
type brokenWriter struct{ err error }

func (w brokenWriter) Write([]byte) (int, error) { return 0, w.err }

func TestLogQueueReportsABrokenWriter(t *testing.T) {
	broken := errors.New("broken pipe")
	q := NewLogQueue(brokenWriter{broken}, 0)
	fmt.Fprintln(q, "line")
	if err := q.Run(t.Context()); !errors.Is(err, broken) {
		t.Errorf("Run = %v, want %v", err, broken)
	}
}

func TestLogQueueUnderManyWriters(t *testing.T) {
	out := new(output)
	q := NewLogQueue(out, 0)
	ctx, cancel := context.WithCancel(t.Context())
	var run, writers sync.WaitGroup
	run.Go(func() { q.Run(ctx) })
	for w := range 8 {
		writers.Go(func() {
			for i := range 200 {
				fmt.Fprintf(q, "%d %d\n", w, i)
			}
		})
	}
	writers.Wait()
	cancel()
	run.Wait()
	next := make(map[int]int)
	for _, line := range out.lines() {
		var w, i int
		if _, err := fmt.Sscan(line, &w, &i); err != nil || next[w] != i {
			t.Fatalf("line %q: want writer %d to go on with %d", line, w, next[w])
		}
		next[w]++
	}
	for w := range 8 {
		if next[w] != 200 {
			t.Errorf("writer %d: %d lines, want 200", w, next[w])
		}
	}
}
