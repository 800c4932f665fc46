package extauth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"go.uber.org/goleak"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clients are clients of whoever listens at an address. dials counts connections.
func clients(t *testing.T, addr string, dials *atomic.Int64) *Clients {
	t.Helper()
	c := New(Deps{Dial: func(ctx context.Context, service string, port uint16) (net.Conn, error) {
		if service != "shop/ext.shop" || port != 9000 {
			return nil, fmt.Errorf("asked for %s:%d", service, port)
		}
		if dials != nil {
			dials.Add(1)
		}
		var d net.Dialer
		return d.DialContext(ctx, "tcp", addr)
	}})
	t.Cleanup(c.Close)
	return c
}

// query is a request for a path with fields, "Name: value".
func query(t testing.TB, method, target string, fields ...string) *Query {
	t.Helper()
	parsed, err := message.ParseTarget(target)
	if err != nil {
		t.Fatal(err)
	}
	req := &message.Request{Method: method, Scheme: "http", Authority: "orders.shop:80", Host: "orders.shop", Target: parsed, Length: 3}
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		req.Fields.Add(name, value)
	}
	return &Query{
		Request: req, ID: "id-1", Time: time.Unix(1000, 0),
		Source:      Peer{netip.MustParseAddrPort("10.0.0.1:4000"), "spiffe://cluster.local/ns/shop/sa/web"},
		Destination: Peer{netip.MustParseAddrPort("10.0.0.2:8080"), "spiffe://cluster.local/ns/shop/sa/waypoint"},
	}
}

// provider is one of HTTP or gRPC.
func provider(check *waypointapi.HttpCheck) *waypointapi.Provider {
	return &waypointapi.Provider{Name: "p", Service: "shop/ext.shop", Port: 9000, Http: check}
}

// told writes fields in one line.
func told(fields message.Fields) string {
	var all []string
	for _, f := range fields {
		all = append(all, f.Name+"="+f.Value)
	}
	return strings.Join(all, " ")
}

func TestOverHTTP(t *testing.T) {
	check := &waypointapi.HttpCheck{
		PathPrefix: "/check/", IncludeHeaders: []string{"x-seen-*"}, AdditionalHeaders: map[string]string{"X-More": "added"},
		UpstreamOnAllow: []string{"x-user", "x-roles"}, DownstreamOnAllow: []string{"set-cookie"}, DownstreamOnDeny: []string{"x-why"},
	}
	for _, tt := range []struct {
		name     string
		provider http.HandlerFunc
		query    *Query
		check    *waypointapi.HttpCheck
		want     string // the request after a yes, and "|" what its answer gets; or the status, fields and body of a no; or "error: " and a part of it
		broken   bool
	}{
		{name: "yes, with changes", query: query(t, "GET", "/a?b=c", "X-User: forged", "X-Keep: 1"), provider: func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header()["X-User"], rw.Header()["X-Roles"], rw.Header()["Set-Cookie"] = []string{"alice"}, []string{"r1", "r2"}, []string{"s=1"}
			rw.Header().Set("X-Other", "not asked for")
		}, want: "X-User=alice X-Keep=1 x-roles=r1 x-roles=r2|set-cookie=s=1"},
		{name: "what the provider would write and did not, the client does not write either", query: query(t, "GET", "/", "X-User: forged", "x-roles: forged"),
			provider: func(http.ResponseWriter, *http.Request) {}, want: "|"},
		{name: "what it has seen stays", query: query(t, "GET", "/", "X-Seen-User: client"), check: &waypointapi.HttpCheck{IncludeHeaders: []string{"x-seen-user"}, UpstreamOnAllow: []string{"x-seen-user"}},
			provider: func(http.ResponseWriter, *http.Request) {}, want: "X-Seen-User=client|"},
		{name: "how the request is sent stays ours", query: query(t, "GET", "/"), check: &waypointapi.HttpCheck{UpstreamOnAllow: []string{"*"}}, provider: func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header()["Host"], rw.Header()["Connection"], rw.Header()["X-Ok"], rw.Header()["Date"] = []string{"evil"}, []string{"close"}, []string{"1"}, nil
		}, want: "x-ok=1|"},
		{name: "no, with what the client is told", query: query(t, "GET", "/"), provider: func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header()["X-Why"], rw.Header()["X-Secret"], rw.Header()["Location"] = []string{"because"}, []string{"internal"}, []string{"/login"}
			rw.WriteHeader(403)
			io.WriteString(rw, "no")
		}, want: "403 location=/login x-why=because no"},
		{name: "a redirect is for the client", query: query(t, "GET", "/"), provider: func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Location", "/elsewhere")
			rw.WriteHeader(http.StatusFound)
		}, want: "302 location=/elsewhere"},
		{name: "204 is no yes", query: query(t, "GET", "/"), provider: func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(204) }, want: "204"},
		{name: "it is ill", query: query(t, "GET", "/"), provider: func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(503) }, want: "error: the provider answers 503"},
		{name: "a long answer is cut", query: query(t, "GET", "/"), provider: func(rw http.ResponseWriter, _ *http.Request) {
			rw.WriteHeader(401)
			io.WriteString(rw, strings.Repeat("x", 2*maxAnswer))
		}, want: "401 " + strings.Repeat("x", maxAnswer)},
		{name: "a connection that is not HTTP", query: &Query{}, provider: func(http.ResponseWriter, *http.Request) {}, want: "error: over HTTP it can only be asked about HTTP", broken: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := httptest.NewServer(tt.provider)
			defer s.Close()
			if tt.check == nil {
				tt.check = check
			}
			d, err := clients(t, s.Listener.Addr().String(), nil).Ask(t.Context(), provider(tt.check), tt.query)
			if got := outcome(d, err, tt.query); !isOutcome(got, tt.want) {
				t.Errorf("outcome %.300q, want %.300q", got, tt.want)
			}
			if errors.Is(err, ErrBroken) != tt.broken {
				t.Errorf("error %v, want one that lets nobody pass: %v", err, tt.broken)
			}
		})
	}
}

// isOutcome compares an outcome; of an error the beginning.
func isOutcome(got, want string) bool {
	return got == want || strings.HasPrefix(want, "error: ") && strings.HasPrefix(got, want)
}

// outcome writes a decision in one line.
func outcome(d *Decision, err error, q *Query) string {
	switch {
	case err != nil:
		return "error: " + strings.TrimPrefix(err.Error(), ErrBroken.Error()+": ")
	case d.Allowed:
		var onAnswer message.Fields
		d.Answer.Apply(&onAnswer)
		fields := slices.Clone(q.Request.Fields)
		d.Request.Apply(&fields)
		return told(fields) + "|" + told(onAnswer)
	}
	return strings.TrimSpace(fmt.Sprint(d.Status, " ", strings.TrimSpace(strings.ReplaceAll(told(dateless(d.Fields)), "content-type=text/plain; charset=utf-8", "")+" "+strings.TrimSpace(d.Body))))
}

// dateless are fields without those that servers add by themselves.
func dateless(fields message.Fields) (out message.Fields) {
	for _, f := range fields {
		if f.Name != "date" && f.Name != "content-type" {
			out = append(out, f)
		}
	}
	return out
}

// What a provider over HTTP sees: method, target behind its prefix, host, and of the
// fields those that it may see, with the beginning of the body.
func TestWhatIsSeenOverHTTP(t *testing.T) {
	var seen *http.Request
	var body []byte
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		seen = r
		body, _ = io.ReadAll(r.Body)
	}))
	defer s.Close()
	q := query(t, "POST", "/a/b?c=d", "Authorization: Bearer x", "Cookie: secret", "X-Seen-A: 1", "X-Seen-A: 2", "Transfer-Encoding: chunked")
	q.Body, q.Partial = []byte("begin"), true
	check := &waypointapi.HttpCheck{PathPrefix: "/check/", IncludeHeaders: []string{"x-seen-*", "transfer-encoding"}, AdditionalHeaders: map[string]string{"X-More": "added"}}
	if _, err := clients(t, s.Listener.Addr().String(), nil).Ask(t.Context(), provider(check), q); err != nil {
		t.Fatal(err)
	}
	if seen.Method != "POST" || seen.RequestURI != "/check/a/b?c=d" || seen.Host != "orders.shop:80" || string(body) != "begin" {
		t.Errorf("%s %s of %s with %q", seen.Method, seen.RequestURI, seen.Host, body)
	}
	for name, want := range map[string][]string{
		"Authorization": {"Bearer x"}, "Cookie": nil, "X-Seen-A": {"1", "2"}, "X-More": {"added"}, "User-Agent": nil, "X-Envoy-Auth-Partial-Body": {"true"},
	} {
		if got := seen.Header[name]; !slices.Equal(got, want) {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

// decider is a provider of gRPC.
type decider struct {
	authv3.UnimplementedAuthorizationServer
	decide func(*authv3.CheckRequest) (*authv3.CheckResponse, error)
}

func (d *decider) Check(_ context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	return d.decide(r)
}

// serveGRPC runs a provider and returns its address.
func serveGRPC(t *testing.T, decide func(*authv3.CheckRequest) (*authv3.CheckResponse, error)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	authv3.RegisterAuthorizationServer(g, &decider{decide: decide})
	served := make(chan error, 1)
	go func() { served <- g.Serve(ln) }()
	t.Cleanup(func() { g.Stop(); <-served })
	return ln.Addr().String()
}

// option is a change of a field.
func option(name, value string, action corev3.HeaderValueOption_HeaderAppendAction) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: name, Value: value}, AppendAction: action}
}

func TestOverGRPC(t *testing.T) {
	overwrite := corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD
	ok := func(o *authv3.OkHttpResponse) *authv3.CheckResponse {
		return &authv3.CheckResponse{Status: &rpcstatus.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: o}}
	}
	no := func(d *authv3.DeniedHttpResponse) *authv3.CheckResponse {
		return &authv3.CheckResponse{Status: &rpcstatus.Status{Code: 7}, HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: d}}
	}
	for _, tt := range []struct {
		name   string
		says   *authv3.CheckResponse
		want   string
		broken bool
	}{
		{"yes", ok(&authv3.OkHttpResponse{}), "X-User=forged X-B=1|", false},
		{"yes, with changes", ok(&authv3.OkHttpResponse{
			HeadersToRemove: []string{"x-b"}, Headers: []*corev3.HeaderValueOption{
				option("X-User", "alice", overwrite),
				{Header: &corev3.HeaderValue{Key: "x-c", Value: "2"}, Append: wrapperspb.Bool(true)},
				option("x-user", "never", corev3.HeaderValueOption_ADD_IF_ABSENT), option("x-none", "never", corev3.HeaderValueOption_OVERWRITE_IF_EXISTS),
			},
			ResponseHeadersToAdd: []*corev3.HeaderValueOption{option("Set-Cookie", "s=1", overwrite)},
		}), "X-User=alice x-c=2|set-cookie=s=1", false},
		{"changes of the query: not the request that was allowed", ok(&authv3.OkHttpResponse{QueryParametersToRemove: []string{"a"}}), "error: it changes query parameters", true},
		{"changes of the path", ok(&authv3.OkHttpResponse{Headers: []*corev3.HeaderValueOption{option(":path", "/x", overwrite)}}), "error: the provider changes :path", true},
		{"changes of the framing", ok(&authv3.OkHttpResponse{Headers: []*corev3.HeaderValueOption{option("Content-Length", "0", overwrite)}}), "error: the provider changes content-length", true},
		{"a field that splits the request", ok(&authv3.OkHttpResponse{Headers: []*corev3.HeaderValueOption{option("x", "a\r\nb: c", overwrite)}}), "error: the provider changes a field in a form that HTTP does not have", true},
		{"takes the host out", ok(&authv3.OkHttpResponse{HeadersToRemove: []string{"Host"}}), "error: the provider changes host", true},
		{"no", no(&authv3.DeniedHttpResponse{Status: &typev3.HttpStatus{Code: typev3.StatusCode_Unauthorized}, Headers: []*corev3.HeaderValueOption{option("WWW-Authenticate", "Basic", overwrite)}, Body: "who?"}), "401 www-authenticate=Basic who?", false},
		{"no, and nothing else", no(nil), "403", false},
		{"no, with a status that is none", no(&authv3.DeniedHttpResponse{Status: &typev3.HttpStatus{Code: 42}}), "403", false},
		{"an error", &authv3.CheckResponse{Status: &rpcstatus.Status{Message: "down"}, HttpResponse: &authv3.CheckResponse_ErrorResponse{ErrorResponse: &authv3.DeniedHttpResponse{}}}, "error: the provider reports an error: down", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var asked *authv3.AttributeContext
			addr := serveGRPC(t, func(r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
				asked = r.GetAttributes()
				return tt.says, nil
			})
			q := query(t, "GET", "/a?b=c", "X-User: forged", "X-B: 1")
			d, err := clients(t, addr, nil).Ask(t.Context(), provider(nil), q)
			if got := outcome(d, err, q); !isOutcome(got, tt.want) {
				t.Errorf("outcome %q, want %q", got, tt.want)
			}
			if errors.Is(err, ErrBroken) != tt.broken {
				t.Errorf("error %v, want one that lets nobody pass: %v", err, tt.broken)
			}
			h := asked.GetRequest().GetHttp()
			if h.GetPath() != "/a?b=c" || h.GetHost() != "orders.shop:80" || h.GetHeaders()["x-user"] != "forged" || h.GetHeaders()[":method"] != "GET" ||
				asked.GetSource().GetPrincipal() != q.Source.Principal || asked.GetSource().GetAddress().GetSocketAddress().GetAddress() != "10.0.0.1" {
				t.Errorf("asked about %v", asked)
			}
		})
	}
}

// A provider that does not answer in its time is an error; one that cannot be asked at
// all lets nobody pass, even where its silence would.
func TestProvidersThatDoNotAnswer(t *testing.T) {
	hold := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hold }))
	defer s.Close()
	defer close(hold)
	c := clients(t, s.Listener.Addr().String(), nil)
	slow := provider(&waypointapi.HttpCheck{})
	slow.Timeout = durationpb.New(30 * time.Millisecond)
	if _, err := c.Ask(t.Context(), slow, query(t, "GET", "/")); err == nil || err.Error() != "no answer within 30ms" || errors.Is(err, ErrBroken) {
		t.Errorf("a slow one: %v", err)
	}
	broken := provider(nil)
	broken.Broken = "service is missing"
	if _, err := c.Ask(t.Context(), broken, query(t, "GET", "/")); !errors.Is(err, ErrBroken) || !strings.Contains(err.Error(), "service is missing") {
		t.Errorf("a broken one: %v", err)
	}
	elsewhere := provider(&waypointapi.HttpCheck{})
	elsewhere.Port = 1
	if _, err := c.Ask(t.Context(), elsewhere, query(t, "GET", "/")); err == nil || !strings.Contains(err.Error(), "asked for shop/ext.shop:1") {
		t.Errorf("one that is not reached: %v", err)
	}
	c.Close()
	if _, err := c.Ask(t.Context(), provider(nil), query(t, "GET", "/")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

// A connection serves many questions, until its provider is another one.
func TestConnectionsAreKept(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer s.Close()
	var dials atomic.Int64
	c := clients(t, s.Listener.Addr().String(), &dials)
	first, second := provider(&waypointapi.HttpCheck{}), provider(&waypointapi.HttpCheck{})
	for range 5 {
		if _, err := c.Ask(t.Context(), first, query(t, "GET", "/")); err != nil {
			t.Fatal(err)
		}
	}
	if n := dials.Load(); n != 1 {
		t.Errorf("%d connections for five questions", n)
	}
	c.Keep(func(p *waypointapi.Provider) bool { return p == second })
	if _, err := c.Ask(t.Context(), second, query(t, "GET", "/")); err != nil || dials.Load() != 2 {
		t.Errorf("another provider: %v, %d connections", err, dials.Load())
	}
}

// Whatever a provider wants written, what is written can stand in a message and says
// nothing about how that is framed.
func FuzzChanges(f *testing.F) {
	f.Add("x-user", "alice")
	f.Add(":path", "/")
	f.Add("Content-Length", "0")
	f.Add("x", "a\r\nb: c")
	f.Add("transfer-encoding", "chunked")
	f.Fuzz(func(t *testing.T, name, value string) {
		changed, err := changes([]*corev3.HeaderValueOption{option(name, value, 0)})
		if err != nil {
			if !errors.Is(err, ErrBroken) {
				t.Errorf("%v is no error that refuses", err)
			}
			return
		}
		var fields message.Fields
		c := Changes{Change: changed}
		c.Apply(&fields)
		for _, x := range fields {
			if !message.ValidName(x.Name) || !message.ValidValue(x.Value) || isFraming(x.Name) || strings.ContainsAny(x.Name+x.Value, "\r\n\x00") {
				t.Errorf("%q: %q is written", x.Name, x.Value)
			}
		}
	})
}
