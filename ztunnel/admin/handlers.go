package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/pprof"
	"net/url"
	"strconv"

	"go.uber.org/zap"

	"github.com/ambit-mesh/ambit/internal/telemetry"
)

// index is what a person sees first.
const index = `<!DOCTYPE html>
<title>node proxy</title>
<h1>node proxy</h1>
<ul>
<li><a href="config_dump">config_dump</a>: workloads, services, policies, certificates, pods
<li><a href="connections">connections</a>: open and lately ended ones (pod=, state=)
<li>why?src=ADDR-or-POD&amp;dst=ADDR-or-NAME: what became of connections between the two
<li>logging: POST ?level=info, ?level=scope:debug,..., ?reset; without any: what is in force
<li>quitquitquit: POST, stop politely
<li><a href="debug/pprof/">debug/pprof</a>: profiles
</ul>
`

// adminHandler answers people.
func (s *Server) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		write(w, index)
	})
	mux.HandleFunc("GET /config_dump", s.configDump)
	mux.HandleFunc("GET /connections", s.connections)
	mux.HandleFunc("GET /why", s.why)
	mux.HandleFunc("POST /logging", s.logging)
	mux.HandleFunc("POST /quitquitquit", s.quit)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/profile", timed(10, pprof.Profile))
	mux.HandleFunc("GET /debug/pprof/trace", timed(1, pprof.Trace))
	return mux
}

// statsHandler answers Prometheus.
func (s *Server) statsHandler() http.Handler {
	metrics := telemetry.Handler(s.deps.Registry)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics)
	mux.Handle("GET /stats/prometheus", metrics)
	return mux
}

// maxSeconds is the longest profile.
const maxSeconds = 300

// timed gives a profile a length of usual seconds unless the request names one,
// and refuses lengths that make no sense.
func timed(usual int, profile http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		text := q.Get("seconds")
		if text == "" {
			text = strconv.Itoa(usual)
		}
		if n, err := strconv.Atoi(text); err != nil || n < 1 || n > maxSeconds {
			http.Error(w, fmt.Sprintf("seconds is %q, want 1 to %d", clipHost(text), maxSeconds), http.StatusBadRequest)
			return
		}
		q.Set("seconds", text)
		r.URL.RawQuery = q.Encode()
		r.Form = nil
		profile(w, r)
	}
}

// logging shows and changes what each scope logs.
func (s *Server) logging(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	spec := q.Get("level")
	if q.Has("reset") {
		spec = "reset," + spec
	}
	if err := s.deps.Levels.Set(spec); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	now := s.deps.Levels.String()
	if spec != "" {
		s.log.Info("log levels changed", zap.String("levels", now))
	}
	write(w, "current log level is "+now+"\n")
}

// quit asks the process to end politely.
func (s *Server) quit(w http.ResponseWriter, r *http.Request) {
	s.log.Info("asked to stop", zap.String("by", r.RemoteAddr))
	write(w, "shutdown now\n")
	s.deps.Quit()
}

// answerJSON answers with v.
func (s *Server) answerJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		s.log.Debug("answer not sent", zap.Error(err))
	}
}

// param returns a parameter of a query, and whether it is there.
func param(q url.Values, name string) (string, bool) {
	v := q.Get(name)
	return v, v != ""
}
