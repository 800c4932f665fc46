package admin

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// Readiness is the list of what must happen before this proxy takes work. Its
// zero value has nothing on it and is ready. Any goroutine may use it.
type Readiness struct {
	mu      sync.Mutex
	pending []string // in the order in which they were put
}

// Task puts name on the list and returns how to take it off; that may be called
// more than once.
func (r *Readiness) Task(name string) (done func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pending = append(r.pending, name)
	return sync.OnceFunc(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		at := slices.Index(r.pending, name)
		r.pending = slices.Delete(r.pending, at, at+1)
	})
}

// Pending returns what has not happened yet.
func (r *Readiness) Pending() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.pending)
}

// readyHandler answers the kubelet.
func (s *Server) readyHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz/ready", func(w http.ResponseWriter, _ *http.Request) {
		pending := s.deps.Ready.Pending()
		if len(pending) > 0 {
			http.Error(w, "not ready, pending: "+strings.Join(pending, ", "), http.StatusInternalServerError)
			return
		}
		write(w, "ready\n")
	})
	return mux
}

// write answers with text. An error means that the asker has gone, which is
// nobody's loss.
func write(w io.Writer, text string) { _, _ = io.WriteString(w, text) }
