package agent

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/cni/event"
	"github.com/ambit-mesh/ambit/cni/redirect"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
	"github.com/ambit-mesh/ambit/internal/zds"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap/zaptest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// patience is how long a test waits for what must come soon.
const patience = 8 * time.Second

// node is an agent with its sockets, its manifests, and a ztunnel.
type node struct {
	t    *testing.T
	dir  string // of manifests
	run  string // of sockets and state
	cfg  Config
	stop func() // ends the agent

	world    *world    // nil for the directory
	in       *netns.NS // that of the node; nil: that of the test
	registry *prometheus.Registry

	*Agent
}

// newNode runs an agent over an empty directory.
func newNode(t *testing.T, cfg Config) *node {
	t.Helper()
	netnstest.Require(t)
	cfg.ReleaseLinger = cmp.Or(cfg.ReleaseLinger, time.Millisecond)
	n := &node{t: t, dir: t.TempDir(), run: filepath.Join(t.TempDir(), "r"), cfg: cfg}
	n.namespace("shop", "ambient")
	n.start()
	return n
}

// start runs the agent until stop or the end of the test.
func (n *node) start() {
	n.t.Helper()
	n.cfg.StateFile = filepath.Join(n.run, "state.json")
	log := zaptest.NewLogger(n.t)
	n.registry = prometheus.NewRegistry()
	deps := Deps{Log: log, Metrics: n.registry, Pods: NewDirectory(n.dir, log)}
	if w := n.world; w != nil {
		deps.Pods, deps.Report, deps.Runtime = w, w, w
		deps.Leaving = func(context.Context) bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.leave
		}
	}
	a, err := New(n.cfg, deps)
	if err != nil {
		n.t.Fatal(err)
	}
	n.Agent = a
	ztunnel, err := zds.Listen(n.zdsSocket())
	if err != nil {
		n.t.Fatal(err)
	}
	os.Remove(n.socket())
	plugin, err := net.Listen("unix", n.socket())
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(n.t.Context()))
	var g lifecycle.Group
	g.Go(ctx, "agent", func(ctx context.Context) {
		run := func() error { return a.Run(ctx, Listeners{Plugin: plugin, ZDS: ztunnel}) }
		err := error(nil)
		if n.in != nil {
			err = n.in.Do(run)
		} else {
			err = run()
		}
		if err != nil {
			n.t.Error(err)
		}
	})
	n.stop = func() { cancel(); g.Wait() }
	n.t.Cleanup(n.stop)
}

func (n *node) socket() string    { return filepath.Join(n.run, event.Socket) }
func (n *node) zdsSocket() string { return filepath.Join(n.run, "zds.sock") }

// write puts a manifest into the directory at once.
func (n *node) write(name, text string) {
	n.t.Helper()
	tmp := filepath.Join(n.dir, "."+name)
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		n.t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(n.dir, name+".yaml")); err != nil {
		n.t.Fatal(err)
	}
}

// namespace writes a Namespace; mode is the value of its label, or empty.
func (n *node) namespace(name, mode string) {
	n.write("ns-"+name, fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: %s, labels: {%q: %q}}\n", name, modeLabel, mode))
}

// manifest writes a Pod of namespace shop; mode is the value of its label, or
// empty for none.
func (n *node) manifest(name, uid, mode string) {
	label := ""
	if mode != "" {
		label = fmt.Sprintf(", labels: {%q: %q}", modeLabel, mode)
	}
	n.write("pod-"+name, fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: shop, uid: %s%s}\n"+
		"spec: {nodeName: node-1, serviceAccountName: front, containers: [{name: app, image: app}]}\n", name, uid, label))
}

// sandbox is a pod's namespace as a runtime makes it.
type sandbox struct {
	ns   *netns.NS
	path string
	addr netip.Prefix
}

// newSandbox makes a namespace with an address and a path.
func newSandbox(t *testing.T, addr string) sandbox {
	t.Helper()
	ns := netnstest.New(t)
	p := netip.MustParsePrefix(addr)
	netnstest.Veth(t, netnstest.End{NS: ns, Name: "eth0", Prefixes: []netip.Prefix{p}}, netnstest.End{NS: netnstest.New(t), Name: "veth0"})
	netnstest.Route(t, ns, netip.MustParsePrefix("0.0.0.0/0"), p.Masked().Addr().Next())
	return sandbox{ns, netnstest.Mount(t, ns), p}
}

// request is what the plugin asks about a pod of namespace shop.
func (s sandbox) request(name, container string) event.Add {
	return event.Add{
		Netns: s.path, PodName: name, PodNamespace: "shop", ContainerID: container, IfName: "eth0", Network: "pods",
		IPs: []event.IPConfig{{Address: net.IPNet{IP: s.addr.Addr().AsSlice(), Mask: net.CIDRMask(s.addr.Bits(), s.addr.Addr().BitLen())}}},
	}
}

// del is the request that ends what request began.
func (s sandbox) del(name, container string) event.Del {
	return event.Del{Netns: s.path, PodName: name, PodNamespace: "shop", ContainerID: container, IfName: "eth0"}
}

// rules is what of ours the kernel holds for the sandbox.
func (s sandbox) rules(t *testing.T) string {
	t.Helper()
	text, err := redirect.Read(s.ns)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// ask puts a request to the agent's socket, as the plugin does. It returns the
// status and the text of the answer.
func (n *node) ask(method, path string, body any) (int, string) {
	n.t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		n.t.Fatal(err)
	}
	return n.askRaw(method, path, raw)
}

func (n *node) askRaw(method, path string, raw []byte) (int, string) {
	n.t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", n.socket())
	}}
	req, err := http.NewRequestWithContext(n.t.Context(), method, "http://agent"+path, bytes.NewReader(raw))
	if err != nil {
		n.t.Fatal(err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// mustAsk wants a yes.
func (n *node) mustAsk(path string, body any) {
	n.t.Helper()
	if status, text := n.ask(http.MethodPost, path, body); status != http.StatusOK {
		n.t.Fatalf("%s: %d %s", path, status, text)
	}
}

// wantRefused wants a no that contains why.
func (n *node) wantRefused(path string, body any, why string) {
	n.t.Helper()
	if status, text := n.ask(http.MethodPost, path, body); status == http.StatusOK || !strings.Contains(text, why) {
		n.t.Errorf("%s: %d %q, want a refusal that says %q", path, status, text, why)
	}
}

// state returns what the agent says of a pod; empty when it does not know it.
func (n *node) state(name string) event.State {
	n.t.Helper()
	_, text := n.ask(http.MethodGet, event.PathPods, nil)
	var all []event.Pod
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		n.t.Fatal(err)
	}
	for _, p := range all {
		if p.Name == name {
			return p.State
		}
	}
	return ""
}

// eventually waits until cond holds.
func eventually(t *testing.T, why string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !cond(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen: %s", why)
		}
	}
}

// ztunnel is a real client of the agent that holds pods as a ztunnel does.
type ztunnel struct {
	life context.Context // of its listeners
	stop func()

	mu     sync.Mutex
	pods   map[string]netns.ID
	infos  map[string]zds.Info
	close  map[string]func() // listeners of a pod
	refuse error
	dels   []string
}

// newZtunnel connects to the agent until stop or the end of the test, and waits
// until the agent counts it.
func (n *node) newZtunnel() *ztunnel {
	n.t.Helper()
	z := n.connect()
	eventually(n.t, "the agent is ready", func() bool { return n.Ready() == nil })
	return z
}

// connect is newZtunnel without the wait.
func (n *node) connect() *ztunnel {
	z := &ztunnel{pods: map[string]netns.ID{}, infos: map[string]zds.Info{}, close: map[string]func(){}}
	ctx, cancel := context.WithCancel(context.WithoutCancel(n.t.Context()))
	z.life = ctx
	var g lifecycle.Group
	g.Go(ctx, "ztunnel", func(ctx context.Context) {
		zds.NewClient(zds.ClientConfig{Path: n.zdsSocket()}, zds.ClientTrace{}).Run(ctx, z)
	})
	z.stop = func() {
		cancel()
		g.Wait()
		z.mu.Lock()
		defer z.mu.Unlock()
		for _, stop := range z.close {
			stop()
		}
	}
	n.t.Cleanup(z.stop)
	return z
}

func (z *ztunnel) Add(_ context.Context, uid string, info zds.Info, ns *netns.NS) error {
	z.mu.Lock()
	defer z.mu.Unlock()
	defer ns.Close()
	if z.refuse != nil {
		return z.refuse
	}
	if z.pods[uid] == ns.ID() {
		return nil
	}
	z.dropLocked(uid)
	stop, err := netnstest.Doors(z.life, ns, portOutbound, portInbound, portTunnel, portDNS)
	if err != nil {
		return err
	}
	z.pods[uid], z.infos[uid], z.close[uid] = ns.ID(), info, stop
	return nil
}

// dropLocked ends the listeners of a pod. The caller holds z.mu.
func (z *ztunnel) dropLocked(uid string) {
	if stop := z.close[uid]; stop != nil {
		stop()
	}
	delete(z.close, uid)
	delete(z.pods, uid)
}

func (z *ztunnel) Keep(context.Context, string) error { return errors.New("no keep expected") }

func (z *ztunnel) Del(_ context.Context, uid string) error {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.dropLocked(uid)
	z.dels = append(z.dels, uid)
	return nil
}

func (z *ztunnel) Snapshot(_ context.Context, present map[string]bool) error {
	z.mu.Lock()
	defer z.mu.Unlock()
	for uid := range z.pods {
		if !present[uid] {
			z.dropLocked(uid)
		}
	}
	return nil
}

func (z *ztunnel) Disconnected(error) {}

// setRefuse makes it refuse pods.
func (z *ztunnel) setRefuse(err error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.refuse = err
}

// has says whether it holds the pod in that namespace.
func (z *ztunnel) has(uid string, ns *netns.NS) bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.pods[uid] == ns.ID()
}

// count is how many pods it holds.
func (z *ztunnel) count() int {
	z.mu.Lock()
	defer z.mu.Unlock()
	return len(z.pods)
}
