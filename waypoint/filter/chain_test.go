package filter

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

// passOf is a request on its way, and what becomes of it.
func passOf(t *testing.T, target string, prefix int, filters ...*waypointapi.Filter) (*Pass, *Answer, *Chain) {
	t.Helper()
	c, err := Compile(filters)
	if err != nil {
		t.Fatal(err)
	}
	s := subject(t, "web", "GET", target)
	p := &Pass{Request: s.HTTP, Prefix: prefix, Port: 8080, Caller: "web", Rand: func(uint32) uint32 { return 500_000 }, Now: time.Unix(1000, 0)}
	return p, c.Apply(p), c
}

func rewritePath(kind, value string) *waypointapi.Filter {
	change := &waypointapi.PathChange{Kind: &waypointapi.PathChange_Prefix{Prefix: value}}
	if kind == "full" {
		change.Kind = &waypointapi.PathChange_Full{Full: value}
	}
	return &waypointapi.Filter{Kind: &waypointapi.Filter_Rewrite{Rewrite: &waypointapi.Rewrite{Path: change}}}
}

// Source: Gateway API, HTTPPathModifier.
func TestRewrite(t *testing.T) {
	tests := []struct{ target, prefix, kind, value, want string }{
		{"/foo/bar", "/foo", "prefix", "/xyz", "/xyz/bar"},
		{"/foo/bar", "/foo", "prefix", "/xyz/", "/xyz/bar"},
		{"/foo", "/foo", "prefix", "/xyz", "/xyz"},
		{"/foo/", "/foo", "prefix", "/xyz", "/xyz/"},
		{"/foo/bar", "/foo", "prefix", "", "/bar"},
		{"/foo/", "/foo", "prefix", "", "/"},
		{"/foo", "/foo", "prefix", "", "/"},
		{"/foo", "/foo", "prefix", "/", "/"},
		{"/foo/bar?q=1", "", "full", "/other", "/other?q=1"},
	}
	for _, tt := range tests {
		p, a, _ := passOf(t, tt.target, len(tt.prefix), rewritePath(tt.kind, tt.value))
		if got := p.Request.Target.String(); a != nil || got != tt.want {
			t.Errorf("%s with %s %q for %q: %s, want %s (%v)", tt.target, tt.kind, tt.value, tt.prefix, got, tt.want, a)
		}
	}
}

func TestRedirect(t *testing.T) {
	tests := []struct {
		r    *waypointapi.Redirect
		want string
	}{
		{&waypointapi.Redirect{}, "302 http://orders.shop/a?b=c"},
		{&waypointapi.Redirect{Scheme: "https", Status: 301}, "301 https://orders.shop/a?b=c"},
		{&waypointapi.Redirect{Scheme: "https", Port: 8443}, "302 https://orders.shop:8443/a?b=c"},
		{&waypointapi.Redirect{Host: "other"}, "302 http://other:8080/a?b=c"},
		{&waypointapi.Redirect{Port: 80}, "302 http://orders.shop/a?b=c"},
	}
	for _, tt := range tests {
		_, a, _ := passOf(t, "/a?b=c", 0, &waypointapi.Filter{Kind: &waypointapi.Filter_Redirect{Redirect: tt.r}})
		if got := fmt.Sprint(a.Status, " ", a.Fields.Get("location")); got != tt.want {
			t.Errorf("%v: %s, want %s", tt.r, got, tt.want)
		}
	}
}

func TestFault(t *testing.T) {
	fault := func(f *waypointapi.Fault) *waypointapi.Filter {
		return &waypointapi.Filter{Kind: &waypointapi.Filter_Fault{Fault: f}}
	}
	p, a, _ := passOf(t, "/", 0, fault(&waypointapi.Fault{Delay: durationpb.New(time.Second), DelayPerMillion: 500_001, AbortStatus: 418, AbortPerMillion: 500_000}))
	if p.Delay != time.Second || a != nil {
		t.Errorf("delay %v, answer %v", p.Delay, a)
	}
	if _, a, _ = passOf(t, "/", 0, fault(&waypointapi.Fault{AbortStatus: 418, AbortPerMillion: 1_000_000})); a == nil || a.Status != 418 {
		t.Errorf("answer %v", a)
	}
}

func TestCors(t *testing.T) {
	cors := &waypointapi.Filter{Kind: &waypointapi.Filter_Cors{Cors: &waypointapi.Cors{
		Origins: []*waypointapi.StringMatch{exactly("https://good")}, Methods: []string{"GET", "PUT"}, Credentials: true,
	}}}
	c, err := Compile([]*waypointapi.Filter{cors})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		method, origin string
		answered       bool
		allowed        string
	}{
		{"GET", "https://good", false, "https://good"}, {"OPTIONS", "https://good", true, "https://good"},
		{"GET", "https://bad", false, ""}, {"OPTIONS", "https://bad", true, ""},
	} {
		s := subject(t, "web", tt.method, "/", "Origin="+tt.origin, "Access-Control-Request-Method=PUT")
		p := &Pass{Request: s.HTTP}
		a := c.Apply(p)
		fields := message.Fields{}
		if a != nil {
			fields = a.Fields
		}
		c.Respond(p, &fields)
		if (a != nil) != tt.answered || fields.Get("access-control-allow-origin") != tt.allowed {
			t.Errorf("%s from %s: answer %v, fields %v", tt.method, tt.origin, a, fields)
		}
	}
}

// So many requests a time, for each caller by itself; and callers are forgotten.
func TestRateLimit(t *testing.T) {
	s, err := compileLimit(&waypointapi.RateLimit{Requests: 2, Per: durationpb.New(time.Second), PerIdentity: true})
	if err != nil {
		t.Fatal(err)
	}
	l := s.(*limit)
	now := time.Unix(1000, 0)
	for i, want := range []bool{true, true, false} {
		if got := l.take("a", now); got != want {
			t.Errorf("request %d: %v", i, got)
		}
	}
	if !l.take("b", now) || !l.take("a", now.Add(500*time.Millisecond)) {
		t.Error("another caller, or another time, is refused")
	}
	for i := range 3 * maxCallers {
		l.take(fmt.Sprint(i), now)
	}
	if n := len(l.buckets); n > maxCallers {
		t.Errorf("%d callers are kept", n)
	}
}

func TestFiltersThatAreNoneAreErrors(t *testing.T) {
	for name, f := range map[string]*waypointapi.Filter{
		"nothing":           {},
		"framing header":    {Kind: &waypointapi.Filter_RequestHeaders{RequestHeaders: &waypointapi.HeaderChange{Set: []*waypointapi.Header{{Name: "Content-Length", Value: "1"}}}}},
		"header with a CR":  {Kind: &waypointapi.Filter_RequestHeaders{RequestHeaders: &waypointapi.HeaderChange{Add: []*waypointapi.Header{{Name: "X", Value: "a\r\nb: c"}}}}},
		"redirect with 200": {Kind: &waypointapi.Filter_Redirect{Redirect: &waypointapi.Redirect{Status: 200}}},
		"limit of no time":  {Kind: &waypointapi.Filter_RateLimit{RateLimit: &waypointapi.RateLimit{Requests: 1}}},
	} {
		if _, err := Compile([]*waypointapi.Filter{f}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
