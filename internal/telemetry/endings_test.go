package telemetry

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// While Run writes and when it ends under connections that end, each of them has
// exactly one line, with the time at which it ended.
func TestEndingsAreWrittenOnce(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	r, err := NewRecords(Config{}, Deps{Log: zap.New(core), Registry: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()

	const workers, each = 4, 2 * maxEndings
	begun := time.Now()
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			for i := range each {
				rec := r.Open(Conn{Authority: fmt.Sprintf("%d.%d", w, i)})
				if i%2 == 0 {
					rec.Close(nil)
				} else {
					rec.Close(errors.New("cut"))
				}
				if w == 0 && i == each/2 {
					stop()
				}
			}
		})
	}
	all.Wait()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	seen := map[any]bool{}
	for _, e := range logs.All() {
		name := e.ContextMap()["dst.hbone_addr"]
		if seen[name] {
			t.Errorf("%v has two lines", name)
		}
		seen[name] = true
		if e.Time.Before(begun) || e.Time.After(time.Now()) {
			t.Errorf("%v ended at %v, outside of the test", name, e.Time)
		}
	}
	if len(seen) != workers*each {
		t.Errorf("%d lines of %d connections", len(seen), workers*each)
	}
}

// A single connection's line does not wait for others.
func TestEndingOfOneIsWrittenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.InfoLevel)
		r, err := NewRecords(Config{}, Deps{Log: zap.New(core), Registry: prometheus.NewRegistry()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		defer func() { stop(); <-done }()
		synctest.Wait()
		lines := func(when string, want int) {
			t.Helper()
			synctest.Wait()
			if logs.Len() != want {
				t.Errorf("%s there are %d lines, want %d", when, logs.Len(), want)
			}
		}
		r.Open(Conn{}).Close(nil)
		lines("after one", 1)
		r.Open(Conn{}).Close(nil)
		r.Open(Conn{}).Close(nil)
		lines("when others follow closely", 1)
		<-time.After(gatherTime)
		lines("a moment later", 3)
	})
}
