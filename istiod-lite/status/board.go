package status

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// Check says why the process is not ready; nil when it is.
type Check struct {
	Name string
	Fn   func() error
}

// Section is one part of /status. Its value is written as JSON.
type Section struct {
	Name string
	Fn   func() any
}

// Config is what a [Board] shows. All fields may be empty.
type Config struct {
	Checks []Check
	// Warnings say what people must look after although the process is ready.
	Warnings []Check
	Sections []Section
	// Place says where an object stands, for its author; may be nil.
	Place func(model.Key) string
}

// Board shows the state of the process. Its methods may be called from many
// goroutines.
type Board struct {
	cfg Config

	// mu guards the fields below.
	mu         sync.Mutex
	conditions map[model.Key][]model.Condition
}

// Condition is one condition of one object as /status shows it.
type Condition struct {
	Object  string `json:"object"`
	Place   string `json:"place,omitempty"`
	Type    string `json:"type"`
	Status  bool   `json:"status"`
	Reason  string `json:"reason"`
	Message string `json:"message,omitempty"`
}

// NewBoard makes a board without conditions.
func NewBoard(cfg Config) *Board {
	return &Board{cfg: cfg, conditions: map[model.Key][]model.Condition{}}
}

// Apply takes the conditions of changes in; others pass by.
func (b *Board) Apply(changes []model.Change) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range changes {
		switch {
		case c.Type != model.TypeCondition:
		case len(c.Conditions) == 0:
			delete(b.conditions, c.Object)
		default:
			b.conditions[c.Object] = c.Conditions
		}
	}
}

// Conditions are all that stand, by object.
func (b *Board) Conditions() []Condition {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := []Condition{}
	for key, conditions := range b.conditions {
		place := ""
		if b.cfg.Place != nil {
			place = b.cfg.Place(key)
		}
		for _, c := range conditions {
			all = append(all, Condition{Object: key.String(), Place: place, Type: c.Type, Status: c.True, Reason: c.Reason, Message: c.Message})
		}
	}
	slices.SortFunc(all, func(a, b Condition) int { return cmp.Or(cmp.Compare(a.Object, b.Object), cmp.Compare(a.Type, b.Type)) })
	return all
}

// Ready says why the process is not ready; nothing when it is.
func (b *Board) Ready() []string { return failing(b.cfg.Checks) }

// failing are the reasons of those checks that have one.
func failing(checks []Check) []string {
	reasons := []string{}
	for _, check := range checks {
		if err := check.Fn(); err != nil {
			reasons = append(reasons, check.Name+": "+err.Error())
		}
	}
	return reasons
}

// Handler serves the board and the metrics of g.
func (b *Board) Handler(g prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", b.serveReady)
	mux.HandleFunc("GET /status", b.serveStatus)
	mux.Handle("GET /metrics", promhttp.HandlerFor(g, promhttp.HandlerOpts{}))
	return mux
}

// serveReady answers 200 or the reasons why not.
func (b *Board) serveReady(w http.ResponseWriter, _ *http.Request) {
	reasons := b.Ready()
	if len(reasons) == 0 {
		fmt.Fprintln(w, "ok")
		for _, warning := range failing(b.cfg.Warnings) {
			fmt.Fprintln(w, "warning:", warning)
		}
		return
	}
	w.WriteHeader(http.StatusServiceUnavailable)
	for _, reason := range reasons {
		fmt.Fprintln(w, reason)
	}
}

// fromLoopback reports whether a request came from this machine. The page says
// more than a network that nobody has authenticated should know.
func fromLoopback(r *http.Request) bool {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && from.Addr().Unmap().IsLoopback()
}

// serveStatus writes everything, for programs or for people.
func (b *Board) serveStatus(w http.ResponseWriter, r *http.Request) {
	if !fromLoopback(r) {
		http.Error(w, "/status is answered on the machine itself only: ask 127.0.0.1 there", http.StatusForbidden)
		return
	}
	reasons := b.Ready()
	page := map[string]any{"ready": len(reasons) == 0, "notReady": reasons, "warnings": failing(b.cfg.Warnings), "conditions": b.Conditions()}
	for _, s := range b.cfg.Sections {
		page[s.Name] = s.Fn()
	}
	text, err := json.MarshalIndent(page, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if r.URL.Query().Get("format") == "text" {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if text, err = yaml.JSONToYAML(text); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	} else {
		w.Header().Set("Content-Type", "application/json")
		text = append(text, '\n')
	}
	w.Write(text)
}
