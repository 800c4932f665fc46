package xds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	typeA = "type.test/A"
	typeB = "type.test/B"
	// patience is how long a test waits for what must come.
	patience = 10 * time.Second
)

// session is one stream at the server, in the hands of the test.
type session struct {
	t        *testing.T
	requests chan *discoveryv3.DeltaDiscoveryRequest
	respond  chan *discoveryv3.DeltaDiscoveryResponse
	end      chan error
}

// server is a real ADS server; each stream becomes a session.
type server struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	t        *testing.T
	sessions chan *session
}

func (s *server) DeltaAggregatedResources(stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	ses := &session{
		t:        s.t,
		requests: make(chan *discoveryv3.DeltaDiscoveryRequest, 100),
		respond:  make(chan *discoveryv3.DeltaDiscoveryResponse),
		end:      make(chan error),
	}
	var reader lifecycle.Group
	reader.Go(stream.Context(), "read", func(context.Context) {
		for {
			r, err := stream.Recv()
			if err != nil {
				return
			}
			ses.requests <- r
		}
	})
	s.sessions <- ses
	for {
		select {
		case r := <-ses.respond:
			if err := stream.Send(r); err != nil {
				return err
			}
		case err := <-ses.end:
			return err
		case <-stream.Context().Done():
			return nil
		}
	}
}

// request waits for the next request of the client.
func (s *session) request(why string) *discoveryv3.DeltaDiscoveryRequest {
	s.t.Helper()
	select {
	case r := <-s.requests:
		return r
	case <-time.After(patience):
		s.t.Fatalf("no request: %s", why)
		return nil
	}
}

// send gives a response and returns the answer to it.
func (s *session) send(r *discoveryv3.DeltaDiscoveryResponse) *discoveryv3.DeltaDiscoveryRequest {
	s.t.Helper()
	select {
	case s.respond <- r:
	case <-time.After(patience):
		s.t.Fatal("the stream is gone")
	}
	answer := s.request("the answer to a response")
	if answer.GetResponseNonce() != r.GetNonce() || answer.GetTypeUrl() != r.GetTypeUrl() {
		s.t.Errorf("the answer is to %q %q, want %q %q", answer.GetTypeUrl(), answer.GetResponseNonce(), r.GetTypeUrl(), r.GetNonce())
	}
	return answer
}

// opened takes the initial requests of a stream, by type.
func (s *session) opened(n int) map[string]*discoveryv3.DeltaDiscoveryRequest {
	s.t.Helper()
	out := map[string]*discoveryv3.DeltaDiscoveryRequest{}
	for range n {
		r := s.request("an initial request")
		out[r.GetTypeUrl()] = r
	}
	return out
}

// cache is a subscription that remembers; names beginning with "bad" at a
// version beginning with "x" are rejected.
type cache struct {
	mu   sync.Mutex
	held map[string]string
}

func (c *cache) subscription(typeURL string) Subscription {
	c.held = map[string]string{}
	return Subscription{TypeURL: typeURL, Apply: func(res []*discoveryv3.Resource, removed []string) map[string]error {
		c.mu.Lock()
		defer c.mu.Unlock()
		rejected := map[string]error{}
		for _, r := range res {
			if strings.HasPrefix(r.GetVersion(), "x") {
				rejected[r.GetName()] = errors.New("version is bad")
				continue
			}
			c.held[r.GetName()] = r.GetVersion()
		}
		for _, name := range removed {
			delete(c.held, name)
		}
		return rejected
	}}
}

func (c *cache) want(t *testing.T, why string, want map[string]string) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !maps.Equal(c.held, want) {
		t.Errorf("%s: held = %v, want %v", why, c.held, want)
	}
}

func res(nameVersions ...string) []*discoveryv3.Resource {
	var out []*discoveryv3.Resource
	for i := 0; i+1 < len(nameVersions); i += 2 {
		out = append(out, &discoveryv3.Resource{Name: nameVersions[i], Version: nameVersions[i+1], Resource: &anypb.Any{}})
	}
	return out
}

// start runs a client against a real server until the test ends.
func start(t *testing.T, cfg Config) (*Client, chan *session) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, sessions: make(chan *session, 10)}
	g := grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, s)
	cc, err := grpc.NewClient(ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	c := NewClient(cfg, cc)
	ctx, cancel := context.WithCancel(t.Context())
	var group lifecycle.Group
	group.Go(ctx, "serve", func(context.Context) {
		if err := g.Serve(ln); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	group.Go(ctx, "client", func(ctx context.Context) {
		if err := c.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		cc.Close()
		g.Stop()
		group.Wait()
	})
	return c, s.sessions
}

func next(t *testing.T, sessions chan *session) *session {
	t.Helper()
	select {
	case s := <-sessions:
		return s
	case <-time.After(patience):
		t.Fatal("no stream")
		return nil
	}
}

func isReady(c *Client) bool {
	select {
	case <-c.Ready():
		return true
	default:
		return false
	}
}

func waitReady(t *testing.T, c *Client) {
	t.Helper()
	select {
	case <-c.Ready():
	case <-time.After(patience):
		t.Fatal("the client does not get ready")
	}
}

func TestWarmCachesBeforeReady(t *testing.T) {
	var a, b cache
	node := &corev3.Node{Id: "ztunnel~10.0.0.1~z.ns~ns.svc.cluster.local"}
	c, sessions := start(t, Config{Node: node, Subscriptions: []Subscription{a.subscription(typeA), b.subscription(typeB)}})
	s := next(t, sessions)
	for typeURL, r := range s.opened(2) {
		if r.GetNode().GetId() != node.Id || len(r.GetResourceNamesSubscribe())+len(r.GetResourceNamesUnsubscribe())+len(r.GetInitialResourceVersions()) != 0 || r.GetResponseNonce() != "" {
			t.Errorf("the first request for %s is %v, want the node and nothing else", typeURL, r)
		}
	}
	if answer := s.send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: typeA, Nonce: "1", Resources: res("a1", "1")}); answer.GetErrorDetail() != nil {
		t.Errorf("the answer is a NACK: %v", answer)
	}
	if isReady(c) {
		t.Error("ready after one of two types")
	}
	s.send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: typeB, Nonce: "2"}) // nothing of that type
	waitReady(t, c)
	a.want(t, "when ready", map[string]string{"a1": "1"})
}

// What was applied is what the client says it holds, at every step.
func TestCacheCoherency(t *testing.T) {
	var a cache
	_, sessions := start(t, Config{Subscriptions: []Subscription{a.subscription(typeA)}})
	s := next(t, sessions)
	s.opened(1)
	steps := []struct {
		name     string
		response *discoveryv3.DeltaDiscoveryResponse
		want     map[string]string
	}{
		{"add", &discoveryv3.DeltaDiscoveryResponse{Resources: res("a", "1", "b", "1")}, map[string]string{"a": "1", "b": "1"}},
		{"a name sent again is an update", &discoveryv3.DeltaDiscoveryResponse{Resources: res("a", "2")}, map[string]string{"a": "2", "b": "1"}},
		{"remove", &discoveryv3.DeltaDiscoveryResponse{RemovedResources: []string{"a"}}, map[string]string{"b": "1"}},
		{"unknown names are ignored", &discoveryv3.DeltaDiscoveryResponse{RemovedResources: []string{"z"}}, map[string]string{"b": "1"}},
		{"updates apply before removals", &discoveryv3.DeltaDiscoveryResponse{Resources: res("c", "1", "b", "2"), RemovedResources: []string{"b"}}, map[string]string{"c": "1"}},
		{"add after remove", &discoveryv3.DeltaDiscoveryResponse{Resources: res("b", "3")}, map[string]string{"b": "3", "c": "1"}},
		{"abort: a NACK of all changes nothing", &discoveryv3.DeltaDiscoveryResponse{Resources: res("b", "x", "d", "x")}, map[string]string{"b": "3", "c": "1"}},
	}
	for i, step := range steps {
		step.response.TypeUrl, step.response.Nonce = typeA, fmt.Sprint(i)
		s.send(step.response)
		a.want(t, step.name, step.want)
	}
}

func TestNackKeepsGood(t *testing.T) {
	var a cache
	var rejections []string
	c, sessions := start(t, Config{
		Subscriptions: []Subscription{a.subscription(typeA)},
		Events: Events{Rejected: func(_ string, why map[string]error) {
			rejections = append(rejections, slices.Sorted(maps.Keys(why))...)
		}},
	})
	s := next(t, sessions)
	s.opened(1)
	s.send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: typeA, Nonce: "1", Resources: res("a", "1", "b", "1")})
	waitReady(t, c)
	answer := s.send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: typeA, Nonce: "2", Resources: res("b", "x2", "a", "x2", "c", "2")})
	if want := "a: version is bad; b: version is bad"; answer.GetErrorDetail().GetMessage() != want {
		t.Errorf("error detail = %v, want %q", answer.GetErrorDetail(), want)
	}
	a.want(t, "after a NACK", map[string]string{"a": "1", "b": "1", "c": "2"})
	if !slices.Equal(rejections, []string{"a", "b"}) {
		t.Errorf("the hook was told of %v", rejections)
	}
}

func TestReconnectWithVersions(t *testing.T) {
	var a, b cache
	ends := make(chan Termination, 10)
	c, sessions := start(t, Config{
		Subscriptions: []Subscription{a.subscription(typeA), b.subscription(typeB)},
		Events:        Events{Disconnected: func(reason Termination, _ error, _ bool, _ time.Duration) { ends <- reason }},
	})
	s := next(t, sessions)
	s.opened(2)
	s.send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: typeA, Nonce: "1", Resources: res("a", "1", "b", "1", "c", "1", "d", "1")})
	s.send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: typeB, Nonce: "2", Resources: res("p", "")}) // without a version
	s.send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: typeA, Nonce: "3", Resources: res("a", "2", "b", "x", "e", "x"), RemovedResources: []string{"c"}})
	waitReady(t, c)
	for _, end := range []struct {
		err  error
		want Termination
	}{
		{status.Error(codes.Unavailable, "restarting"), TerminatedConnectionError},
		{status.Error(codes.DeadlineExceeded, "spread anew"), TerminatedReconnect},
		{status.Error(codes.PermissionDenied, "who are you"), TerminatedError},
		{nil, TerminatedComplete},
	} {
		s.end <- end.err
		if got := <-ends; got != end.want {
			t.Errorf("after %v the end is called %q, want %q", end.err, got, end.want)
		}
		a.want(t, "while disconnected", map[string]string{"a": "2", "b": "1", "d": "1"})
		s = next(t, sessions)
		first := s.opened(2)
		if got, want := first[typeA].GetInitialResourceVersions(), map[string]string{"a": "2", "b": "", "d": "1"}; !maps.Equal(got, want) {
			t.Errorf("versions of A = %v, want %v: no version of what was rejected, no name of what is not held", got, want)
		}
		if got, want := first[typeB].GetInitialResourceVersions(), map[string]string{"p": ""}; !maps.Equal(got, want) {
			t.Errorf("versions of B = %v, want %v", got, want)
		}
		if !isReady(c) {
			t.Error("not ready any more")
		}
	}
	s.send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: typeA, Nonce: "1", Resources: res("b", "3"), RemovedResources: []string{"d"}})
	a.want(t, "after coming back", map[string]string{"a": "2", "b": "3"})
}

func TestUnaskedTypeIsRefused(t *testing.T) {
	var a cache
	c, sessions := start(t, Config{Subscriptions: []Subscription{a.subscription(typeA)}})
	s := next(t, sessions)
	s.opened(1)
	answer := s.send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: "type.test/C", Nonce: "1", Resources: res("a", "1")})
	if want := "type.test/C: this type was not asked for"; answer.GetErrorDetail().GetMessage() != want {
		t.Errorf("error detail = %v, want %q", answer.GetErrorDetail(), want)
	}
	if isReady(c) {
		t.Error("ready by a type that was not asked for")
	}
	a.want(t, "after a foreign type", map[string]string{})
}

func TestHooksCount(t *testing.T) {
	var a cache
	type received struct {
		typeURL                   string
		resources, removed, bytes int
	}
	got := make(chan received, 1)
	connected, ready := make(chan struct{}, 1), make(chan struct{}, 1)
	_, sessions := start(t, Config{Subscriptions: []Subscription{a.subscription(typeA)}, Events: Events{
		Connected: func() { connected <- struct{}{} },
		Ready:     func() { ready <- struct{}{} },
		Received:  func(u string, r, d, b int) { got <- received{u, r, d, b} },
	}})
	s := next(t, sessions)
	<-connected
	r := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: typeA, Nonce: "1", Resources: res("a", "1", "b", "1"), RemovedResources: []string{"c"}}
	s.opened(1)
	s.send(r)
	if want := (received{typeA, 2, 1, proto.Size(r)}); <-got != want {
		t.Errorf("the hook was not told %+v", want)
	}
	<-ready
}

// refusing is a connection on which no stream can be opened.
type refusing struct {
	grpc.ClientConnInterface
	err error
}

func (r refusing) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, r.err
}

func TestBackOffFromTenMillisecondsToFifteenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var waits []time.Duration
		ctx, cancel := context.WithCancel(t.Context())
		c := NewClient(Config{Events: Events{Disconnected: func(_ Termination, _ error, _ bool, wait time.Duration) {
			if waits = append(waits, wait); len(waits) == 14 {
				cancel()
			}
		}}}, refusing{err: status.Error(codes.Unavailable, "away")})
		if err := c.Run(ctx); err != nil {
			t.Errorf("Run = %v after its context ended", err)
		}
		want := 10 * time.Millisecond
		for i, wait := range waits {
			if wait < want*7/10 || wait > want*13/10 || wait > 15*time.Second {
				t.Errorf("wait %d = %v, want about %v, at most 15 s", i, wait, want)
			}
			want = min(2*want, 15*time.Second)
		}
	})
}

func TestBackOffStartsAnewAfterAResponse(t *testing.T) {
	var a cache
	waits := make(chan time.Duration, 10)
	_, sessions := start(t, Config{
		Subscriptions: []Subscription{a.subscription(typeA)},
		Events:        Events{Disconnected: func(_ Termination, _ error, _ bool, wait time.Duration) { waits <- wait }},
	})
	for range 4 {
		s := next(t, sessions)
		s.opened(1)
		s.send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: typeA, Nonce: "1"})
		s.end <- status.Error(codes.Unavailable, "restarting")
		if wait := <-waits; wait > 13*time.Millisecond {
			t.Errorf("after a stream that gave a response the wait is %v, want about 10 ms", wait)
		}
	}
}

func TestClassify(t *testing.T) {
	tests := []struct {
		err      error
		want     Termination
		expected bool
	}{
		{io.EOF, TerminatedComplete, true},
		{status.Error(codes.Unknown, ""), TerminatedReconnect, true},
		{status.Error(codes.Canceled, ""), TerminatedReconnect, true},
		{status.Error(codes.DeadlineExceeded, ""), TerminatedReconnect, true},
		{status.Error(codes.Unavailable, "error reading from server: EOF"), TerminatedConnectionError, true},
		{status.Error(codes.Unavailable, "connection refused"), TerminatedConnectionError, false},
		{status.Error(codes.Unauthenticated, ""), TerminatedError, false},
	}
	for _, tt := range tests {
		t.Run(tt.err.Error(), func(t *testing.T) {
			if got, expected := classify(tt.err); got != tt.want || expected != tt.expected {
				t.Errorf("classify = %v, %v; want %v, %v", got, expected, tt.want, tt.expected)
			}
		})
	}
}

// Whatever a response holds: the answer can be sent, names every rejected
// resource, and the versions that are remembered are those of what is held.
func FuzzAnswer(f *testing.F) {
	for _, r := range []*discoveryv3.DeltaDiscoveryResponse{
		{TypeUrl: typeA, Nonce: "1", Resources: res("a", "1", "b", "x")},
		{TypeUrl: typeA, Resources: res("a", "1", "a", "x", "", ""), RemovedResources: []string{"a", ""}},
		{TypeUrl: typeB, Nonce: "n"},
	} {
		raw, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var r discoveryv3.DeltaDiscoveryResponse
		if proto.Unmarshal(raw, &r) != nil {
			return
		}
		var a cache
		c := NewClient(Config{Subscriptions: []Subscription{a.subscription(typeA)}}, nil)
		answer := c.answer(&r)
		if _, err := proto.Marshal(answer); err != nil {
			t.Fatalf("the answer cannot be sent: %v", err)
		}
		if answer.GetResponseNonce() != r.GetNonce() || answer.GetTypeUrl() != r.GetTypeUrl() {
			t.Errorf("the answer is to something else: %v", answer)
		}
		text := answer.GetErrorDetail().GetMessage()
		if r.GetTypeUrl() != typeA {
			if text == "" || len(a.held) > 0 {
				t.Errorf("a type that was not asked for was taken")
			}
			return
		}
		for _, one := range r.GetResources() {
			if bad := strings.HasPrefix(one.GetVersion(), "x"); bad && len(text) < nackBytes/2 && !strings.Contains(text, one.GetName()+": ") {
				t.Errorf("the NACK %q does not name %q", text, one.GetName())
			}
		}
		if len(text) > nackBytes+100 {
			t.Errorf("the NACK has %d bytes", len(text))
		}
		for name, version := range c.types[0].versions {
			if held, ok := a.held[name]; !ok && version != "" || ok && version != "" && held != version {
				t.Errorf("the version of %q is remembered as %q, held is %q", name, version, a.held[name])
			}
		}
	})
}
