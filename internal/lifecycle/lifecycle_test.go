package lifecycle

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestGroupWaitsForAll(t *testing.T) {
	var g Group
	var done atomic.Int32
	release := make(chan struct{})
	for range 5 {
		g.Go(t.Context(), "worker", func(context.Context) { <-release; done.Add(1) })
	}
	close(release)
	g.Wait()
	if got := done.Load(); got != 5 {
		t.Errorf("after Wait %d of 5 goroutines have ended", got)
	}
}

func TestBackoffDoublesToItsLimitAndResets(t *testing.T) {
	b := Backoff{Initial: 100 * time.Millisecond, Max: time.Second, Jitter: 0.1}
	for i, want := range []time.Duration{100, 200, 400, 800, 1000, 1000} {
		want *= time.Millisecond
		if got := b.Next(); got < want*9/10 || got > want*11/10 || got > time.Second {
			t.Errorf("wait %d = %v, want %v +-10%%, at most 1 s", i, got, want)
		}
	}
	b.Reset()
	if got := b.Next(); got > 110*time.Millisecond {
		t.Errorf("wait after Reset = %v, want about 100 ms", got)
	}
}

func TestSleepEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		why := errors.New("asked to stop")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(why) })
		start := time.Now()
		if err := Sleep(ctx, time.Hour); !errors.Is(err, why) || time.Since(start) != time.Second {
			t.Errorf("Sleep = %v after %v, want %v after 1 s", err, time.Since(start), why)
		}
	})
}
