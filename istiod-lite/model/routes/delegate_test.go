package routes

import (
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	api "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"google.golang.org/protobuf/types/known/durationpb"
)

// Short ways to write comparisons.
func is(s string) *api.StringMatch {
	return &api.StringMatch{MatchType: &api.StringMatch_Exact{Exact: s}}
}

func begins(s string) *api.StringMatch {
	return &api.StringMatch{MatchType: &api.StringMatch_Prefix{Prefix: s}}
}

func like(s string) *api.StringMatch {
	return &api.StringMatch{MatchType: &api.StringMatch_Regex{Regex: s}}
}

// virtual is a VirtualService.
func virtual(namespace, name string, routes ...*api.HTTPRoute) *networking.VirtualService {
	return &networking.VirtualService{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: api.VirtualService{Http: routes}}
}

// goes is a route to a host, with matches.
func goes(host string, matches ...*api.HTTPMatchRequest) *api.HTTPRoute {
	return &api.HTTPRoute{Match: matches, Route: []*api.HTTPRouteDestination{{Destination: &api.Destination{Host: host}}}}
}

func TestDelegates(t *testing.T) {
	root := func(r *api.HTTPRoute) *networking.VirtualService {
		r.Delegate = &api.Delegate{Name: "leaf", Namespace: "team"}
		return virtual("shop", "root", r, goes("rest"))
	}
	under := func(m ...*api.HTTPMatchRequest) *api.HTTPRoute { return &api.HTTPRoute{Match: m} }
	prefix := &api.HTTPMatchRequest{Uri: begins("/a")}
	for _, tt := range []struct {
		name   string
		root   *networking.VirtualService
		leaf   *networking.VirtualService // nil: there is none
		routes string                     // names and backends
		says   string                     // in problems; empty: none
	}{
		{"routes of the delegate stand where it is named", root(under(prefix)), virtual("team", "leaf", goes("one", &api.HTTPMatchRequest{Uri: is("/a/b")}), goes("two")),
			"VirtualService shop/root[0], VirtualService team/leaf[0] team/one; VirtualService shop/root[0], VirtualService team/leaf[1] team/two; VirtualService shop/root[1] shop/rest", ""},
		{"what is no part of the root takes no effect", root(under(prefix)), virtual("team", "leaf", goes("one", &api.HTTPMatchRequest{Uri: begins("/b")}), goes("two")),
			"VirtualService shop/root[0], VirtualService team/leaf[1] team/two; VirtualService shop/root[1] shop/rest", "spec.http[0].delegate: VirtualService team/leaf[0] asks for what this route does not let through (match[0].uri)"},
		{"one level only", root(under()), virtual("team", "leaf", &api.HTTPRoute{Delegate: &api.Delegate{Name: "x"}}, goes("two")),
			"VirtualService shop/root[0], VirtualService team/leaf[1] team/two; VirtualService shop/root[1] shop/rest", "only one level"},
		{"one that is missing refuses", root(under(prefix)), nil, "VirtualService shop/root[0] refused; VirtualService shop/root[1] shop/rest", "spec.http[0].delegate: there is no leaf"},
		{"beside a route", root(goes("x")), virtual("team", "leaf", goes("two")), "VirtualService shop/root[0] refused; VirtualService shop/root[1] shop/rest", "want it alone"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			find := func(namespace, name string) Delegate {
				if tt.leaf == nil || namespace != "team" || name != "leaf" {
					return Delegate{Problem: "there is no leaf"}
				}
				return Delegate{Object: tt.leaf, Resolve: known}
			}
			got := Virtual(tt.root, Expand(tt.root, known, find), 80, known)
			var names []string
			for _, r := range got.Routes {
				to := "refused"
				if len(r.Filters) == 0 {
					to = r.Backends[0].Service
				}
				names = append(names, r.Name+" "+to)
			}
			if text := strings.Join(names, "; "); text != tt.routes {
				t.Errorf("routes %s, want %s", text, tt.routes)
			}
			text := ""
			for _, p := range got.Problems {
				text += p.String() + "; "
			}
			if !strings.Contains(text, tt.says) || tt.says == "" && text != "" {
				t.Errorf("problems %q, want %q", text, tt.says)
			}
		})
	}
}

// What the delegate does not say the root does.
func TestWhatADelegateInherits(t *testing.T) {
	root := &api.HTTPRoute{
		Timeout: durationpb.New(1e9), Retries: &api.HTTPRetry{Attempts: 3}, Rewrite: &api.HTTPRewrite{Uri: "/root"}, Mirror: &api.Destination{Host: "copy"},
		Headers: &api.Headers{Request: &api.Headers_HeaderOperations{Set: map[string]string{"a": "root", "b": "root"}}},
	}
	leaf := goes("x")
	leaf.Timeout = durationpb.New(2e9)
	leaf.Headers = &api.Headers{Request: &api.Headers_HeaderOperations{Set: map[string]string{"b": "leaf"}}}
	got, why := mergeRoutes(root, leaf)
	if why != "" {
		t.Fatal(why)
	}
	set := got.GetHeaders().GetRequest().GetSet()
	if got.GetTimeout().AsDuration() != 2e9 || got.GetRetries().GetAttempts() != 3 || got.GetRewrite().GetUri() != "/root" || got.GetMirror().GetHost() != "copy" || set["a"] != "root" || set["b"] != "leaf" {
		t.Errorf("merged: %v", got)
	}
	if leaf.GetRetries() != nil || root.GetHeaders().GetRequest().GetSet()["b"] != "root" {
		t.Error("the originals were changed")
	}
}

// A delegate gets no request that the root would not leave to it, whatever both ask for,
// and all that it asks for of those that it may have.
func TestMergedMatchesHoldForBoth(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 9))
	texts := []string{"", "/a", "/ab", "/a/b", "/b"}
	text := func() string { return texts[rng.IntN(len(texts))] }
	comparison := func() *api.StringMatch {
		return []*api.StringMatch{nil, is(text()), begins(text()), like("/a.*"), like(".*b"), {}}[rng.IntN(6)]
	}
	fields := func() map[string]*api.StringMatch {
		m := map[string]*api.StringMatch{}
		for _, name := range []string{"x", "y"} {
			if c := comparison(); c != nil && rng.IntN(6) == 0 {
				m[name] = c
			}
		}
		return m
	}
	match := func() *api.HTTPMatchRequest {
		return &api.HTTPMatchRequest{Uri: comparison(), Method: []*api.StringMatch{nil, nil, begins("/")}[rng.IntN(3)], Headers: fields(), WithoutHeaders: fields(), QueryParams: fields(), Port: uint32(rng.IntN(3))}
	}
	type request struct {
		path, method   string
		headers, query map[string]string
		port           uint32
	}
	holds := func(c *api.StringMatch, value string, there bool) bool {
		switch k := c.GetMatchType().(type) {
		case *api.StringMatch_Exact:
			return there && value == k.Exact
		case *api.StringMatch_Prefix:
			return there && strings.HasPrefix(value, k.Prefix)
		case *api.StringMatch_Regex:
			return there && regexp.MustCompile("^(?:"+k.Regex+")$").MatchString(value)
		}
		return there
	}
	matches := func(m *api.HTTPMatchRequest, r request) bool {
		ok := holds(m.GetUri(), r.path, true) && holds(m.GetMethod(), r.method, true) && (m.GetPort() == 0 || m.GetPort() == r.port)
		for name, c := range m.GetHeaders() {
			v, there := r.headers[name]
			ok = ok && holds(c, v, there)
		}
		for name, c := range m.GetWithoutHeaders() {
			v, there := r.headers[name]
			ok = ok && !holds(c, v, there)
		}
		for name, c := range m.GetQueryParams() {
			v, there := r.query[name]
			ok = ok && holds(c, v, there)
		}
		return ok
	}
	values := func() map[string]string {
		m := map[string]string{}
		for _, name := range []string{"x", "y"} {
			if rng.IntN(2) == 0 {
				m[name] = text()
			}
		}
		return m
	}
	both := 0
	for range 3000 {
		root, leaf := []*api.HTTPMatchRequest{match(), match()}, []*api.HTTPMatchRequest{match()}
		merged, why := mergeMatches(root, leaf)
		if why != "" {
			continue
		}
		for range 20 {
			r := request{text(), text(), values(), values(), uint32(rng.IntN(3))}
			var got, ofRoot bool
			for _, m := range merged {
				got = got || matches(m, r)
			}
			for _, m := range root {
				ofRoot = ofRoot || matches(m, r)
			}
			if got && (!ofRoot || !matches(leaf[0], r)) {
				t.Fatalf("request %+v\nmerged %v\nroot %v holds: %v\nleaf %v holds: %v", r, merged, root, ofRoot, leaf, matches(leaf[0], r))
			}
			if got {
				both++
			}
		}
	}
	if both < 100 {
		t.Errorf("only %d requests held: the test shows nothing", both)
	}
}
