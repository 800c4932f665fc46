package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/ambit-mesh/ambit/cni/event"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"go.uber.org/zap"
)

const (
	// bodySize is the most a request may hold, in bytes: a GC list names every
	// attachment of the node.
	bodySize = 1 << 20

	// headerTimeout bounds how slowly a request may begin.
	headerTimeout = 5 * time.Second

	statusBad     = http.StatusBadRequest
	statusRefused = http.StatusInternalServerError // what the ecosystem's agent answers
	statusNotNow  = http.StatusServiceUnavailable
)

// refusal is an error with the status that says what kind it is.
type refusal struct {
	status int
	err    error
}

func (r *refusal) Error() string { return r.err.Error() }

// Unwrap makes errors.Is and errors.As see the cause.
func (r *refusal) Unwrap() error { return r.err }

// refuse gives err a status.
func refuse(status int, err error) error { return &refusal{status, err} }

// serve answers the plugin and people until ctx ends; requests under way may
// finish.
func (a *Agent) serve(ctx context.Context, l net.Listener) error {
	s := &http.Server{
		Handler:           a.Handler(),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       headerTimeout,
		ErrorLog:          zap.NewStdLog(a.log),
	}
	var closing lifecycle.Group
	ended, cancel := context.WithCancel(ctx)
	defer cancel()
	closing.Go(ended, "close", func(ended context.Context) {
		<-ended.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ended), a.cfg.AnswerTimeout)
		defer cancel()
		if s.Shutdown(grace) != nil {
			s.Close()
		}
	})
	err := s.Serve(l)
	cancel()
	closing.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Handler answers the requests of package event.
func (a *Agent) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+event.PathAdd, answer(a, "add", a.Add))
	mux.HandleFunc("POST "+event.PathCheck, answer(a, "check", a.Check))
	mux.HandleFunc("POST "+event.PathGC, answer(a, "gc", a.GC))
	mux.HandleFunc("POST "+event.PathDel, answer(a, "del", func(ctx context.Context, req event.Del) error {
		a.Del(ctx, req)
		return nil
	}))
	mux.HandleFunc("GET "+event.PathStatus, func(w http.ResponseWriter, _ *http.Request) {
		if err := a.answers(); err != nil {
			http.Error(w, err.Error(), statusNotNow)
		}
	})
	a.Show(mux)
	return mux
}

// answer reads a request of type T, has it carried out in time, and answers.
func answer[T any](a *Agent, name string, do func(context.Context, T) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeoutCause(r.Context(), a.cfg.AnswerTimeout, fmt.Errorf("it took longer than %v", a.cfg.AnswerTimeout))
		defer cancel()
		began := time.Now()
		defer func() { a.metrics.took.WithLabelValues(name).Observe(time.Since(began).Seconds()) }()
		var req T
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, bodySize)).Decode(&req)
		if err != nil {
			err = refuse(statusBad, fmt.Errorf("body of %s: %w", r.URL.Path, err))
		} else {
			err = do(ctx, req)
		}
		if err == nil {
			a.metrics.requests.WithLabelValues(name, "ok").Inc()
			return
		}
		a.metrics.requests.WithLabelValues(name, "refused").Inc()
		a.log.Warn("request refused", zap.String("request", name), zap.Error(err))
		status := statusRefused
		var r2 *refusal
		if errors.As(err, &r2) {
			status = r2.status
		}
		http.Error(w, err.Error(), status)
	}
}
