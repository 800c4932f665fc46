package agent

import (
	"net/http"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/cni/event"
	"github.com/ambit-mesh/ambit/cni/redirect"
)

// The rules that are shown are those that are in the pods, under their names.
func TestRulesAreShown(t *testing.T) {
	n := newNode(t, Config{Node: "node-1"})
	n.newZtunnel()
	s := newSandbox(t, "10.74.0.2/24")
	n.manifest("web", "u1", "")
	req := s.request("web", "c1")
	req.PodUID = "u1"
	n.mustAsk(event.PathAdd, req)
	want := "# shop/web\n" + redirect.Text(redirect.Config{IPv6: true, RefuseClosed: true})
	if status, got := n.ask(http.MethodGet, pathRules, nil); status != http.StatusOK || strings.TrimSpace(got) != strings.TrimSpace(want) {
		t.Errorf("rules: %d\n%s\nwant\n%s", status, got, want)
	}
	s.flush(t, "nat-output")
	if _, got := n.ask(http.MethodGet, pathRules, nil); strings.TrimSpace(got) == strings.TrimSpace(want) {
		t.Error("rules that were taken out are still shown")
	}
}
