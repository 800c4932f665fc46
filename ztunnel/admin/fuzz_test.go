package admin

import (
	"cmp"
	"encoding/json"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// FuzzQuery: whatever somebody asks the admin server, and under which name, it
// answers: only those who ask for this machine, with a part of what /connections
// says, and with log levels that can be read again.
func FuzzQuery(f *testing.F) {
	pages := []string{"/connections", "/why", "/logging", "/debug/pprof/profile"}
	f.Add(uint8(0), "pod=shop/web-1&state=open", "localhost:15000")
	f.Add(uint8(0), "pod=%00;&pod=uid-web", "[::1]")
	f.Add(uint8(1), "src=10.0.0.1&dst=CART.shop.svc.cluster.local", "127.0.0.1")
	f.Add(uint8(1), "dst=10.0.1.2", "evil.example")
	f.Add(uint8(2), "level=info,xds:debug", "localhost")
	f.Add(uint8(2), "reset&level=%ff:,=trace", "localhost:")
	f.Add(uint8(3), "seconds=301", "[::ffff:127.0.0.1]:1")
	r := newRig(f, Config{})
	r.openConnections()
	handler := guard(r.server.adminHandler())
	f.Fuzz(func(t *testing.T, which uint8, query, host string) {
		page := pages[int(which)%len(pages)]
		method := "GET"
		if page == "/logging" {
			method = "POST"
		}
		req := httptest.NewRequestWithContext(t.Context(), method, page, nil)
		req.Host, req.URL.RawQuery = host, query
		if n, err := strconv.Atoi(cmp.Or(req.URL.Query().Get("seconds"), "10")); page == "/debug/pprof/profile" && err == nil && n >= 1 && n <= maxSeconds {
			return // a profile takes that long
		}
		before := r.levels.String()
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, req)
		body := w.Body.String()
		if !slices.Contains([]int{200, 400, 403}, w.Code) {
			t.Fatalf("%s?%q of %q: %d %q", page, query, host, w.Code, body)
		}
		if w.Code == 200 && !strings.EqualFold(strings.SplitN(host, ":", 2)[0], "localhost") && !strings.ContainsAny(host, ".:") {
			t.Errorf("host %q is taken for this machine", host)
		}
		switch {
		case page == "/logging" && w.Code == 200:
			if now := r.levels.String(); body != "current log level is "+now+"\n" || r.levels.Set(now) != nil || r.levels.String() != now {
				t.Errorf("levels %q became %q, which is read as %q; the answer is %q", query, now, r.levels, body)
			}
		case r.levels.String() != before:
			t.Errorf("%s?%q: %d, and yet the levels changed from %s to %s", page, query, w.Code, before, r.levels)
		case w.Code == 200 && page != "/logging":
			var got answer
			if err := json.Unmarshal([]byte(body), &got); err != nil || len(got.Open) > 3 || len(got.Recent) != 0 {
				t.Errorf("%s?%q: %v, %d open and %d recent of 3 and 0", page, query, err, len(got.Open), len(got.Recent))
			}
		}
	})
}
