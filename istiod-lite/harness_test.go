package istiodlite_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"

	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/ambit-mesh/ambit/e2e/kubetest"
	"github.com/ambit-mesh/ambit/internal/meshapi/caapi"
	istiodlite "github.com/ambit-mesh/ambit/istiod-lite"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

// patience is how long a test waits for what must come.
const patience = 15 * time.Second

// Tokens of the two nodes.
const (
	tokenOne = "one-0123456789abcdef"
	tokenTwo = "two-0123456789abcdef"
)

// plane is a control plane under test.
type plane struct {
	t      testing.TB
	dir    string // of the manifests
	cfg    istiodlite.Config
	istiod *istiodlite.Istiod
	addr   string       // for proxies, when it is another process
	stop   func() error // ends it; returns what Run returned
}

// newPlane makes directories and tokens; files are written into the directory
// before anything starts. It does not run yet.
func newPlane(t testing.TB, files map[string]string) *plane {
	t.Helper()
	p := &plane{t: t, dir: t.TempDir()}
	secrets := t.TempDir()
	tokens := filepath.Join(secrets, "tokens")
	if err := os.WriteFile(tokens, []byte("# tokens of nodes\n"+tokenOne+" node-1\n"+tokenTwo+" node-2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		p.write(name, text)
	}
	p.cfg = istiodlite.Config{
		ConfigDir: p.dir, CADir: filepath.Join(secrets, "ca"), NodeTokens: tokens,
		Listen: "127.0.0.1:0", StatusAddr: "127.0.0.1:0", Version: "test",
	}
	return p
}

// start runs the control plane and waits for its ports.
func (p *plane) start() *plane {
	p.t.Helper()
	var err error
	if p.istiod, err = istiodlite.New(p.cfg, istiodlite.Deps{Log: zaptest.NewLogger(p.t, zaptest.Level(zapLevel)), Metrics: prometheus.NewRegistry()}); err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(p.t.Context()))
	ran := make(chan error, 1)
	go func() { ran <- p.istiod.Run(ctx) }()
	stopped := false
	var result error
	p.stop = func() error {
		if !stopped {
			stopped = true
			cancel()
			result = <-ran
		}
		return result
	}
	p.t.Cleanup(func() {
		if err := p.stop(); err != nil {
			p.t.Errorf("Run: %v", err)
		}
	})
	select {
	case <-p.istiod.Listening():
	case err := <-ran:
		stopped, result = true, err
		p.t.Fatalf("Run: %v", err)
	}
	return p
}

// write replaces a manifest in one step.
func (p *plane) write(name, text string) {
	p.t.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		p.t.Fatal(err)
	}
}

// dial connects to the port for proxies, checking its certificate.
func (p *plane) dial() *grpc.ClientConn {
	p.t.Helper()
	root, err := os.ReadFile(p.istiod.RootFile())
	if err != nil {
		p.t.Fatal(err)
	}
	return p.dialWith(root)
}

// dialWith does so when the root is not in a file.
func (p *plane) dialWith(root []byte) *grpc.ClientConn {
	p.t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(root) {
		p.t.Fatal("no root")
	}
	cc, err := grpc.NewClient(p.address(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		RootCAs: pool, ServerName: "istiod.istio-system.svc", MinVersion: tls.VersionTLS13,
	})))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { cc.Close() })
	return cc
}

// address is that of the port for proxies.
func (p *plane) address() string {
	if p.addr != "" {
		return p.addr
	}
	return p.istiod.Addr().String()
}

// as is the context of a call with a token.
func as(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// get asks the port for people.
func (p *plane) get(path string) (status int, body string) {
	p.t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + p.istiod.StatusAddr().String() + path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// waitStatus waits until /status holds a text.
func (p *plane) waitStatus(text string) string {
	p.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		_, body := p.get("/status?format=text")
		if strings.Contains(strings.Join(strings.Fields(body), " "), text) {
			return body
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("/status never says %q:\n%s", text, body)
		}
	}
}

// proxy is a subscriber to everything.
type proxy struct {
	t      testing.TB
	stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	held   map[string]*discoveryv3.Resource // by name
}

// subscribe opens a stream as node-1 and asks for everything.
func (p *plane) subscribe() *proxy {
	p.t.Helper()
	return p.subscribeIn("istio-system", p.dial(), tokenOne, "node-1")
}

// subscribeIn does so as a proxy of a namespace and a node.
func (p *plane) subscribeIn(namespace string, cc *grpc.ClientConn, token, nodeName string) *proxy {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(as(p.t.Context(), token), 20*patience)
	p.t.Cleanup(cancel)
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(cc).DeltaAggregatedResources(ctx)
	if err != nil {
		p.t.Fatal(err)
	}
	node := &corev3.Node{
		Id:       "ztunnel~127.0.0.1~ztunnel-1." + namespace + "~" + namespace + ".svc.cluster.local",
		Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{"NODE_NAME": structpb.NewStringValue(nodeName)}},
	}
	for _, url := range []string{model.AddressURL, model.AuthorizationURL} {
		if err := stream.Send(&discoveryv3.DeltaDiscoveryRequest{Node: node, TypeUrl: url}); err != nil {
			p.t.Fatal(err)
		}
	}
	return &proxy{t: p.t, stream: stream, held: map[string]*discoveryv3.Resource{}}
}

// next receives one response and accepts it.
func (x *proxy) next() error {
	resp, err := x.stream.Recv()
	if err != nil {
		return err
	}
	for _, r := range resp.Resources {
		x.held[r.Name] = r
	}
	for _, name := range resp.RemovedResources {
		delete(x.held, name)
	}
	return x.stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resp.TypeUrl, ResponseNonce: resp.Nonce})
}

// wait receives until what the proxy holds is as it should be.
func (x *proxy) wait(why string, ok func(held map[string]*discoveryv3.Resource) bool) {
	x.t.Helper()
	for !ok(x.held) {
		if err := x.next(); err != nil {
			x.t.Fatalf("%s: %v; held: %v", why, err, x.held)
		}
	}
}

// request asks for a certificate of a service account.
func (p *plane) request(cc *grpc.ClientConn, token, namespace, account string) ([]string, error) {
	p.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(as(p.t.Context(), token), patience)
	defer cancel()
	resp, err := caapi.NewIstioCertificateServiceClient(cc).CreateCertificate(ctx, &caapi.IstioCertificateRequest{
		Csr:              string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})),
		ValidityDuration: 3600,
		Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{
			"ImpersonatedIdentity": structpb.NewStringValue(fmt.Sprintf("spiffe://cluster.local/ns/%s/sa/%s", namespace, account)),
		}},
	})
	return resp.GetCertChain(), err
}

// pod writes a Pod.
func pod(name, node, account, ip string) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: shop, labels: {app: %s}, annotations: {ambient.istio.io/redirection: enabled}}
spec: {nodeName: %s, serviceAccountName: %s, containers: [{name: c}]}
status: {phase: Running, podIP: %s, conditions: [{type: Ready, status: "True"}]}
`, name, name, node, account, ip)
}
