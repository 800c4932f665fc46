package waypoint

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/ambit-mesh/ambit/internal/caclient"
	"github.com/ambit-mesh/ambit/internal/grpcclient"
	"github.com/ambit-mesh/ambit/internal/hbone"
	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
	istiodlite "github.com/ambit-mesh/ambit/istiod-lite"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
	"github.com/ambit-mesh/ambit/waypoint"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of these tests.
const patience = 20 * time.Second

// nodeToken proves to the control plane who asks for certificates.
const nodeToken = "token-of-node-n1-0123456789"

// world is a control plane with one waypoint, called waypoint.
type world struct {
	t       *testing.T
	ns      string // of everything
	dir     string
	roots   string
	tokens  string
	address string // of the control plane
	status  string // of it, for people
	net     [2]byte
	last    byte // of the last address given out
	group   lifecycle.Group
	w       *waypoint.Waypoint
	stop    context.CancelFunc // of the waypoint
	done    chan struct{}
	log     *observer.ObservedLogs
	certs   *identity.Manager
}

// newWorld starts it.
func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldIn(t, "shop")
}

// newWorldIn starts one of another namespace.
func newWorldIn(t *testing.T, ns string) *world {
	t.Helper()
	w := &world{t: t, ns: ns, dir: t.TempDir(), net: [2]byte{byte(1 + rand.IntN(250)), byte(rand.IntN(250))}}
	w.tokens = filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(w.tokens, []byte(nodeToken+" n1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	caDir := filepath.Join(t.TempDir(), "ca")
	w.roots = filepath.Join(caDir, "root-cert.pem")
	t.Cleanup(w.group.Wait)
	ip := w.ip()
	w.apply("base", fmt.Sprintf(`
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/use-waypoint: waypoint}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: shop}
spec: {gatewayClassName: ambit-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: v1
kind: Service
metadata: {name: waypoint, namespace: shop}
spec: {clusterIP: %s, selector: {gateway.networking.k8s.io/gateway-name: waypoint}, ports: [{name: mesh, port: 15008}]}
---
%s`, w.ip(), w.podManifest("waypoint", "waypoint", ip, "gateway.networking.k8s.io/gateway-name: waypoint")))
	w.startControlPlane(caDir)
	w.startWaypoint(ip)
	return w
}

// ip is an address of loopback that nobody else uses.
func (w *world) ip() netip.Addr {
	w.last++
	return netip.AddrFrom4([4]byte{127, w.net[0], w.net[1], w.last})
}

// podManifest is a pod that is ready and in the mesh.
func (w *world) podManifest(name, account string, ip netip.Addr, labels string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: shop, labels: {%s}, annotations: {ambient.istio.io/redirection: enabled}}
spec: {nodeName: n1, serviceAccountName: %s, containers: [{name: c, image: x}]}
status: {podIP: %s, phase: Running, conditions: [{type: Ready, status: "True"}]}
`, name, labels, account, ip)
}

// apply writes a file of manifests, in one step.
func (w *world) apply(name, text string) {
	w.t.Helper()
	text = strings.ReplaceAll(text, "namespace: shop", "namespace: "+w.ns)
	text = strings.ReplaceAll(text, "metadata: {name: shop,", "metadata: {name: "+w.ns+",")
	tmp := filepath.Join(w.t.TempDir(), name)
	if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(w.dir, name+".yaml")); err != nil {
		w.t.Fatal(err)
	}
}

// startControlPlane runs istiod-lite until the test ends.
func (w *world) startControlPlane(caDir string) {
	w.t.Helper()
	i, err := istiodlite.New(istiodlite.Config{
		ConfigDir: w.dir, CADir: caDir, NodeTokens: w.tokens, Listen: "127.0.0.1:0", StatusAddr: "127.0.0.1:0",
		Model: model.Config{TrustDomain: "cluster.local"},
	}, istiodlite.Deps{Log: zap.NewNop(), Metrics: prometheus.NewRegistry()})
	if err != nil {
		w.t.Fatal(err)
	}
	w.background("istiod", func(ctx context.Context) {
		if err := i.Run(ctx); err != nil {
			w.t.Errorf("control plane: %v", err)
		}
	})
	select {
	case <-i.Listening():
	case <-time.After(patience):
		w.t.Fatal("the control plane did not start")
	}
	w.address, w.status = "https://"+i.Addr().String(), i.StatusAddr().String()
	cc, err := grpcclient.Dial(grpcclient.Config{Address: w.address, RootCA: w.roots, Token: nodeToken})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { cc.Close() })
	if w.certs, err = identity.NewManager(identity.ManagerConfig{}, caclient.New(cc, caclient.Config{TTL: time.Hour, Impersonate: true})); err != nil {
		w.t.Fatal(err)
	}
	w.background("certificates", func(ctx context.Context) { w.certs.Run(ctx) })
}

// background runs fn until the test ends.
func (w *world) background(name string, fn func(context.Context)) context.CancelFunc {
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	w.t.Cleanup(cancel)
	w.group.Go(ctx, name, fn)
	return cancel
}

// startWaypoint runs the waypoint until stopWaypoint or the end of the test.
func (w *world) startWaypoint(ip netip.Addr) {
	w.t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	w.log = logs
	up := waypoint.Upstream{Address: w.address, RootCA: w.roots, Token: nodeToken, OfNode: true}
	var err error
	w.w, err = waypoint.New(waypoint.Config{
		Gateway: waypoint.Name{Namespace: w.ns, Name: "waypoint"},
		Node:    waypoint.Node{PodName: "waypoint", PodNamespace: w.ns, NodeName: "n1", InstanceIP: ip.String()},
		XDS:     up, CA: up, Listen: netip.AddrPortFrom(ip, 15008).String(), Stats: "127.0.0.1:0", Readiness: "127.0.0.1:0", Drain: 5 * time.Second,
		KeyServers: waypoint.KeyServers{Also: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}, // where those of tests are
	}, waypoint.Deps{Log: zap.New(core), Metrics: prometheus.NewRegistry()})
	if err != nil {
		w.t.Fatal(err)
	}
	w.done = make(chan struct{})
	w.stop = w.background("waypoint", func(ctx context.Context) {
		defer close(w.done)
		if err := w.w.Run(ctx); err != nil {
			w.t.Errorf("waypoint: %v", err)
		}
	})
	w.eventually("the waypoint is ready", w.w.Ready)
}

// eventually waits for a condition.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			for _, e := range w.log.All() {
				w.t.Logf("%s %v", e.Message, e.ContextMap())
			}
			w.t.Fatalf("not in time: %s", what)
		}
	}
}

// id is a service account.
func (w *world) id(account string) identity.ID {
	w.t.Helper()
	id, err := identity.NewID("cluster.local", w.ns, account)
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

// service is a service with its pods.
type service struct {
	w    *world
	name string
	vip  netip.Addr
	pods []*pod
}

// pod is an application behind a tunnel.
type pod struct {
	name string
	ip   netip.Addr

	mu      sync.Mutex
	callers map[string]int // principals that opened streams
	streams int            // open now
}

// service makes a service of so many pods of one account; port is how its manifest
// describes the port, such as "{name: http, port: 80, targetPort: 8080}".
func (w *world) service(name, port string, replicas int, app http.Handler, labels ...string) *service {
	w.t.Helper()
	s := &service{w: w, name: name, vip: w.ip()}
	text := fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s, namespace: shop}\nspec: {clusterIP: %s, selector: {app: %s}, ports: [%s]}\n", name, s.vip, name, port)
	for i := range replicas {
		label := "app: " + name
		if i < len(labels) {
			label += ", " + labels[i]
		}
		p := &pod{name: fmt.Sprintf("%s-%d", name, i), ip: w.ip(), callers: map[string]int{}}
		text += "---\n" + w.podManifest(p.name, name, p.ip, label)
		s.pods = append(s.pods, p)
	}
	w.apply(name, text)
	for _, p := range s.pods {
		w.serveApp(p, app)
		w.serveTunnels(p, name)
	}
	return s
}

// serveApp runs the application of a pod on port 8080, in HTTP/1.1 and HTTP/2. A
// nil one echoes bytes.
func (w *world) serveApp(p *pod, app http.Handler) {
	w.t.Helper()
	ln, err := net.Listen("tcp", netip.AddrPortFrom(p.ip, 8080).String())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { ln.Close() })
	if app == nil {
		w.background("echo", func(context.Context) {
			var conns sync.WaitGroup
			defer conns.Wait()
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				conns.Go(func() {
					defer c.Close()
					io.Copy(c, c)
				})
			}
		})
		return
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Protocols: protocols, ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("X-Pod", p.name)
		app.ServeHTTP(rw, r)
	})}
	w.t.Cleanup(func() { server.Close() })
	w.background("app", func(context.Context) { server.Serve(ln) })
}

// serveTunnels is the node proxy of a pod, as far as the waypoint sees it.
func (w *world) serveTunnels(p *pod, account string) {
	w.t.Helper()
	ln, err := net.Listen("tcp", netip.AddrPortFrom(p.ip, 15008).String())
	if err != nil {
		w.t.Fatal(err)
	}
	own := w.id(account)
	server := hbone.NewServer(hbone.ServerConfig{
		TLS: func(ctx context.Context) (*tls.Config, error) {
			c, err := w.certs.Get(ctx, own)
			if err != nil {
				return nil, err
			}
			return identity.ServerTLS(c), nil
		},
		Authenticate: func(cs tls.ConnectionState) (any, error) { return identity.PeerOf(&cs) },
		Handle: func(ctx context.Context, in *hbone.Incoming) {
			to, _ := in.Authority.AddrPort()
			var d net.Dialer
			app, err := d.DialContext(ctx, "tcp", to.String())
			if err != nil {
				in.Refuse(503)
				return
			}
			p.opened(in.Peer.(identity.Peer).ID.Principal(), 1)
			defer p.opened("", -1)
			s, err := in.Accept(nil)
			if err != nil {
				app.Close()
				return
			}
			var sent, received counter
			s.Pipe(ctx, app.(*net.TCPConn), &sent.n, &received.n)
			app.Close()
		},
		DrainTimeout: -1,
	}, nil)
	w.background("tunnels of "+p.name, func(ctx context.Context) { server.Serve(ctx, ln) })
}

// opened counts a stream.
func (p *pod) opened(principal string, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if principal != "" {
		p.callers[principal]++
	}
	p.streams += n
}

// client is a pod that calls through the waypoint.
type client struct {
	w    *world
	id   identity.ID
	pool *hbone.Pool
}

// client makes one with a service account.
func (w *world) client(account string) *client {
	w.t.Helper()
	ip := w.ip()
	w.apply("client-"+account, w.podManifest("client-"+account, account, ip, "app: client"))
	c := &client{w: w, id: w.id(account), pool: hbone.NewPool(hbone.PoolConfig{}, nil)}
	w.t.Cleanup(c.pool.Close)
	return c
}

// open asks the waypoint for a stream to an authority.
func (c *client) open(ctx context.Context, authority string) (*hbone.Stream, error) {
	a, err := hbone.ParseAuthority(authority)
	if err != nil {
		return nil, err
	}
	accept := []identity.ID{c.w.id("waypoint")}
	to := c.w.w.Addr("tunnels").String()
	return c.pool.Open(ctx, hbone.Target{
		Key: hbone.Key{Source: c.id.String(), Destinations: "waypoint", Address: netip.MustParseAddrPort(to)},
		Dial: func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", to)
		},
		TLS: func(ctx context.Context) (*tls.Config, error) {
			cert, err := c.w.certs.Get(ctx, c.id)
			if err != nil {
				return nil, err
			}
			return identity.ClientTLS(cert, accept), nil
		},
	}, hbone.Request{Authority: a, Header: hbone.Header{{
		// As node proxies say it; the namespace is not the one that the certificate names.
		Name: "baggage", Value: "k8s.cluster.name=c1,k8s.namespace.name=claimed,k8s.deployment.name=caller-" + c.id.ServiceAccount,
	}}})
}

// http is an HTTP client to a service, of HTTP/1.1 or HTTP/2.
func (c *client) http(s *service, port int, h2 bool) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!h2)
	protocols.SetUnencryptedHTTP2(h2)
	tr := &http.Transport{
		Protocols: protocols, MaxIdleConnsPerHost: 1000,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return c.open(ctx, fmt.Sprintf("%s:%d", s.vip, port))
		},
	}
	c.w.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// answer is what a request got.
type answer struct {
	status int
	header http.Header
	body   string
	err    error
}

// pod is which one answered.
func (a answer) pod() string { return a.header.Get("X-Pod") }

// get asks for a path; headers are "Name: value".
func get(ctx context.Context, c *http.Client, method, path string, headers ...string) answer {
	req, err := http.NewRequestWithContext(ctx, method, "http://orders.shop"+path, nil)
	if err != nil {
		return answer{err: err}
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if name == "Host" {
			req.Host = value
			continue
		}
		req.Header.Add(name, value)
	}
	resp, err := c.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{status: resp.StatusCode, header: resp.Header, body: string(body), err: err}
}

// records are the lines of the access log about requests that came to their end.
func (w *world) records() []map[string]any {
	var out []map[string]any
	for _, e := range w.log.FilterMessageSnippet(" complete").All() {
		out = append(out, e.ContextMap())
	}
	return out
}

// wantRecord waits for a record that has all of these values: it is written behind
// the answer.
func (w *world) wantRecord(want map[string]string) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("a record with %v", want), func() bool {
		return slices.ContainsFunc(w.records(), func(rec map[string]any) bool {
			for k, v := range want {
				if !strings.Contains(fmt.Sprint(rec[k]), v) {
					return false
				}
			}
			return true
		})
	})
}
