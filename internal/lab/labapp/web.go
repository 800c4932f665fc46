package labapp

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

const (
	// maxWait bounds what a client can ask for with [AskWait].
	maxWait = 10 * time.Second
	// maxNames is how many names of [AskFailFirst] a server remembers, so that a client
	// that makes up names fills no memory.
	maxNames = 1000
)

// web says hello, or what it is asked to do instead. It may be asked by many at
// once.
type web struct {
	pod     string
	leaving <-chan struct{} // when it is closed, answers end their connections
	busy    atomic.Int64    // requests with AskWait in hand

	mu    sync.Mutex
	tries map[string]int // by name of AskFailFirst
}

// serveHTTP serves until ctx ends.
func serveHTTP(ctx context.Context, ln net.Listener, pod string, leaving <-chan struct{}) {
	server := &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler:           &web{pod: pod, leaving: leaving, tries: map[string]int{}},
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(ln); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "http:", err)
	}
}

func (s *web) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if m := r.Header.Get(markerHeader); m != "" {
		w.Header().Set(markerHeader, m)
	}
	select {
	case <-s.leaving:
		w.Header().Set("Connection", "close")
	default:
	}
	busy := 0
	if wait, err := time.ParseDuration(r.Header.Get(AskWait)); err == nil {
		busy = int(s.busy.Add(1))
		defer s.busy.Add(-1)
		if lifecycle.Sleep(r.Context(), min(wait, maxWait)) != nil {
			return // the client has gone
		}
	}
	try, failing := s.try(r.Header.Get(AskFailFirst))
	if failing || r.Header.Get(AskFailAt) == s.pod {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(Hello{Pod: s.pod, Remote: r.RemoteAddr, Try: try, Busy: busy}) // the client sees what is missing
}

// try counts a request that asks to fail the first so many times, and reports
// whether this is one of them.
func (s *web) try(ask string) (try int, failing bool) {
	name, count, ok := strings.Cut(ask, " ")
	n, err := strconv.Atoi(count)
	if !ok || err != nil {
		return 0, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.tries) >= maxNames {
		clear(s.tries)
	}
	s.tries[name]++
	return s.tries[name], s.tries[name] <= n
}
