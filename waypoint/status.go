package waypoint

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/telemetry"
)

// serveStatus serves metrics and readiness until ctx ends.
func (w *Waypoint) serveStatus(ctx context.Context) error {
	stats, ready := http.NewServeMux(), http.NewServeMux()
	metrics := telemetry.Handler(w.registry)
	stats.Handle("GET /metrics", metrics)
	stats.Handle("GET /stats/prometheus", metrics)
	ready.HandleFunc("GET /healthz/ready", func(rw http.ResponseWriter, _ *http.Request) {
		if !w.Ready() {
			http.Error(rw, "not ready: no certificate, or the control plane has not told what is served", http.StatusInternalServerError)
			return
		}
		fmt.Fprintln(rw, "ready")
	})
	// Whether it is alive is another question than whether it is ready: one that
	// waits for the control plane, or finishes its last requests, must not be ended.
	ready.HandleFunc("GET /healthz/live", func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprintln(rw, "alive") })
	var servers lifecycle.Group
	defer servers.Wait()
	failed := make(chan error, 2)
	for name, s := range map[string]struct {
		addr string
		mux  *http.ServeMux
	}{"stats": {w.cfg.Stats, stats}, "readiness": {w.cfg.Readiness, ready}} {
		if s.addr == "off" {
			continue
		}
		ln, err := net.Listen("tcp", s.addr)
		if err != nil {
			return fmt.Errorf("listen for %s: %w", name, err)
		}
		w.listening(name, ln.Addr())
		server := &http.Server{Handler: s.mux, ReadHeaderTimeout: 5 * time.Second}
		stop := context.AfterFunc(ctx, func() { server.Close() })
		defer stop()
		defer server.Close()
		servers.Go(ctx, name, func(context.Context) { failed <- server.Serve(ln) })
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		return err
	}
}
