package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/ambit-mesh/ambit/cni/event"
	"github.com/ambit-mesh/ambit/cni/redirect"
)

// pathRules is where the rules in pods are shown.
const pathRules = "/rules"

// Show adds to mux what people may see of an agent and that changes nothing: the
// pods it knows, and the rules that are in them now.
func (a *Agent) Show(mux *http.ServeMux) {
	mux.HandleFunc("GET "+event.PathPods, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(a.Pods()); err != nil {
			a.log.Warn("the list of pods was not read to its end", zap.Error(err))
		}
	})
	mux.HandleFunc("GET "+pathRules, func(w http.ResponseWriter, r *http.Request) {
		if _, err := fmt.Fprint(w, a.renderRules(r.Context())); err != nil {
			a.log.Warn("the rules were not read to their end", zap.Error(err))
		}
	})
}

// renderRules renders what of ours each pod's namespace holds.
func (a *Agent) renderRules(ctx context.Context) string {
	a.mu.Lock()
	all := make([]*attachment, 0, len(a.attachments))
	for _, at := range a.attachments {
		all = append(all, at)
	}
	a.mu.Unlock()
	slices.SortFunc(all, func(x, y *attachment) int { return strings.Compare(x.name, y.name) })
	var out strings.Builder
	for _, at := range all {
		fmt.Fprintf(&out, "# %s\n", at.name)
		text, err := a.rulesIn(ctx, at)
		if err != nil {
			text = err.Error() + "\n"
		}
		out.WriteString(text)
	}
	return out.String()
}

// rulesIn renders what of ours one namespace holds.
func (a *Agent) rulesIn(ctx context.Context, at *attachment) (string, error) {
	if err := at.lock(ctx); err != nil {
		return "", fmt.Errorf("a request about it is under way: %w", err)
	}
	defer at.unlock()
	a.mu.Lock()
	gone := at.gone
	a.mu.Unlock()
	if gone {
		return "", nil
	}
	return redirect.Read(at.ns)
}
