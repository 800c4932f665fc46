package istiodlite_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ambit-mesh/ambit/internal/meshapi/workloadapi"
	istiodlite "github.com/ambit-mesh/ambit/istiod-lite"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// zapLevel keeps the output of tests short.
const zapLevel = zapcore.ErrorLevel

// A manifest becomes a resource of a proxy; a change becomes a push; a mistake
// changes nothing and is shown with its place; its end is a push again.
func TestFromManifestToProxy(t *testing.T) {
	p := newPlane(t, map[string]string{"shop.yaml": pod("web", "node-1", "web", "10.0.0.1")}).start()
	x := p.subscribe()
	has := func(names ...string) func(map[string]*discoveryv3.Resource) bool {
		return func(held map[string]*discoveryv3.Resource) bool {
			for _, name := range names {
				if held[name] == nil {
					return false
				}
			}
			return len(held) == len(names)
		}
	}
	const web, db, deny = "Kubernetes//Pod/shop/web", "Kubernetes//Pod/shop/db", "shop/deny-all"
	x.wait("the first picture", has(web))
	p.write("policy.yaml", "apiVersion: security.istio.io/v1beta1\nkind: AuthorizationPolicy\nmetadata: {name: deny-all, namespace: shop}\nspec: {}\n")
	x.wait("a new file", has(web, deny))
	p.write("shop.yaml", pod("web", "node-1", "web", "10.0.0.1")+pod("db", "node-2", "db", "not-an-address"))
	p.write("policy.yaml", "apiVersion: security.istio.io/v1beta1\nkind: AuthorizationPolicy\nmetadata: {name: deny-all, namespace: shop}\nspec: {rules: [{}]}\n")
	before := x.held[deny].Version
	x.wait("a change in another file", func(held map[string]*discoveryv3.Resource) bool { return held[deny].Version != before })
	if !has(web, deny)(x.held) {
		t.Errorf("a file with a mistake: held are %v", x.held)
	}
	body := p.waitStatus(`want an IP address, not "not-an-address"`)
	for _, want := range []string{"shop.yaml", "line: 12", "object: Pod shop/db"} {
		if !strings.Contains(body, want) {
			t.Errorf("/status does not say %q:\n%s", want, body)
		}
	}
	p.write("shop.yaml", pod("web", "node-1", "web", "10.0.0.1")+pod("db", "node-2", "db", "10.0.0.2"))
	x.wait("mended", has(web, db, deny))
	if err := os.Remove(filepath.Join(p.dir, "policy.yaml")); err != nil {
		t.Fatal(err)
	}
	x.wait("a file removed", has(web, db))
	a := &workloadapi.Address{}
	if err := x.held[web].Resource.UnmarshalTo(a); err != nil || a.GetWorkload().GetTunnelProtocol() != workloadapi.TunnelProtocol_HBONE {
		t.Errorf("workload %v, %v", a, err)
	}
}

func TestPortForPeople(t *testing.T) {
	p := newPlane(t, map[string]string{
		"shop.yaml": "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: l7, namespace: shop}\nspec: {rules: [{to: [{operation: {methods: [GET]}}]}]}\n",
		"more.yaml": "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: sc}\n",
	}).start()
	p.waitStatus("objects: 1")
	if code, body := p.get("/readyz"); code != 200 {
		t.Errorf("/readyz: %d %s", code, body)
	}
	if code, _ := p.get("/healthz"); code != 200 {
		t.Errorf("/healthz: %d", code)
	}
	if _, body := p.get("/metrics"); !strings.Contains(body, "ambit_xds_streams 0") || !strings.Contains(body, "citadel_server_csr_count") {
		t.Errorf("/metrics:\n%s", body)
	}
	var page struct {
		Version    string
		Ready      bool
		Conditions []struct{ Object, Place, Type, Reason string }
		Files      struct{ Ignored []struct{ Kind, Name string } }
		XDS        struct{ Authorizations int }
		CA         struct{ Issuer string }
	}
	_, body := p.get("/status")
	if err := json.Unmarshal([]byte(body), &page); err != nil {
		t.Fatalf("%v in\n%s", err, body)
	}
	if !page.Ready || page.Version != "test" || page.XDS.Authorizations != 1 || page.CA.Issuer == "" {
		t.Errorf("/status says %+v", page)
	}
	if len(page.Conditions) != 1 || page.Conditions[0].Object != "AuthorizationPolicy shop/l7" || !strings.HasSuffix(page.Conditions[0].Place, "shop.yaml:1") {
		t.Errorf("conditions are %+v", page.Conditions)
	}
	if len(page.Files.Ignored) != 1 || page.Files.Ignored[0].Kind != "Sidecar" {
		t.Errorf("ignored are %+v", page.Files.Ignored)
	}
}

// Certificates are for pods of the caller's node; one that was written a moment
// ago counts, noticed or not.
func TestCertificatesOfTheCallersNode(t *testing.T) {
	p := newPlane(t, map[string]string{"shop.yaml": pod("web", "node-1", "web", "10.0.0.1") + pod("db", "node-2", "db", "10.0.0.2")}).start()
	cc := p.dial()
	chain, err := p.request(cc, tokenOne, "shop", "web")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(chain[0]))
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil || len(leaf.URIs) != 1 || leaf.URIs[0].String() != "spiffe://cluster.local/ns/shop/sa/web" {
		t.Errorf("leaf is %v, %v", leaf.URIs, err)
	}
	if _, err := p.request(cc, tokenOne, "shop", "db"); err == nil {
		t.Error("a certificate for a pod of another node")
	}
	if _, err := p.request(cc, tokenTwo, "shop", "db"); err != nil {
		t.Errorf("the same from its node: %v", err)
	}
	for i := range 5 {
		account := fmt.Sprint("new-", i)
		p.write(account+".yaml", pod(account, "node-1", account, fmt.Sprint("10.0.1.", i)))
		if _, err := p.request(cc, tokenOne, "shop", account); err != nil {
			t.Errorf("a pod that was written just now: %v", err)
		}
	}
}

func TestUnprovenCallersAreRefused(t *testing.T) {
	p := newPlane(t, nil).start()
	cc := p.dial()
	for _, token := range []string{"", "wrong-0123456789abcdef"} {
		if _, err := p.request(cc, token, "shop", "web"); status.Code(err) != codes.Unauthenticated {
			t.Errorf("certificate with token %q: %v", token, err)
		}
		stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(cc).DeltaAggregatedResources(as(t.Context(), token))
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("xDS with token %q: %v", token, err)
		}
	}
}

// Nobody gets in without TLS 1.3 and HTTP/2.
func TestOldTLSIsRefused(t *testing.T) {
	p := newPlane(t, nil).start()
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, NextProtos: []string{"h2"}}}
	if conn, err := d.DialContext(t.Context(), "tcp", p.istiod.Addr().String()); err == nil {
		conn.Close()
		t.Error("TLS 1.2 was accepted")
	}
}

// A stop ends streams at once and leaves nothing behind.
func TestStopEndsStreams(t *testing.T) {
	p := newPlane(t, map[string]string{"shop.yaml": pod("web", "node-1", "web", "10.0.0.1")}).start()
	x := p.subscribe()
	x.wait("the first picture", func(held map[string]*discoveryv3.Resource) bool { return len(held) == 1 })
	ended := make(chan error, 1)
	go func() {
		for {
			if err := x.next(); err != nil {
				ended <- err
				return
			}
		}
	}()
	begin := time.Now()
	if err := p.stop(); err != nil {
		t.Errorf("Run = %v", err)
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("stopping took %v", took)
	}
	if err := <-ended; status.Code(err) != codes.Unavailable {
		t.Errorf("the stream ended with %v", err)
	}
}

// A second start with the same directories goes on with the same root.
func TestRestartKeepsTheRoot(t *testing.T) {
	p := newPlane(t, nil).start()
	before, err := os.ReadFile(p.istiod.RootFile())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	p.start()
	after, err := os.ReadFile(p.istiod.RootFile())
	if err != nil || string(after) != string(before) {
		t.Errorf("root was\n%s\nis\n%s%v", before, after, err)
	}
}

func TestWrongConfigurationIsRefused(t *testing.T) {
	good := newPlane(t, nil).cfg
	tests := []struct {
		name   string
		change func(*istiodlite.Config)
		want   string
	}{
		{"no directory of manifests", func(c *istiodlite.Config) { c.ConfigDir = "" }, "ConfigDir is required"},
		{"one that is not there", func(c *istiodlite.Config) { c.ConfigDir += "x" }, "directory of manifests: stat"},
		{"one that is a file", func(c *istiodlite.Config) { c.ConfigDir = c.NodeTokens }, "is a file"},
		{"no tokens", func(c *istiodlite.Config) { c.NodeTokens += "x" }, "node tokens"},
		{"a trust domain that is none", func(c *istiodlite.Config) { c.Model.TrustDomain = "a b" }, "trust domain"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := good
			tt.change(&cfg)
			_, err := istiodlite.New(cfg, istiodlite.Deps{Log: zap.NewNop(), Metrics: prometheus.NewRegistry()})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("New = %v, want %q", err, tt.want)
			}
		})
	}
}

func TestPortInUseIsAnError(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, set := range []func(*istiodlite.Config){
		func(c *istiodlite.Config) { c.Listen = ln.Addr().String() },
		func(c *istiodlite.Config) { c.StatusAddr = ln.Addr().String() },
	} {
		p := newPlane(t, nil)
		set(&p.cfg)
		i, err := istiodlite.New(p.cfg, istiodlite.Deps{Log: zap.NewNop(), Metrics: prometheus.NewRegistry()})
		if err != nil {
			t.Fatal(err)
		}
		var busy *net.OpError
		if err := i.Run(t.Context()); !errors.As(err, &busy) {
			t.Errorf("Run = %v, want an error of listen", err)
		}
	}
}

// BenchmarkColdSync measures what a restarted proxy meets in a mesh of 10,000
// pods, end to end over loopback with TLS: from dialling to holding everything.
func BenchmarkColdSync(b *testing.B) {
	const pods = 10_000
	files := map[string]string{}
	for f := range 20 {
		var text strings.Builder
		for i := range pods / 20 {
			n := f*pods/20 + i
			text.WriteString(pod(fmt.Sprint("pod-", n), fmt.Sprint("node-", n%100), "sa", fmt.Sprintf("10.%d.%d.%d", n>>16, n>>8&255, n&255)))
		}
		files[fmt.Sprintf("pods-%d.yaml", f)] = text.String()
	}
	begin := time.Now()
	p := newPlane(b, files).start()
	p.subscribe().wait("the first picture", func(held map[string]*discoveryv3.Resource) bool { return len(held) == pods })
	start := time.Since(begin)
	for b.Loop() {
		x := p.subscribe()
		x.wait("the picture", func(held map[string]*discoveryv3.Resource) bool { return len(held) == pods })
		x.stream.CloseSend()
	}
	b.ReportMetric(start.Seconds(), "s/start") // with reading and translating all files
}

// BenchmarkChange measures from a file that was moved in to the proxy holding it,
// beside 1,000 pods.
func BenchmarkChange(b *testing.B) {
	var text strings.Builder
	for i := range 1000 {
		text.WriteString(pod(fmt.Sprint("pod-", i), "node-1", "sa", fmt.Sprintf("10.0.%d.%d", i>>8, i&255)))
	}
	p := newPlane(b, map[string]string{"pods.yaml": text.String()}).start()
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	x := p.subscribe()
	x.wait("the first picture", func(held map[string]*discoveryv3.Resource) bool { return len(held) == 1000 })
	for i := 0; b.Loop() && ctx.Err() == nil; i++ {
		ip := fmt.Sprintf("10.1.%d.%d", i>>8&255, i&255)
		p.write("one.yaml", pod("one", "node-1", "sa", ip))
		x.wait("the change", func(held map[string]*discoveryv3.Resource) bool {
			r := held["Kubernetes//Pod/shop/one"]
			return r != nil && r.Aliases[0] == "/"+ip
		})
	}
}

// A control plane that starts over a broken policy does not let it look removed.
func TestRestartOverABrokenPolicyServesNothing(t *testing.T) {
	p := newPlane(t, map[string]string{
		"shop.yaml":   pod("web", "node-1", "web", "10.0.0.1"),
		"policy.yaml": "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec: {action: DENY}\n",
	}).start()
	p.waitStatus("waiting:")
	if code, body := p.get("/readyz"); code != 503 || !strings.Contains(body, "policy.yaml") || !strings.Contains(body, "mend or remove") {
		t.Errorf("/readyz: %d %s", code, body)
	}
	if err := os.Remove(filepath.Join(p.dir, "policy.yaml")); err != nil {
		t.Fatal(err)
	}
	p.waitStatus("ready: true")
}

// Readiness does not pretend that nodes can get in when their tokens are gone.
func TestReadinessWithoutTokens(t *testing.T) {
	p := newPlane(t, nil).start()
	p.waitStatus("ready: true")
	if err := os.Chmod(p.cfg.NodeTokens, 0o644); err != nil {
		t.Fatal(err)
	}
	if code, body := p.get("/readyz"); code != 503 || !strings.Contains(body, "node tokens") || !strings.Contains(body, "chmod 600") {
		t.Errorf("/readyz: %d %s", code, body)
	}
}

// Silent connections, in any number, do not keep a node out, and are closed.
func TestSilentConnectionsKeepNobodyOut(t *testing.T) {
	p := newPlane(t, map[string]string{"shop.yaml": pod("web", "node-1", "web", "10.0.0.1")}).start()
	var silent []net.Conn
	for range 1100 {
		conn, err := net.Dial("tcp", p.istiod.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		silent = append(silent, conn)
	}
	cc := p.dial()
	if _, err := p.request(cc, tokenOne, "shop", "web"); err != nil {
		t.Errorf("a node: %v", err)
	}
	if _, body := p.get("/metrics"); strings.Contains(body, "ambit_control_plane_unproven_closed_total 0") {
		t.Error("no silent connection was closed")
	}
	silent[0].SetReadDeadline(time.Now().Add(patience))
	if _, err := silent[0].Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the oldest silent connection: %v, want its end", err)
	}
	if _, err := p.request(cc, tokenOne, "shop", "web"); err != nil {
		t.Errorf("the node again: %v", err)
	}
}

// A token that is taken back ends its streams; a token file with a mistake in it
// keeps new ones out and leaves the others alone.
func TestTokensThatChange(t *testing.T) {
	p := newPlane(t, map[string]string{"shop.yaml": pod("web", "node-1", "web", "10.0.0.1")})
	p.cfg.Discovery.Reprove = 10 * time.Millisecond
	p.start()
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(p.dial()).DeltaAggregatedResources(as(t.Context(), tokenOne))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: model.AddressURL}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	tokens := func(text string) {
		t.Helper()
		if err := os.WriteFile(p.cfg.NodeTokens+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(p.cfg.NodeTokens+".new", p.cfg.NodeTokens); err != nil {
			t.Fatal(err)
		}
	}
	tokens("mistake\n")
	for i := range 3 { // each takes longer than Reprove
		p.write("more.yaml", pod("more", "node-1", "web", fmt.Sprintf("10.0.0.%d", 10+i)))
		if _, err := stream.Recv(); err != nil {
			t.Fatalf("tokens cannot be read: %v, want the stream to go on", err)
		}
	}
	if _, err := p.request(p.dial(), tokenOne, "shop", "web"); status.Code(err) != codes.Unavailable {
		t.Errorf("a new call: %v, want Unavailable", err)
	}
	tokens(tokenTwo + " node-2\n")
	if _, err := stream.Recv(); status.Code(err) != codes.Unauthenticated {
		t.Errorf("token taken back: %v, want Unauthenticated", err)
	}
}
