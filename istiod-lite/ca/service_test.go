package ca

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/ambit-mesh/ambit/internal/grpcclient"
	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/meshapi/caapi"
)

// world is the source of pods that a test makes. What is in memory may be older
// than what a live read finds.
type world struct {
	mu             sync.Mutex
	memory, source []Pod
	err            error
	reads          int               // live ones
	during         func(node string) // called while a live read runs
}

func (w *world) PodsOnNode(_ context.Context, node string, fresh bool) ([]Pod, error) {
	if fresh && w.during != nil {
		w.during(node)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if fresh {
		w.reads++
		if w.err != nil {
			return nil, w.err
		}
		w.memory = w.source
	}
	return w.memory, nil // also those of other nodes: who decides must look
}

// callers authenticates one token more than the node tokens: that of a workload
// with an identity and, or, a node.
type callers map[string]Caller

func (c callers) Authenticate(ctx context.Context) (Caller, error) {
	token, err := Bearer(ctx)
	if err != nil {
		return Caller{}, err
	}
	if caller, ok := c[token]; ok {
		return caller, nil
	}
	return Caller{}, errors.New("unknown")
}

// port is a certificate service over TLS on loopback.
type port struct {
	t         *testing.T
	addr      string
	authority *Authority
	world     *world
	logs      *observer.ObservedLogs
	metrics   *prometheus.Registry
}

// serve runs a service until the test ends. Node one has a node token; the token
// "workload" is that of a workload.
func serve(t *testing.T, dir string) *port {
	t.Helper()
	p := &port{t: t, world: &world{}, metrics: prometheus.NewRegistry()}
	p.authority, p.logs = open(t, dir)
	tokens, err := OpenNodeTokens(tokenFile(t, tokenOne+" one\n"+tokenTwo+" two\n"))
	if err != nil {
		t.Fatal(err)
	}
	core, logs := observer.New(zap.DebugLevel)
	p.logs = logs
	service := NewService(Deps{
		Authority: p.authority,
		Authenticator: FirstOf{tokens, callers{
			"workload": {Identity: account("web"), Name: "web"},
			"foreign":  {Identity: identity.ID{TrustDomain: "other", Namespace: "shop", ServiceAccount: "web"}, Name: "foreign"},
			"nowhere":  {Name: "nowhere"},
		}},
		Pods: p.world, Log: zap.New(core), Metrics: NewMetrics(p.metrics, p.authority),
	})
	serving, err := p.authority.Serving([]string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.addr = ln.Addr().String()
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(serving.TLS())))
	caapi.RegisterIstioCertificateServiceServer(server, service)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := server.Serve(ln); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(func() { server.Stop(); wg.Wait() })
	return p
}

// dial connects as the holder of token; the connection is closed at the end.
func (p *port) dial(token string) *grpc.ClientConn {
	p.t.Helper()
	cc, err := grpcclient.Dial(grpcclient.Config{Address: p.addr, RootCA: p.authority.Roots(), Token: token})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { cc.Close() })
	return cc
}

// request is a good request for id.
func request(t *testing.T, id string) *caapi.IstioCertificateRequest {
	t.Helper()
	return &caapi.IstioCertificateRequest{
		Csr:      csrFor(t, newKey(t), "spiffe://td/ns/kube-system/sa/admin"), // ignored
		Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{impersonated: structpb.NewStringValue(id)}},
	}
}

func (p *port) create(token string, req *caapi.IstioCertificateRequest) ([]string, error) {
	p.t.Helper()
	resp, err := caapi.NewIstioCertificateServiceClient(p.dial(token)).CreateCertificate(p.t.Context(), req)
	return resp.GetCertChain(), err
}

const web = "spiffe://td/ns/shop/sa/web"

func TestCertificateService(t *testing.T) {
	p := serve(t, t.TempDir())
	p.world.source = []Pod{
		{Name: "web-1", Namespace: "shop", ServiceAccount: "web", Node: "one", Phase: "Running"},
		{Name: "young-1", Namespace: "shop", ServiceAccount: "young", Node: "one", Phase: "Pending"},
		{Name: "odd-1", Namespace: "shop", ServiceAccount: "odd", Node: "one", Phase: "Unknown"},
		{Name: "cart-1", Namespace: "shop", ServiceAccount: "cart", Node: "two", Phase: "Running"},
		{Name: "done-1", Namespace: "shop", ServiceAccount: "done", Node: "one", Phase: "Succeeded"},
		{Name: "broken-1", Namespace: "shop", ServiceAccount: "broken", Node: "one", Phase: "Failed"},
		{Name: "both-1", Namespace: "shop", ServiceAccount: "both", Node: "one", Phase: "Failed"},
		{Name: "both-2", Namespace: "shop", ServiceAccount: "both", Node: "one", Phase: "Running"},
		{Name: "lost-1", Namespace: "shop", ServiceAccount: "lost", Node: "", Phase: "Pending"},
	}
	for _, tt := range []struct {
		name, token string
		id          string // of the request; "none" for no metadata
		change      func(*caapi.IstioCertificateRequest)
		code        codes.Code
		told        string // what the caller reads
		logged      string // and what only our log says
	}{
		{"pod on the node", tokenOne, web, nil, codes.OK, "", ""},
		{"pod that starts", tokenOne, "spiffe://td/ns/shop/sa/young", nil, codes.OK, "", ""},
		{"pod in an unknown phase", tokenOne, "spiffe://td/ns/shop/sa/odd", nil, codes.OK, "", ""},
		{"one pod ended, one runs", tokenOne, "spiffe://td/ns/shop/sa/both", nil, codes.OK, "", ""},
		{"the other node's pod, asked by it", tokenTwo, "spiffe://td/ns/shop/sa/cart", nil, codes.OK, "", ""},
		{"a workload for itself", "workload", "none", nil, codes.OK, "", ""},

		{"no token", "", web, nil, codes.Unauthenticated, "request is not authenticated", "no authorization header"},
		{"unknown token", "some-other-token-0123456789", web, nil, codes.Unauthenticated, "request is not authenticated", "unknown node token"},
		{"pod on another node", tokenOne, "spiffe://td/ns/shop/sa/cart", nil, codes.PermissionDenied, "not permitted", "shop/cart that has not ended runs on node one"},
		{"pod that has succeeded", tokenOne, "spiffe://td/ns/shop/sa/done", nil, codes.PermissionDenied, "not permitted", "shop/done"},
		{"pod that has failed", tokenOne, "spiffe://td/ns/shop/sa/broken", nil, codes.PermissionDenied, "not permitted", "shop/broken"},
		{"pod on no node", tokenOne, "spiffe://td/ns/shop/sa/lost", nil, codes.PermissionDenied, "not permitted", "shop/lost"},
		{"pod of another namespace", tokenOne, "spiffe://td/ns/bank/sa/web", nil, codes.PermissionDenied, "not permitted", "bank/web"},
		{"no such pod", tokenOne, "spiffe://td/ns/shop/sa/ghost", nil, codes.PermissionDenied, "not permitted", "shop/ghost"},
		{"another trust domain", tokenOne, "spiffe://other/ns/shop/sa/web", nil, codes.PermissionDenied, "not permitted", "another trust domain"},
		{"a node for itself", tokenOne, "none", nil, codes.PermissionDenied, "not permitted", "has none of its own"},
		{"a workload for another", "workload", "spiffe://td/ns/shop/sa/cart", nil, codes.PermissionDenied, "not permitted", "speaks for no node"},
		{"a workload of another trust domain", "foreign", "none", nil, codes.PermissionDenied, "not permitted", "another trust domain"},
		{"neither node nor workload", "nowhere", "none", nil, codes.PermissionDenied, "not permitted", "none of its own"},
		{"neither node nor workload, for a pod", "nowhere", "spiffe://td/ns/shop/sa/lost", nil, codes.PermissionDenied, "not permitted", "speaks for no node"},

		{"identity that is none", tokenOne, "web", nil, codes.InvalidArgument, "ImpersonatedIdentity: SPIFFE ID", "SPIFFE ID"},
		{"empty identity", tokenOne, "", nil, codes.InvalidArgument, "ImpersonatedIdentity: SPIFFE ID", "SPIFFE ID"},
		{"identity that is a number", tokenOne, web, func(r *caapi.IstioCertificateRequest) {
			r.Metadata.Fields[impersonated] = structpb.NewNumberValue(1)
		}, codes.InvalidArgument, "is not a string", "is not a string"},
		{"no signing request", tokenOne, web, func(r *caapi.IstioCertificateRequest) { r.Csr = "" }, codes.InvalidArgument, "not PEM", "not PEM"},
		{"huge request", tokenOne, web, func(r *caapi.IstioCertificateRequest) {
			r.Metadata.Fields["x"] = structpb.NewStringValue(strings.Repeat("x", maxRequest))
		}, codes.InvalidArgument, "want at most 32768", "want at most"},
		{"validity beyond the longest", tokenOne, web, func(r *caapi.IstioCertificateRequest) {
			r.ValidityDuration = 90*86400 + 1
		}, codes.InvalidArgument, "want at most 2160h", "want at most"},
		{"validity that overflows", tokenOne, web, func(r *caapi.IstioCertificateRequest) {
			r.ValidityDuration = 1 << 62
		}, codes.InvalidArgument, "out of range", "out of range"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p.logs.TakeAll()
			req := request(t, tt.id)
			if tt.id == "none" {
				req.Metadata = nil
			}
			if tt.change != nil {
				tt.change(req)
			}
			chain, err := p.create(tt.token, req)
			if status.Code(err) != tt.code {
				t.Fatalf("status %v, want %v", err, tt.code)
			}
			if tt.code == codes.OK {
				want := tt.id
				if want == "none" {
					want = web
				}
				if certs, err := identity.ParseCertificates(chain[0]); err != nil || len(certs) != 1 || len(certs[0].URIs) != 1 || certs[0].URIs[0].String() != want {
					t.Errorf("signed %v, %v, want %s alone", certs, err, want)
				}
				return
			}
			if text := status.Convert(err).Message(); !strings.Contains(text, tt.told) || tt.code != codes.InvalidArgument && text != tt.told {
				t.Errorf("the caller is told %q, want %q", text, tt.told)
			}
			entries := p.logs.FilterMessage("certificate refused").All()
			if len(entries) != 1 || !strings.Contains(entries[0].ContextMap()["error"].(string), tt.logged) {
				t.Errorf("log %v, want one entry with %q", entries, tt.logged)
			}
			for _, e := range p.logs.All() {
				for _, f := range e.Context {
					if strings.Contains(f.String, tokenOne) {
						t.Error("the log tells a token")
					}
				}
			}
		})
	}
	for reason, want := range map[outcome]float64{notAuthenticated: 2, notAuthorized: 12, malformed: 7} {
		if got := counter(t, p.metrics, "citadel_server_refused_count", string(reason)); got != want {
			t.Errorf("refused as %s: %v, want %v", reason, got, want)
		}
	}
	if got := counter(t, p.metrics, "citadel_server_success_cert_issuance_count", ""); got != 6 {
		t.Errorf("issued: %v, want 6", got)
	}
}

// counter reads a counter of reg; reason is its label, if it has one.
func counter(t *testing.T, reg *prometheus.Registry, name, reason string) float64 {
	t.Helper()
	if n, err := testutil.GatherAndCount(reg, name); err != nil || n == 0 {
		t.Fatalf("%s: %d series, %v", name, n, err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == name && (reason == "" || m.GetLabel()[0].GetValue() == reason) {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

func TestOneLiveReadBeforeItRefuses(t *testing.T) {
	p := serve(t, t.TempDir())
	p.world.source = []Pod{{Name: "web-1", Namespace: "shop", ServiceAccount: "web", Node: "one", Phase: "Running"}}
	if _, err := p.create(tokenOne, request(t, web)); err != nil || p.world.reads != 1 {
		t.Errorf("a pod that memory does not know yet: %v, %d live reads, want 1", err, p.world.reads)
	}
	if _, err := p.create(tokenOne, request(t, web)); err != nil || p.world.reads != 1 {
		t.Errorf("a pod that memory knows: %v, %d live reads, want none more", err, p.world.reads)
	}
	if _, err := p.create(tokenOne, request(t, "spiffe://td/ns/shop/sa/ghost")); status.Code(err) != codes.PermissionDenied || p.world.reads != 2 {
		t.Errorf("a pod that does not exist: %v, %d live reads, want one more", err, p.world.reads)
	}
}

func TestALiveReadThatFailsRefusesForNow(t *testing.T) {
	p := serve(t, t.TempDir())
	p.world.err = errors.New("the directory is gone")
	_, err := p.create(tokenOne, request(t, web))
	if status.Code(err) != codes.Unavailable || strings.Contains(err.Error(), "directory") {
		t.Errorf("%v, want Unavailable and no reason", err)
	}
	if p.logs.FilterMessage("certificate refused").Len() != 1 {
		t.Error("the reason is not in the log")
	}
}

// A node that asks for what it may not have gets one live read at a time, so that
// others come to theirs.
func TestLiveReadsAreShared(t *testing.T) {
	p := serve(t, t.TempDir())
	p.world.source = []Pod{{Name: "web-1", Namespace: "shop", ServiceAccount: "web", Node: "two", Phase: "Running"}}
	free := make(chan struct{})
	var mu sync.Mutex
	running, most := 0, 0
	started := make(chan struct{}, 16)
	p.world.during = func(node string) {
		if node != "one" {
			return
		}
		mu.Lock()
		running++
		most = max(most, running)
		mu.Unlock()
		started <- struct{}{}
		<-free
		mu.Lock()
		running--
		mu.Unlock()
	}
	var greedy sync.WaitGroup
	for i := range 2 * maxFreshReads {
		greedy.Go(func() {
			if _, err := p.create(tokenOne, request(t, fmt.Sprintf("spiffe://td/ns/shop/sa/ghost-%d", i))); status.Code(err) != codes.PermissionDenied {
				t.Errorf("a ghost: %v", err)
			}
		})
	}
	<-started
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := caapi.NewIstioCertificateServiceClient(p.dial(tokenTwo)).CreateCertificate(ctx, request(t, web)); err != nil {
		t.Errorf("another node: %v", err)
	}
	close(free)
	greedy.Wait()
	if most != 1 {
		t.Errorf("%d live reads of one node at a time, want 1", most)
	}
}

func TestALineIsBounded(t *testing.T) {
	s := NewService(Deps{Log: zap.NewNop()})
	var l *line
	for range maxWaiting {
		if l = s.queue("one"); l == nil {
			t.Fatal("the line is full too early")
		}
	}
	if s.queue("one") != nil {
		t.Error("the line of a node has no end")
	}
	if s.queue("two") == nil {
		t.Error("the line of another node is full")
	}
	for range maxWaiting {
		s.unqueue("one", l)
	}
	if len(s.lines) != 1 {
		t.Errorf("%d lines are left, want that of the other", len(s.lines))
	}
}
