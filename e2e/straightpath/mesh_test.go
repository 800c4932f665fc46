package straightpath

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
	"github.com/ambit-mesh/ambit/internal/telemetry"
	"github.com/ambit-mesh/ambit/internal/zds"
	istiodlite "github.com/ambit-mesh/ambit/istiod-lite"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
	"github.com/ambit-mesh/ambit/ztunnel"
)

// patience bounds every wait of these tests. It is only reached when something
// is wrong.
const patience = 20 * time.Second

// mesh is a control plane and the wire between pods.
type mesh struct {
	t       *testing.T
	dir     string // manifests
	caDir   string
	address string // of the control plane
	fabric  *netns.NS
	tokens  string
	nodes   map[string]*node
	pods    int
	group   lifecycle.Group
	stopCP  context.CancelFunc
	cpDone  chan struct{}
}

// newMesh starts a control plane that knows the nodes n1 and n2.
func newMesh(t *testing.T) *mesh {
	t.Helper()
	netnstest.Require(t)
	m := &mesh{t: t, dir: t.TempDir(), caDir: filepath.Join(t.TempDir(), "ca"), nodes: map[string]*node{}}
	m.tokens = filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(m.tokens, []byte(tokenOf("n1")+" n1\n"+tokenOf("n2")+" n2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m.fabric = netnstest.New(t)
	netnstest.Bridge(t, m.fabric, "br0")
	netnstest.Up(t, m.fabric, "br0")
	netnstest.Addr(t, m.fabric, "br0", netip.MustParsePrefix("10.1.0.1/16"), netip.MustParsePrefix("fd00::53/64"))
	m.apply("mesh", `
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Namespace
metadata: {name: istio-system}
`)
	m.startControlPlane("127.0.0.1:0")
	t.Cleanup(m.stopControlPlane)
	return m
}

func tokenOf(node string) string { return "token-of-node-" + node + "-0123456789" }

// startControlPlane runs istiod-lite until stopControlPlane.
func (m *mesh) startControlPlane(listen string) {
	m.t.Helper()
	i, err := istiodlite.New(istiodlite.Config{
		ConfigDir: m.dir, CADir: m.caDir, NodeTokens: m.tokens, Listen: listen, StatusAddr: "127.0.0.1:0",
		Model: model.Config{TrustDomain: "cluster.local"},
	}, istiodlite.Deps{Log: zap.NewNop(), Metrics: prometheus.NewRegistry()})
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(m.t.Context()))
	done := make(chan struct{})
	m.stopCP, m.cpDone = cancel, done
	m.group.Go(ctx, "istiod", func(ctx context.Context) {
		defer close(done)
		if err := i.Run(ctx); err != nil {
			m.t.Errorf("control plane: %v", err)
		}
	})
	select {
	case <-i.Listening():
	case <-done:
		m.t.Fatal("the control plane did not start")
	}
	m.address = i.Addr().String()
}

func (m *mesh) stopControlPlane() {
	m.stopCP()
	<-m.cpDone
}

// apply writes a file of manifests, in one step.
func (m *mesh) apply(name, yaml string) {
	m.t.Helper()
	tmp := filepath.Join(m.t.TempDir(), name)
	if err := os.WriteFile(tmp, []byte(yaml), 0o644); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(m.dir, name+".yaml")); err != nil {
		m.t.Fatal(err)
	}
}

// remove takes a file of manifests away.
func (m *mesh) remove(name string) {
	m.t.Helper()
	if err := os.Remove(filepath.Join(m.dir, name+".yaml")); err != nil {
		m.t.Fatal(err)
	}
}

// node is one ztunnel and the agent's side of ZDS.
type node struct {
	m     *mesh
	name  string
	agent *zds.Server
	sock  string
	ns    *netns.NS // where its ztunnel runs; nil: at home
	z     *proxy

	stopAgent func()

	mu   sync.Mutex
	pods map[string]*pod // that the agent tells of
}

// proxy is a running ztunnel.
type proxy struct {
	*ztunnel.Ztunnel
	log  *logs
	ns   *netns.NS // where it runs; nil: at home
	stop context.CancelFunc
	done chan struct{}
}

// node starts the node of that name.
func (m *mesh) node(name string, tune ...func(*ztunnel.Config)) *node {
	m.t.Helper()
	return m.nodeIn(nil, name, tune...)
}

// nodeIn starts the node of that name, its ztunnel inside the namespace ns.
func (m *mesh) nodeIn(ns *netns.NS, name string, tune ...func(*ztunnel.Config)) *node {
	m.t.Helper()
	n := &node{m: m, name: name, ns: ns, sock: filepath.Join(m.t.TempDir(), "zds", "ztunnel.sock"), pods: map[string]*pod{}}
	n.agent = zds.NewServer(zds.ServerConfig{}, n.snapshot, zds.ServerTrace{})
	l, err := zds.Listen(n.sock)
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(m.t.Context()))
	var agent lifecycle.Group
	agent.Go(ctx, "agent", func(ctx context.Context) {
		if err := n.agent.Serve(ctx, l); err != nil {
			m.t.Errorf("agent of %s: %v", name, err)
		}
	})
	n.stopAgent = func() { cancel(); agent.Wait() }
	m.t.Cleanup(n.stopAgent)
	m.nodes[name] = n
	n.z = n.start(tune...)
	n.z.ready(m.t)
	return n
}

// config is that of a ztunnel of the node.
func (n *node) config() ztunnel.Config {
	up := ztunnel.Upstream{
		Address: "https://" + n.m.address, RootCA: filepath.Join(n.m.caDir, "root-cert.pem"), Token: tokenOf(n.name),
	}
	return ztunnel.Config{
		Node:    ztunnel.Node{Name: n.name, PodName: "ztunnel-" + n.name, PodNamespace: "istio-system", InstanceIP: "127.0.0.1"},
		XDS:     up,
		CA:      up,
		Capture: ztunnel.Capture{ZDSSocket: n.sock},
		Listen:  ztunnel.Listen{Admin: "127.0.0.1:0", Stats: "127.0.0.1:0", Readiness: "127.0.0.1:0"},
	}
}

// start runs a ztunnel on the node until the test ends or it is stopped.
func (n *node) start(tune ...func(*ztunnel.Config)) *proxy {
	t := n.m.t
	t.Helper()
	cfg := n.config()
	for _, f := range tune {
		f(&cfg)
	}
	p := n.build(cfg)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	p.stop = cancel
	go func() {
		defer close(p.done)
		if err := p.run(ctx); err != nil {
			t.Errorf("ztunnel of %s: %v", n.name, err)
		}
	}()
	t.Cleanup(func() { p.stop(); <-p.done })
	return p
}

// build makes a ztunnel that does not run yet.
func (n *node) build(cfg ztunnel.Config) *proxy {
	t := n.m.t
	t.Helper()
	p := &proxy{log: newLogs(t, n.name), ns: n.ns, done: make(chan struct{})}
	logger, err := telemetry.NewLogger(telemetry.LogConfig{Spec: "debug"}, p.log)
	if err != nil {
		t.Fatal(err)
	}
	if p.Ztunnel, err = ztunnel.New(cfg, ztunnel.Deps{Log: logger}); err != nil {
		t.Fatal(err)
	}
	return p
}

// run runs p in its namespace.
func (p *proxy) run(ctx context.Context) error {
	if p.ns == nil {
		return p.Run(ctx)
	}
	return p.ns.Do(func() error { return p.Run(ctx) })
}

// ready waits until p is ready.
func (p *proxy) ready(t *testing.T) {
	t.Helper()
	eventually(t, "ztunnel is ready", func() error {
		if pending := p.Ready(); len(pending) > 0 {
			return fmt.Errorf("pending: %v", pending)
		}
		return nil
	})
}

// snapshot is what the agent tells a ztunnel that connects.
func (n *node) snapshot() []zds.Pod {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []zds.Pod
	for _, p := range n.pods {
		out = append(out, p.zds())
	}
	return out
}

// logs keeps what a ztunnel writes.
type logs struct {
	mu    sync.Mutex
	lines []string
}

// newLogs shows the lines when the test has failed.
func newLogs(t *testing.T, name string) *logs {
	l := &logs{}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of %s:\n%s", name, l.text())
		}
	})
	return l
}

var _ io.Writer = (*logs)(nil)

func (l *logs) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(line))
	return len(line), nil
}

func (l *logs) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "")
}

// with returns the lines that contain word.
func (l *logs) with(word string) (out []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if strings.Contains(line, word) {
			out = append(out, line)
		}
	}
	return out
}

// access returns the access log lines that contain all of words.
func (l *logs) access(words ...string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
next:
	for _, line := range l.lines {
		if !strings.Contains(line, "\taccess\t") {
			continue
		}
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue next
			}
		}
		out = append(out, line)
	}
	return out
}

// wantAccess waits for an access log line that contains all of words.
func (p *proxy) wantAccess(t *testing.T, words ...string) string {
	t.Helper()
	var line string
	eventually(t, fmt.Sprintf("access log line with %q", words), func() error {
		found := p.log.access(words...)
		if len(found) == 0 {
			return fmt.Errorf("no such line")
		}
		line = found[0]
		return nil
	})
	return line
}

// eventually waits until check returns nil.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v: %v", what, patience, err)
		}
		<-tick.C
	}
}
