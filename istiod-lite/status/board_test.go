package status_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/ambit-mesh/ambit/istiod-lite/model"
	"github.com/ambit-mesh/ambit/istiod-lite/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// get asks a board.
func get(b *status.Board, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.RemoteAddr = "127.0.0.1:1234"
	b.Handler(prometheus.NewRegistry()).ServeHTTP(w, r)
	return w
}

func TestReadyNamesWhatIsMissing(t *testing.T) {
	missing := errors.New("no picture yet")
	b := status.NewBoard(status.Config{Checks: []status.Check{
		{Name: "fine", Fn: func() error { return nil }},
		{Name: "picture", Fn: func() error { return missing }},
	}})
	if w := get(b, "/readyz"); w.Code != http.StatusServiceUnavailable || w.Body.String() != "picture: no picture yet\n" {
		t.Errorf("/readyz: %d %s", w.Code, w.Body)
	}
	if w := get(b, "/healthz"); w.Code != http.StatusOK {
		t.Errorf("/healthz: %d", w.Code)
	}
	missing = nil
	if w := get(b, "/readyz"); w.Code != http.StatusOK {
		t.Errorf("/readyz: %d %s", w.Code, w.Body)
	}
}

func TestWarningsDoNotTakeAway(t *testing.T) {
	b := status.NewBoard(status.Config{Warnings: []status.Check{{Name: "key", Fn: func() error { return errors.New("it has expired") }}}})
	if w := get(b, "/readyz"); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "warning: key: it has expired") {
		t.Errorf("/readyz: %d %s, want it ready, with the warning", w.Code, w.Body)
	}
	if w := get(b, "/status?format=text"); !strings.Contains(w.Body.String(), "it has expired") {
		t.Errorf("/status does not say what it warns of:\n%s", w.Body)
	}
}

func TestConditionsComeAndGo(t *testing.T) {
	key := model.Key{Kind: model.KindAuthorizationPolicy, Namespace: "shop", Name: "p"}
	b := status.NewBoard(status.Config{
		Place:    func(model.Key) string { return "a.yaml:3" },
		Sections: []status.Section{{Name: "extra", Fn: func() any { return map[string]int{"n": 7} }}},
	})
	b.Apply([]model.Change{
		{Type: model.TypeAddress, Name: "x"},
		{Type: model.TypeCondition, Object: key, Conditions: []model.Condition{{Type: "ZtunnelAccepted", Reason: "UnsupportedValue", Message: "why"}}},
	})
	w := get(b, "/status?format=text")
	for _, want := range []string{"object: AuthorizationPolicy shop/p", "place: a.yaml:3", "reason: UnsupportedValue", "message: why", "extra:", "ready: true"} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("/status does not say %q:\n%s", want, w.Body)
		}
	}
	b.Apply([]model.Change{{Type: model.TypeCondition, Object: key}})
	if got := b.Conditions(); len(got) != 0 {
		t.Errorf("conditions are %v", got)
	}
}

func TestOtherMethodsAndPathsAreRefused(t *testing.T) {
	b := status.NewBoard(status.Config{})
	w := httptest.NewRecorder()
	b.Handler(prometheus.NewRegistry()).ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/status", nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST /status: %d", w.Code)
	}
	if w := get(b, "/debug/pprof/"); w.Code != http.StatusNotFound {
		t.Errorf("/debug/pprof/: %d", w.Code)
	}
}

// Whoever serves it on a network does not tell that network what is in the mesh.
func TestStatusIsForThisMachine(t *testing.T) {
	b := status.NewBoard(status.Config{Sections: []status.Section{{Name: "secret", Fn: func() any { return "plan" }}}})
	for from, want := range map[string]int{
		"127.0.0.1:1": http.StatusOK, "[::1]:1": http.StatusOK, "[::ffff:127.0.0.1]:1": http.StatusOK,
		"10.0.0.1:1": http.StatusForbidden, "[2001:db8::1]:1": http.StatusForbidden, "": http.StatusForbidden,
	} {
		r := httptest.NewRequest(http.MethodGet, "/status", nil)
		r.RemoteAddr = from
		r.Header.Set("X-Forwarded-For", "127.0.0.1")
		w := httptest.NewRecorder()
		b.Handler(prometheus.NewRegistry()).ServeHTTP(w, r)
		if w.Code != want || strings.Contains(w.Body.String(), "plan") != (want == http.StatusOK) {
			t.Errorf("from %q: %d %s, want %d", from, w.Code, w.Body, want)
		}
	}
}
