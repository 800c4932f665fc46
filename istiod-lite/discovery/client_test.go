package discovery_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/ambit-mesh/ambit/internal/meshapi/workloadapi"
	"github.com/ambit-mesh/ambit/istiod-lite/discovery"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come.
const patience = 10 * time.Second

// quiet is how long a test waits for what must not come.
const quiet = 60 * time.Millisecond

// byToken authenticates by the bearer token: "node n1", "pod ns/name", or bad.
type byToken struct{}

func (byToken) Authenticate(ctx context.Context) (discovery.Caller, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	kind, name, ok := strings.Cut(strings.TrimPrefix(strings.Join(md.Get("authorization"), ""), "Bearer "), " ")
	switch {
	case name == "revocable" && revoked.Load():
	case ok && kind == "node":
		return discovery.Caller{Node: name, Name: "node " + name}, nil
	case ok && kind == "pod":
		namespace, pod, _ := strings.Cut(name, "/")
		return discovery.Caller{Namespace: namespace, Pod: pod, Name: "pod " + name}, nil
	}
	return discovery.Caller{}, fmt.Errorf("unknown token")
}

// revoked takes back the token "node revocable".
var revoked atomic.Bool

// wantClients waits until so many streams are open.
func (m *mesh) wantClients(n int) {
	m.t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for len(m.server.Status().Clients) != n {
		select {
		case <-tick.C:
		case <-deadline:
			m.t.Fatalf("%d clients, want %d", len(m.server.Status().Clients), n)
		}
	}
}

// mesh is a server under test and the model that feeds it.
type mesh struct {
	t      testing.TB
	server *discovery.Server
	addr   string

	mu    sync.Mutex // guards model
	model *model.Model
}

// WaypointOf implements [discovery.Proxies].
func (m *mesh) WaypointOf(namespace, pod, node string) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, err := m.model.ProxyOf(namespace, pod, node)
	if errors.Is(err, model.ErrUnknownPod) {
		err = fmt.Errorf("%w: %w", discovery.ErrUndecided, err)
	}
	return p.Service, err
}

// newMesh serves on loopback. Nothing was pushed yet.
func newMesh(t testing.TB, cfg discovery.Config) *mesh {
	t.Helper()
	m := &mesh{t: t, model: model.New(model.Config{})}
	m.server = discovery.New(cfg, discovery.Deps{
		Log: zaptest.NewLogger(t), Auth: byToken{}, Proxies: m, Metrics: prometheus.NewRegistry(),
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.addr = ln.Addr().String()
	g := grpc.NewServer()
	m.server.Register(g)
	served := make(chan error, 1)
	go func() { served <- g.Serve(ln) }()
	t.Cleanup(func() {
		m.server.Close()
		g.Stop()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return m
}

// push applies events and pushes what they changed.
func (m *mesh) push(events ...model.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.server.Push(m.model.Apply(events...))
}

// client is one stream of a proxy.
type client struct {
	t         testing.TB
	stream    discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	responses chan *discoveryv3.DeltaDiscoveryResponse
	ended     chan error
	cancel    context.CancelFunc
	paused    bool

	held  map[string]map[string]string // by type and name: versions
	names map[string][]string          // policies that the workloads it holds name
}

// connect opens a stream as the proxy of node n1.
func (m *mesh) connect() *client { return m.connectAs("node n1", false) }

// connectAs opens a stream with a token. A paused client reads nothing by itself.
func (m *mesh) connectAs(token string, paused bool) *client {
	m.t.Helper()
	cc, err := grpc.NewClient(m.addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithInitialWindowSize(64<<10))
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(m.t.Context(), "authorization", "Bearer "+token))
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(cc).DeltaAggregatedResources(ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	c := &client{
		t: m.t, stream: stream, cancel: cancel, paused: paused,
		responses: make(chan *discoveryv3.DeltaDiscoveryResponse), ended: make(chan error, 1),
		held:  map[string]map[string]string{model.AddressURL: {}, model.AuthorizationURL: {}},
		names: map[string][]string{},
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !paused {
			resp, err := stream.Recv()
			if err != nil {
				c.ended <- err
				return
			}
			select {
			case c.responses <- resp:
			case <-ctx.Done():
				return
			}
		}
	}()
	m.t.Cleanup(func() { cancel(); <-done; cc.Close() })
	return c
}

// send sends a request as that client.
func (c *client) send(req *discoveryv3.DeltaDiscoveryRequest) {
	c.t.Helper()
	if req.Node == nil {
		req.Node = &corev3.Node{Id: "ztunnel~10.0.0.1~ztunnel-x.istio-system~istio-system.svc.cluster.local"}
	}
	if err := c.stream.Send(req); err != nil {
		c.t.Fatalf("send: %v", err)
	}
}

// subscribe asks for everything of both types, in the order of the ambient
// ecosystem: addresses first. What the client holds goes with it.
func (c *client) subscribe() {
	c.t.Helper()
	for _, url := range []string{model.AddressURL, model.AuthorizationURL} {
		c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: url, InitialResourceVersions: c.held[url]})
	}
}

// next is the next response. It is applied and accepted.
func (c *client) next(why string) *discoveryv3.DeltaDiscoveryResponse {
	c.t.Helper()
	select {
	case resp := <-c.responses:
		c.apply(resp)
		c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resp.TypeUrl, ResponseNonce: resp.Nonce})
		return resp
	case err := <-c.ended:
		c.t.Fatalf("%s: the stream ended: %v", why, err)
	case <-time.After(patience):
		c.t.Fatalf("%s: nothing came", why)
	}
	return nil
}

// apply takes a response in: updates before removals.
func (c *client) apply(resp *discoveryv3.DeltaDiscoveryResponse) {
	held := c.held[resp.TypeUrl]
	if held == nil {
		held = map[string]string{}
		c.held[resp.TypeUrl] = held
	}
	for _, r := range resp.Resources {
		held[r.Name] = r.Version
		if a := (&workloadapi.Address{}); r.Resource.UnmarshalTo(a) == nil {
			c.names[r.Name] = a.GetWorkload().GetAuthorizationPolicies()
		}
	}
	for _, name := range resp.RemovedResources {
		delete(held, name)
		delete(c.names, name)
	}
	if c.held[model.AuthorizationURL] == nil {
		return // it is no node's
	}
	for workload, policies := range c.names {
		for _, policy := range policies {
			if _, ok := c.held[model.AuthorizationURL][policy]; !ok {
				c.t.Errorf("after %q the client holds workload %s without its policy %s", describe(resp), workload, policy)
			}
		}
	}
}

// want is next, compared with "type: +name -name".
func (c *client) want(why, want string) {
	c.t.Helper()
	if got := describe(c.next(why)); got != want {
		c.t.Errorf("%s: got %q, want %q", why, got, want)
	}
}

// wantIdle expects that nothing comes.
func (c *client) wantIdle(why string) {
	c.t.Helper()
	select {
	case resp := <-c.responses:
		c.t.Errorf("%s: got %q", why, describe(resp))
	case err := <-c.ended:
		c.t.Errorf("%s: the stream ended: %v", why, err)
	case <-time.After(quiet):
	}
}

// wantEnd expects that the stream ends with a status.
func (c *client) wantEnd(why, want string) {
	c.t.Helper()
	for {
		select {
		case <-c.responses:
		case err := <-c.ended:
			if !strings.Contains(err.Error(), want) {
				c.t.Errorf("%s: ended with %v, want %q", why, err, want)
			}
			return
		case <-time.After(patience):
			c.t.Fatalf("%s: the stream did not end", why)
		}
	}
}

// wantState reads until the client holds what the model says.
func (c *client) wantState(why string, m *mesh) {
	c.t.Helper()
	want := map[string]map[string]string{model.AddressURL: {}, model.AuthorizationURL: {}}
	for _, r := range m.model.Resources() {
		if of := want[r.Wire.Resource.TypeUrl]; of != nil { // of the types that a node proxy asks for
			of[r.Name] = r.Version()
		}
	}
	for !maps.EqualFunc(c.held, want, func(a, b map[string]string) bool { return maps.Equal(a, b) }) {
		c.next(why)
	}
}

// describe writes a response in one line.
func describe(resp *discoveryv3.DeltaDiscoveryResponse) string {
	text := resp.TypeUrl[strings.LastIndexByte(resp.TypeUrl, '.')+1:] + ":"
	for _, r := range resp.Resources {
		text += " +" + r.Name
	}
	for _, name := range resp.RemovedResources {
		text += " -" + name
	}
	return strings.ReplaceAll(text, "Kubernetes//", "")
}

// nack refuses a response.
func (c *client) nack(resp *discoveryv3.DeltaDiscoveryResponse, why string) {
	c.t.Helper()
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resp.TypeUrl, ResponseNonce: resp.Nonce, ErrorDetail: &rpcstatus.Status{Message: why}})
}

// nodeNamed is a node that says where it runs.
func nodeNamed(name string) *corev3.Node {
	return &corev3.Node{
		Id:       "ztunnel~10.0.0.1~ztunnel-x.istio-system~istio-system.svc.cluster.local",
		Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{"NODE_NAME": structpb.NewStringValue(name)}},
	}
}
