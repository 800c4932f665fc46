package admin

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/meshapi/securityapi"
	"github.com/ambit-mesh/ambit/internal/meshapi/workloadapi"
	"github.com/ambit-mesh/ambit/internal/telemetry"
	"github.com/ambit-mesh/ambit/internal/workload"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var update = flag.Bool("update", false, "rewrite the golden files")

// rig is a running Server over real collaborators.
type rig struct {
	t       testing.TB
	server  *Server
	records *telemetry.Records
	store   *workload.Store
	levels  *telemetry.Levels
	ready   *Readiness
	certs   certList
	pods    []Pod
	quits   atomic.Int32
}

// certList stands in for the manager, which would need a CA.
type certList []identity.Status

func (l *certList) Dump() []identity.Status { return *l }

// newRig makes a Server that listens on free ports of loopback.
func newRig(t testing.TB, cfg Config) *rig {
	t.Helper()
	log, err := telemetry.NewLogger(telemetry.LogConfig{Spec: "info"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	reg, err := telemetry.NewRegistry("ztunnel", "test")
	if err != nil {
		t.Fatal(err)
	}
	records, err := telemetry.NewRecords(telemetry.Config{}, telemetry.Deps{Log: log.Zap(), Registry: reg})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{
		t: t, records: records, store: workload.NewStore(workload.Config{}),
		levels: log.Levels(), ready: new(Readiness),
	}
	if cfg.Admin == "" {
		cfg.Admin = "localhost:0"
	}
	cfg.Stats, cfg.Readiness = "127.0.0.1:0", "127.0.0.1:0"
	r.server, err = New(cfg, Deps{
		Log: log.Zap(), Levels: r.levels, Registry: reg, Connections: records, Picture: r.store,
		Certificates: &r.certs, Pods: func() []Pod { return r.pods }, Ready: r.ready,
		Quit: func() { r.quits.Add(1) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// start runs the server until the test ends.
func (r *rig) start() *rig {
	r.t.Helper()
	if err := r.server.Listen(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	var group lifecycle.Group
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.t.Context()))
	group.Go(ctx, "admin", func(ctx context.Context) {
		if err := r.server.Run(ctx); err != nil {
			r.t.Errorf("Run = %v, want nil when asked to stop", err)
		}
	})
	r.t.Cleanup(func() { cancel(); group.Wait() })
	return r
}

// ask sends a request to one of the servers. change may alter it.
func (r *rig) ask(method, server, path string, change func(*http.Request)) (status int, body string) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, "http://"+r.server.Addr(server).String()+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	if change != nil {
		change(req)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	resp, err := client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// want asks and checks status and part of the answer.
func (r *rig) want(method, server, path string, status int, part string) {
	r.t.Helper()
	got, body := r.ask(method, server, path, nil)
	if got != status || !strings.Contains(body, part) {
		r.t.Errorf("%s %s = %d %q, want %d with %q", method, path, got, body, status, part)
	}
}

func TestReadinessNamesWhatIsPending(t *testing.T) {
	r := newRig(t, Config{}).start()
	xds, zds := r.ready.Task("state manager"), r.ready.Task("first snapshot of pods")
	r.want("GET", "readiness", "/healthz/ready", 500, "pending: state manager, first snapshot of pods")
	xds()
	xds()
	r.want("GET", "readiness", "/healthz/ready", 500, "pending: first snapshot of pods")
	zds()
	if status, body := r.ask("GET", "readiness", "/healthz/ready", nil); status != 200 || body != "ready\n" {
		t.Errorf("ready = %d %q, want 200 and exactly %q", status, body, "ready\n")
	}
}

func TestStatsServesMetricsUnderBothPaths(t *testing.T) {
	r := newRig(t, Config{}).start()
	for _, path := range []string{"/metrics", "/stats/prometheus"} {
		r.want("GET", "stats", path, 200, `istio_build{component="ztunnel",tag="test"} 1`)
	}
	r.want("GET", "stats", "/config_dump", 404, "")
	r.want("GET", "readiness", "/metrics", 404, "")
}

func TestLogging(t *testing.T) {
	r := newRig(t, Config{}).start()
	r.want("POST", "admin", "/logging", 200, "current log level is info\n")
	r.want("POST", "admin", "/logging?level=debug", 200, "current log level is debug\n")
	r.want("POST", "admin", "/logging?level=access:error,xds:trace", 200, "debug,access=error,xds=trace\n")
	r.want("POST", "admin", "/logging?level=loud", 400, "want LEVEL or SCOPE:LEVEL")
	if got := r.levels.String(); got != "debug,access=error,xds=trace" {
		t.Errorf("levels are %q: a bad request must change nothing", got)
	}
	r.want("POST", "admin", "/logging?reset", 200, "current log level is info\n")
	r.want("POST", "admin", "/logging?reset&level=xds:debug", 200, "current log level is info,xds=debug\n")
	r.want("GET", "admin", "/logging", 405, "")
}

func TestQuitTakesAPost(t *testing.T) {
	r := newRig(t, Config{}).start()
	r.want("GET", "admin", "/quitquitquit", 405, "")
	if n := r.quits.Load(); n != 0 {
		t.Fatalf("a GET asked to stop %d times", n)
	}
	r.want("POST", "admin", "/quitquitquit", 200, "shutdown now")
	if n := r.quits.Load(); n != 1 {
		t.Errorf("a POST asked to stop %d times, want 1", n)
	}
}

func TestProfiles(t *testing.T) {
	r := newRig(t, Config{}).start()
	r.want("GET", "admin", "/debug/pprof/", 200, "goroutine")
	r.want("GET", "admin", "/debug/pprof/goroutine?debug=1", 200, "goroutine profile")
	r.want("GET", "admin", "/debug/pprof/profile?seconds=1", 200, "")
	for _, seconds := range []string{"0", "301", "-1", "x"} {
		r.want("GET", "admin", "/debug/pprof/profile?seconds="+seconds, 400, "want 1 to 300")
	}
	r.want("GET", "admin", "/", 200, "config_dump")
	r.want("GET", "admin", "/nothing", 404, "")
}

// A web page can make a browser send requests to localhost, and can let its own
// name point there.
func TestWebPagesAreKeptAway(t *testing.T) {
	r := newRig(t, Config{}).start()
	tests := []struct {
		name   string
		change func(*http.Request)
		want   int
	}{
		{"a person on the node", func(q *http.Request) {}, 200},
		{"through a port-forward", func(q *http.Request) { q.Host = "localhost:31337" }, 200},
		{"by IPv6 address", func(q *http.Request) { q.Host = "[::1]:15000" }, 200},
		{"by an address without port", func(q *http.Request) { q.Host = "127.0.0.1" }, 200},
		{"a name that was let point here", func(q *http.Request) { q.Host = "evil.example:15000" }, 403},
		{"a name that begins like ours", func(q *http.Request) { q.Host = "localhost.evil.example" }, 403},
		{"an address as part of a name", func(q *http.Request) { q.Host = "127.0.0.1.evil.example" }, 403},
		{"a page of another origin", func(q *http.Request) { q.Header.Set("Sec-Fetch-Site", "cross-site") }, 403},
		{"an older browser", func(q *http.Request) { q.Header.Set("Origin", "http://evil.example") }, 403},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := r.quits.Load()
			status, _ := r.ask("POST", "admin", "/quitquitquit", tt.change)
			if status != tt.want {
				t.Errorf("status %d, want %d", status, tt.want)
			}
			if asked := r.quits.Load() > before; asked != (tt.want == 200) {
				t.Errorf("asked to stop: %v", asked)
			}
		})
	}
}

func TestAdminListensOnLoopbackOnly(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:0", "[::]:0", ":0", "10.0.0.1:0", "example.com:0"} {
		r := newRig(t, Config{Admin: addr})
		if err := r.server.Listen(t.Context()); !errors.Is(err, ErrNotLoopback) {
			t.Errorf("admin on %s: Listen = %v, want ErrNotLoopback", addr, err)
		}
		if got := r.server.Addr("stats"); got != nil {
			t.Errorf("after a refusal the stats server listens on %v", got)
		}
	}
	for _, cfg := range []Config{{Admin: "127.0.0.1:0"}, {Admin: "localhost:0"}, {Admin: "0.0.0.0:0", AllowRemoteAdmin: true}} {
		r := newRig(t, cfg)
		if err := r.server.Listen(t.Context()); err != nil {
			t.Errorf("admin on %s: Listen = %v", cfg.Admin, err)
		}
		for range 2 {
			if err := r.server.Close(); err != nil {
				t.Errorf("Close = %v, want nil, twice", err)
			}
		}
	}
}

func TestListenSaysWhichPortIsTaken(t *testing.T) {
	var lc net.ListenConfig
	taken, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	r := newRig(t, Config{Admin: taken.Addr().String()})
	err = r.server.Listen(t.Context())
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), taken.Addr().String()) {
		t.Errorf("Listen = %v, want that %v is in use", err, taken.Addr())
	}
}

func TestServersCanBeSwitchedOff(t *testing.T) {
	r := newRig(t, Config{Admin: Off}).start()
	if got := r.server.Addr("admin"); got != nil {
		t.Errorf("the admin server listens on %v", got)
	}
	r.want("GET", "readiness", "/healthz/ready", 200, "ready")
}

func TestDepsAreChecked(t *testing.T) {
	if _, err := New(Config{}, Deps{}); err == nil || !strings.Contains(err.Error(), "Deps.Log") {
		t.Errorf("New without collaborators = %v, want an error that names the first", err)
	}
}

// fill puts a small mesh into the picture.
func (r *rig) fill() {
	r.t.Helper()
	var addresses, policies []*discoveryv3.Resource
	for name, text := range map[string]string{
		"Kubernetes//Pod/shop/web-1": `workload {
			uid: "Kubernetes//Pod/shop/web-1" name: "web-1" namespace: "shop" service_account: "web" node: "n1"
			addresses: "\n\000\000\001" tunnel_protocol: HBONE canonical_name: "web" canonical_revision: "v1"
			workload_name: "web" workload_type: DEPLOYMENT cluster_id: "Kubernetes" network: "net1"
			locality { region: "r1" zone: "z1" } authorization_policies: "shop/named"
			waypoint { address { network: "net1" address: "\n` + "`" + `\000\011" } hbone_mtls_port: 15008 }
			services { key: "shop/cart.shop.svc.cluster.local" value { ports { service_port: 80 target_port: 8080 } } }
		}`,
		"shop/cart.shop.svc.cluster.local": `service {
			name: "cart" namespace: "shop" hostname: "cart.shop.svc.cluster.local"
			addresses { network: "net1" address: "\n` + "`" + `\000\007" } ports { service_port: 80 target_port: 8080 }
			load_balancing { routing_preference: REGION routing_preference: ZONE mode: FAILOVER }
		}`,
	} {
		a := new(workloadapi.Address)
		must(r.t, prototext.Unmarshal([]byte(text), a))
		addresses = append(addresses, resource(r.t, name, a))
	}
	p := new(securityapi.Authorization)
	must(r.t, prototext.Unmarshal([]byte(`name: "deny-cart" namespace: "shop" scope: NAMESPACE action: DENY
		rules { clauses { matches {
			principals { prefix: "spiffe://cluster.local/ns/shop/sa/ca" } not_source_ips { address: "\n\000\000\000" length: 8 }
			destination_ports: 80 namespaces { presence {} } service_accounts { namespace: "shop" service_account: "cart" }
		} } }`), p))
	policies = append(policies, resource(r.t, "shop/deny-cart", p))
	for _, rejected := range []map[string]error{
		r.store.ApplyAddresses(addresses, nil), r.store.ApplyAuthorizations(policies, nil),
	} {
		if len(rejected) > 0 {
			r.t.Fatalf("the store rejects %v", rejected)
		}
	}
	r.pods = []Pod{
		{UID: "uid-web", Up: true, Name: "web-1", Namespace: "shop", ServiceAccount: "web"},
		{UID: "uid-new", Name: "new", Namespace: "shop", ServiceAccount: "new"},
	}
}

func resource(t testing.TB, name string, m proto.Message) *discoveryv3.Resource {
	t.Helper()
	body, err := anypb.New(m)
	must(t, err)
	return &discoveryv3.Resource{Name: name, Resource: body}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// openConnections opens one connection of each kind.
func (r *rig) openConnections() {
	web := telemetry.Peer{Addr: netip.MustParseAddrPort("10.0.0.1:40000"), Workload: telemetry.Workload{Name: "web-1", Namespace: "shop"}}
	r.records.Open(telemetry.Conn{
		Direction: telemetry.Outbound, Hop: telemetry.HopTunnel, Pod: "uid-web", Source: web,
		Authority: "10.0.1.2:8080", OriginalDst: netip.MustParseAddrPort("10.96.0.7:80"),
		ActualDst: netip.MustParseAddrPort("10.0.1.2:15008"),
		Service:   telemetry.Service{Host: "cart.shop.svc.cluster.local"},
	})
	r.records.Open(telemetry.Conn{
		Direction: telemetry.Inbound, Hop: telemetry.HopTunnel, Pod: "uid-web",
		Source:    telemetry.Peer{Addr: netip.MustParseAddrPort("10.0.3.1:33333")},
		Authority: "web.shop.svc.cluster.local:80", ActualDst: netip.MustParseAddrPort("10.0.0.1:8080"),
	})
	r.records.Open(telemetry.Conn{
		Direction: telemetry.Inbound, Hop: telemetry.HopDirect, Pod: "uid-web",
		Source:      telemetry.Peer{Addr: netip.MustParseAddrPort("192.0.2.1:5555")},
		OriginalDst: netip.MustParseAddrPort("10.0.0.1:8080"), ActualDst: netip.MustParseAddrPort("10.0.0.1:8080"),
	})
}

// The keys and values that existing tools parse, as a golden file.
func TestConfigDumpKeepsTheKeysThatToolsParse(t *testing.T) {
	r := newRig(t, Config{Settings: map[string]string{"XDS_ADDRESS": "https://istiod:15012"}}).start()
	r.fill()
	r.openConnections()
	status, body := r.ask("GET", "admin", "/config_dump", nil)
	if status != 200 {
		t.Fatalf("status %d", status)
	}
	var got map[string]json.RawMessage
	must(t, json.Unmarshal([]byte(body), &got))
	delete(got, "version") // differs by toolchain
	delete(got, "pictureVersion")
	compact, err := json.Marshal(got)
	must(t, err)
	var text bytes.Buffer
	must(t, json.Indent(&text, compact, "", "  "))
	golden := filepath.Join("testdata", "config_dump.json")
	if *update {
		must(t, os.WriteFile(golden, append(text.Bytes(), '\n'), 0o644))
	}
	want, err := os.ReadFile(golden)
	must(t, err)
	if text.String() != strings.TrimSuffix(string(want), "\n") {
		t.Errorf("config_dump differs from %s (see -update):\n%s", golden, text.String())
	}
}

func TestConfigDumpOfNothingHasListsAndNotNull(t *testing.T) {
	r := newRig(t, Config{}).start()
	_, body := r.ask("GET", "admin", "/config_dump", nil)
	if strings.Contains(body, "null") {
		t.Errorf("a dump of nothing holds null: %s", body)
	}
}

// newCertificate makes a certificate for an identity, and its root.
func newCertificate(t *testing.T, id identity.ID) (*identity.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	uri, err := url.Parse(id.String())
	must(t, err)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Unix(1700000000, 0), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(77), NotBefore: root.NotBefore, NotAfter: root.NotAfter,
		URIs: []*url.URL{uri}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	rootKey, key := newKey(t), newKey(t)
	cert, err := identity.NewCertificate(id, []string{
		sign(t, leaf, root, key, rootKey), sign(t, root, root, rootKey, rootKey),
	}, key)
	must(t, err)
	return cert, key
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}

// sign returns the certificate of key as PEM.
func sign(t *testing.T, template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) string {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	must(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestCertificatesAreShownWithoutTheirKeys(t *testing.T) {
	id, err := identity.NewID("cluster.local", "shop", "web")
	must(t, err)
	cert, key := newCertificate(t, id)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	r := newRig(t, Config{Settings: map[string]string{
		"AUTH_TOKEN": "eyJhbGciOi.secret.token", "XDS_HEADER_AUTHORIZATION": "Bearer secret", "CA_ROOT_CA": string(keyPEM),
		"KEEPALIVE_ENABLED": "true", "NODE_NAME": "n1",
	}}).start()
	r.certs = certList{
		{ID: id, State: identity.Available, Certificate: cert},
		{ID: identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "cart"}, State: identity.Unavailable, Err: errors.New("CA says no")},
	}
	_, body := r.ask("GET", "admin", "/config_dump", nil)

	scalar, err := key.Bytes()
	must(t, err)
	for what, secret := range map[string]string{
		"the PEM mark of a key":      "PRIVATE KEY",
		"the key in base64":          base64.StdEncoding.EncodeToString(der),
		"the key's PEM in base64":    base64.StdEncoding.EncodeToString(keyPEM)[:60],
		"the bare key in base64":     base64.StdEncoding.EncodeToString(scalar),
		"the key as a number":        new(big.Int).SetBytes(scalar).String(),
		"a token":                    "secret.token",
		"a credential in a header":   "Bearer secret",
		"the PEM mark in base64":     base64.StdEncoding.EncodeToString([]byte("-----BEGIN PRIVATE")),
		"the PEM mark of EC, base64": base64.StdEncoding.EncodeToString([]byte("-----BEGIN EC PRIV")),
	} {
		if strings.Contains(body, secret) {
			t.Errorf("the dump holds %s", what)
		}
	}
	var got struct {
		Config       map[string]string
		Certificates []certificateDump
	}
	must(t, json.Unmarshal([]byte(body), &got))
	if got.Config["NODE_NAME"] != "n1" || got.Config["KEEPALIVE_ENABLED"] != "true" || got.Config["AUTH_TOKEN"] != hidden {
		t.Errorf("config = %v, want what is not secret, and %s for the rest", got.Config, hidden)
	}
	web, cart := got.Certificates[0], got.Certificates[1]
	if web.Identity != id.String() || web.State != "Available" || len(web.CertChain) != 1 || len(web.RootCerts) != 1 {
		t.Fatalf("certificate of web = %+v, want one leaf and one root", web)
	}
	leaf := web.CertChain[0]
	text, err := base64.StdEncoding.DecodeString(leaf.PEM)
	must(t, err)
	if !strings.HasPrefix(string(text), "-----BEGIN CERTIFICATE-----") || leaf.SerialNumber != "77" || leaf.ValidFrom != "2023-11-14T22:13:20Z" {
		t.Errorf("leaf = %+v", leaf)
	}
	if cart.State != "Unavailable: CA says no" || cart.CertChain == nil {
		t.Errorf("certificate of cart = %+v, want the reason and an empty list", cart)
	}
}

// answer is what /connections and /why say, in the parts the tests look at.
type answer struct {
	Open, Recent []struct {
		ID    uint64
		State string
		Stage string
		Hint  string
	}
}

func TestConnectionsAndWhy(t *testing.T) {
	r := newRig(t, Config{}).start()
	r.openConnections()
	r.records.Open(telemetry.Conn{
		Direction: telemetry.Outbound, Pod: "uid-web",
		Source:    telemetry.Peer{Addr: netip.MustParseAddrPort("10.0.0.1:40001"), Workload: telemetry.Workload{Name: "web-1", Namespace: "shop"}},
		ActualDst: netip.MustParseAddrPort("10.0.9.9:80"),
	}).Close(telemetry.ExplainPolicy("shop/deny", errors.New("refused")))

	tests := []struct {
		name         string
		path         string
		open, recent int
	}{
		{"all", "/connections", 3, 1},
		{"of a pod by uid", "/connections?pod=uid-web", 3, 1},
		{"of a pod by name", "/connections?pod=shop/web-1", 1, 1},
		{"of another pod", "/connections?pod=nobody", 0, 0},
		{"in a state", "/connections?state=failed", 0, 1},
		{"from an address", "/why?src=10.0.0.1", 1, 1},
		{"from a socket", "/why?src=10.0.0.1:40001", 0, 1},
		{"from a pod to a service", "/why?src=web-1&dst=cart.shop.svc.cluster.local", 1, 0},
		{"to a virtual address", "/why?dst=10.96.0.7", 1, 0},
		{"to a pod behind a tunnel", "/why?dst=10.0.1.2", 1, 0},
		{"to a host name", "/why?dst=web.shop.svc.cluster.local", 1, 0},
		{"to the one that refused", "/why?src=web-1&dst=10.0.9.9:80", 0, 1},
		{"between strangers", "/why?src=10.9.9.9&dst=10.8.8.8", 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, body := r.ask("GET", "admin", tt.path, nil)
			var got answer
			must(t, json.Unmarshal([]byte(body), &got))
			if len(got.Open) != tt.open || len(got.Recent) != tt.recent {
				t.Errorf("%d open and %d recent, want %d and %d: %s", len(got.Open), len(got.Recent), tt.open, tt.recent, body)
			}
			for _, e := range got.Recent {
				if e.Stage != "policy" || !strings.Contains(e.Hint, "shop/deny") {
					t.Errorf("recent = %+v, want the stage and the rule", e)
				}
			}
		})
	}
	r.want("GET", "admin", "/why", 400, "want src= or dst=")
}

// A slow asker must not hold the process when it is asked to stop.
func TestStopDoesNotWaitForAProfile(t *testing.T) {
	r := newRig(t, Config{})
	must(t, r.server.Listen(t.Context()))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	var group lifecycle.Group
	group.Go(ctx, "admin", func(ctx context.Context) { done <- r.server.Run(ctx) })
	defer group.Wait()
	conn, err := net.Dial("tcp", r.server.Addr("admin").String())
	must(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "GET /debug/pprof/trace?seconds=300 HTTP/1.1\r\nHost: localhost\r\n\r\n")
	must(t, err)
	if _, err := conn.Read(make([]byte, 1)); err != nil { // the trace has begun
		t.Fatal(err)
	}
	cancel()
	select {
	case err := <-done:
		if err := errors.Join(err, r.server.Close()); err != nil {
			t.Errorf("Run, then Close = %v, want nil", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("Run has not returned")
	}
}
