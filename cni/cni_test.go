package cni_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/cni"
	"github.com/ambit-mesh/ambit/cni/agent"
	"github.com/ambit-mesh/ambit/cni/redirect"
	"github.com/ambit-mesh/ambit/internal/lab/labtest"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
	"github.com/ambit-mesh/ambit/internal/zds"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/google/nftables"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap/zaptest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// TestChain calls the chain through libcni, as a container runtime does.
func TestChain(t *testing.T) {
	netnstest.Require(t)
	bin := buildPlugins(t)
	for _, tt := range []struct {
		name string
		run  func(*testing.T, *node)
	}{
		{"ADD enrols, CHECK agrees, DEL leaves nothing", chainEnrolsAndLeavesNothing},
		{"pods outside the mesh are left alone", chainLeavesOtherPodsAlone},
		{"CHECK after sabotage fails with the reason", checkAfterSabotageFailsWithTheReason},
		{"ADD fails when the pod cannot be enrolled", addFailsWhenThePodCannotBeEnrolled},
		{"agent down: ADD and STATUS fail, DEL does not", agentDown},
		{"STATUS without a ztunnel is fine", statusWithoutAZtunnel},
		{"GC forgets stale attachments", gCForgetsStaleAttachments},
		{"VERSION is good for the chain", pluginSaysItsVersions},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.run(t, newNode(t, bin)) })
	}
}

// buildPlugins builds ours and the reference plugins.
func buildPlugins(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := labtest.Build(t.Context(), dir, labtest.Plugin, labtest.Bridge, labtest.HostLocal); err != nil {
		t.Fatal(err)
	}
	return dir
}

// node is a node: a namespace in which plugins run, an agent, a ztunnel.
type node struct {
	t         *testing.T
	ns        *netns.NS
	manifests string
	run       string // sockets and state
	list      *libcni.NetworkConfigList
	cni       *libcni.CNIConfig
	stop      func() // ends the agent

	mu    sync.Mutex
	pods  map[string]netns.ID // that its ztunnel has
	doors map[string]func()   // that it listens at
}

// newNode makes a node with everything on it.
func newNode(t *testing.T, bin string) *node {
	t.Helper()
	dir := t.TempDir()
	n := &node{t: t, ns: netnstest.New(t), manifests: filepath.Join(dir, "manifests"), run: filepath.Join(dir, "run"), pods: map[string]netns.ID{}, doors: map[string]func(){}}
	if err := os.Mkdir(n.manifests, 0o700); err != nil {
		t.Fatal(err)
	}
	n.write("ns-shop", "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}\n")
	raw, err := json.Marshal(map[string]any{"cniVersion": "1.1.0", "name": "pods", "plugins": []any{
		map[string]any{"type": "bridge", "bridge": "cni0", "isGateway": true, "isDefaultGateway": true, "ipam": map[string]any{
			"type": "host-local", "dataDir": filepath.Join(dir, "ipam"), "ranges": [][]map[string]string{{{"subnet": "10.75.0.0/24"}}, {{"subnet": "fd75::/64"}}},
		}},
		map[string]any{"type": "ambit-cni", "cni_agent_run_dir": n.run, "exclude_namespaces": []string{"kube-system"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if n.list, err = libcni.NetworkConfFromBytes(raw); err != nil {
		t.Fatal(err)
	}
	n.cni = libcni.NewCNIConfigWithCacheDir([]string{bin}, filepath.Join(dir, "cache"), &inside{ns: n.ns})
	n.startAgent()
	n.startZtunnel()
	return n
}

// inside runs plugins in the namespace of the node.
type inside struct {
	ns *netns.NS
	invoke.RawExec
	version.PluginDecoder
}

func (e *inside) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) (out []byte, err error) {
	err = e.ns.Do(func() (err error) {
		out, err = e.RawExec.ExecPlugin(ctx, path, stdin, environ)
		return err
	})
	return out, err
}

// startAgent runs the agent until stop or the end of the test.
func (n *node) startAgent() {
	n.t.Helper()
	a, err := cni.New(cni.Config{
		Socket: filepath.Join(n.run, "pluginevent.sock"), ZDSSocket: n.zdsSocket(), ConfigDir: n.manifests,
		Agent: agent.Config{Node: "node-1", RepairEvery: time.Hour, AnswerTimeout: 2 * time.Second},
	}, cni.Deps{Log: zaptest.NewLogger(n.t), Metrics: prometheus.NewRegistry()})
	if err != nil {
		n.t.Fatal(err)
	}
	n.stop = n.background(a.Run)
	n.eventually("the agent serves", func() bool {
		_, err := os.Stat(n.zdsSocket())
		return err == nil
	})
}

// startZtunnel connects a ztunnel, and waits until the agent says that pods can
// be added.
func (n *node) startZtunnel() {
	n.t.Helper()
	ztunnel := zds.NewClient(zds.ClientConfig{Path: n.zdsSocket()}, zds.ClientTrace{})
	n.background(func(ctx context.Context) error { return ztunnel.Run(ctx, n) })
	n.eventually("STATUS is good", func() bool { return n.cni.GetStatusNetworkList(n.t.Context(), n.list) == nil })
}

func (n *node) zdsSocket() string { return filepath.Join(n.run, "zds.sock") }

// background runs fn until the returned function or the end of the test.
func (n *node) background(fn func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(n.t.Context()))
	var g lifecycle.Group
	g.Go(ctx, "test", func(ctx context.Context) {
		if err := fn(ctx); err != nil {
			n.t.Error(err)
		}
	})
	stop = func() { cancel(); g.Wait() }
	n.t.Cleanup(stop)
	return stop
}

// eventually waits until cond holds.
func (n *node) eventually(why string, cond func() bool) {
	n.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); !cond(); <-tick.C {
		if time.Now().After(deadline) {
			n.t.Fatalf("did not happen: %s", why)
		}
	}
}

// write puts a manifest into the directory at once.
func (n *node) write(name, text string) {
	n.t.Helper()
	tmp := filepath.Join(n.manifests, "."+name)
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		n.t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(n.manifests, name+".yaml")); err != nil {
		n.t.Fatal(err)
	}
}

// The node's ztunnel.

func (n *node) Add(_ context.Context, uid string, _ zds.Info, ns *netns.NS) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	stop, err := netnstest.Doors(n.t.Context(), ns, 15001, 15006, 15008)
	if err != nil {
		return errors.Join(err, ns.Close())
	}
	n.t.Cleanup(stop)
	n.pods[uid], n.doors[uid] = ns.ID(), stop
	return ns.Close()
}

func (n *node) Del(_ context.Context, uid string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if stop := n.doors[uid]; stop != nil {
		stop()
	}
	delete(n.pods, uid)
	return nil
}

func (n *node) Keep(context.Context, string) error              { return nil }
func (n *node) Snapshot(context.Context, map[string]bool) error { return nil }
func (n *node) Disconnected(error)                              {}

// has says whether ztunnel has a pod.
func (n *node) has(uid string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, ok := n.pods[uid]
	return ok
}

// pod is a pod as its runtime sees it.
type pod struct {
	name string
	ns   *netns.NS
	rt   *libcni.RuntimeConf
}

// newPod makes a sandbox and a manifest; extra are further labels.
func (n *node) newPod(name string, labels string) pod {
	n.t.Helper()
	ns := netnstest.New(n.t)
	n.write("pod-"+name, fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: shop, uid: u-%s, labels: {%s}}\nspec: {nodeName: node-1, containers: [{name: a, image: a}]}\n", name, name, labels))
	return pod{name, ns, &libcni.RuntimeConf{
		ContainerID: "sandbox-" + name, NetNS: netnstest.Mount(n.t, ns), IfName: "eth0",
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "shop"}, {"K8S_POD_NAME", name}, {"K8S_POD_INFRA_CONTAINER_ID", "sandbox-" + name}, {"K8S_POD_UID", "u-" + name}},
	}}
}

// add calls ADD of the chain, and returns the pod's addresses.
func (n *node) add(p pod) ([]netip.Addr, error) {
	n.t.Helper()
	res, err := n.cni.AddNetworkList(n.t.Context(), n.list, p.rt)
	if err != nil {
		return nil, err
	}
	result, err := types100.GetResult(res)
	if err != nil {
		n.t.Fatal(err)
	}
	var all []netip.Addr
	for _, ip := range result.IPs {
		a, _ := netip.AddrFromSlice(ip.Address.IP)
		all = append(all, a.Unmap())
	}
	return all, nil
}

func (n *node) check(p pod) error { return n.cni.CheckNetworkList(n.t.Context(), n.list, p.rt) }

// rules is what of ours the kernel holds for a pod.
func (p pod) rules(t *testing.T) string {
	t.Helper()
	text, err := redirect.Read(p.ns)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// wantError wants an error of CNI with a code and a text.
func wantError(t *testing.T, what string, err error, code uint, texts ...string) {
	t.Helper()
	cniErr, ok := errors.AsType[*types.Error](err)
	if !ok {
		t.Errorf("%s: %v, want an error of the CNI specification", what, err)
		return
	}
	if cniErr.Code != code {
		t.Errorf("%s: code %d (%v), want %d", what, cniErr.Code, err, code)
	}
	for _, text := range texts {
		if !strings.Contains(cniErr.Msg+cniErr.Details, text) {
			t.Errorf("%s: %q, want %q in it", what, cniErr.Msg+"; "+cniErr.Details, text)
		}
	}
}

func chainEnrolsAndLeavesNothing(t *testing.T, n *node) {
	p := n.newPod("web", "")
	addrs, err := n.add(p)
	if err != nil {
		t.Fatal(err)
	}
	if len(addrs) != 2 || !addrs[0].Is4() || !addrs[1].Is6() {
		t.Errorf("the result of the plugin before was handed on with addresses %v, want IPv4 and IPv6", addrs)
	}
	if got, want := p.rules(t), redirect.Text(redirect.Config{IPv6: true, RefuseClosed: true}); got != want {
		t.Errorf("rules are\n%s\nwant\n%s", got, want)
	}
	if !n.has("u-web") {
		t.Error("ztunnel has not got the pod")
	}
	if err := n.check(p); err != nil {
		t.Errorf("CHECK of a healthy pod: %v", err)
	}
	if err := n.cni.DelNetworkList(t.Context(), n.list, p.rt); err != nil {
		t.Fatal(err)
	}
	if got := p.rules(t); got != "" || n.has("u-web") {
		t.Errorf("DEL left rules %q, ztunnel has it: %v", got, n.has("u-web"))
	}
	if err := n.cni.DelNetworkList(t.Context(), n.list, p.rt); err != nil {
		t.Errorf("a second DEL: %v", err)
	}
}

func chainLeavesOtherPodsAlone(t *testing.T, n *node) {
	p := n.newPod("web", "istio.io/dataplane-mode: none")
	if _, err := n.add(p); err != nil {
		t.Fatal(err)
	}
	if got := p.rules(t); got != "" || n.has("u-web") {
		t.Errorf("rules %q, ztunnel has it: %v", got, n.has("u-web"))
	}
	if err := n.check(p); err != nil {
		t.Errorf("CHECK: %v", err)
	}
}

// The runtime's view of somebody who deletes a chain of rules.
func checkAfterSabotageFailsWithTheReason(t *testing.T, n *node) {
	p := n.newPod("web", "")
	if _, err := n.add(p); err != nil {
		t.Fatal(err)
	}
	err := p.ns.WithFD(func(fd int) error {
		c, err := nftables.New(nftables.WithNetNSFd(fd))
		if err != nil {
			return err
		}
		c.DelTable(&nftables.Table{Name: redirect.TableName, Family: nftables.TableFamilyINet})
		return c.Flush()
	})
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, "CHECK", n.check(p), types.ErrInternal, "shop/web", "not as written", "missing")
	n.eventually("and the agent mends it", func() bool { return n.check(p) == nil })
}

func addFailsWhenThePodCannotBeEnrolled(t *testing.T, n *node) {
	p := n.newPod("web", "")
	if err := os.Remove(filepath.Join(n.manifests, "pod-web.yaml")); err != nil {
		t.Fatal(err)
	}
	_, err := n.add(p)
	wantError(t, "ADD", err, types.ErrInternal, "shop/web", "not known to the agent")
	if got := p.rules(t); got != "" {
		t.Errorf("left behind:\n%s", got)
	}
}

func agentDown(t *testing.T, n *node) {
	running := n.newPod("running", "")
	if _, err := n.add(running); err != nil {
		t.Fatal(err)
	}
	before := running.rules(t)
	n.stop()
	if got := running.rules(t); got != before || got == "" {
		t.Errorf("the end of the agent changed the rules to\n%s", got)
	}

	socket := filepath.Join(n.run, "pluginevent.sock")
	wantError(t, "STATUS", n.cni.GetStatusNetworkList(t.Context(), n.list), types.ErrPluginNotAvailable, socket, "ambit-cni-agent")
	p := n.newPod("web", "")
	_, err := n.add(p)
	wantError(t, "ADD", err, types.ErrTryAgainLater, "shop/web", socket, "ambit-cni-agent")
	if err := n.cni.DelNetworkList(t.Context(), n.list, p.rt); err != nil {
		t.Errorf("DEL without an agent: %v, want that the pod can end", err)
	}

	n.startAgent()
	n.eventually("the agent is back", func() bool { return n.check(running) == nil })
	if _, err := n.add(p); err != nil {
		t.Errorf("ADD with the agent back: %v", err)
	}
}

func statusWithoutAZtunnel(t *testing.T, n *node) {
	n.stop()
	if err := os.Remove(n.zdsSocket()); err != nil {
		t.Fatal(err)
	}
	// The same agent, at whose socket for ztunnel nobody is yet: the client of
	// startZtunnel is waiting to try again.
	n.run = filepath.Join(t.TempDir(), "other")
	raw := strings.ReplaceAll(string(n.list.Bytes), filepath.Join(filepath.Dir(n.manifests), "run"), n.run)
	list, err := libcni.NetworkConfFromBytes([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	n.list = list
	n.startAgent()
	// A runtime that is told otherwise would start no pods, and ztunnel is one.
	if err := n.cni.GetStatusNetworkList(t.Context(), n.list); err != nil {
		t.Errorf("STATUS: %v", err)
	}
}

func gCForgetsStaleAttachments(t *testing.T, n *node) {
	keep, stale := n.newPod("keep", ""), n.newPod("stale", "")
	for _, p := range []pod{keep, stale} {
		if _, err := n.add(p); err != nil {
			t.Fatal(err)
		}
	}
	err := n.cni.GCNetworkList(t.Context(), n.list, &libcni.GCArgs{ValidAttachments: []types.GCAttachment{{ContainerID: "sandbox-keep", IfName: "eth0"}}})
	if err != nil {
		t.Fatal(err)
	}
	if got := stale.rules(t); got != "" || n.has("u-stale") {
		t.Errorf("stale: rules %q, ztunnel has it: %v", got, n.has("u-stale"))
	}
	if keep.rules(t) == "" || !n.has("u-keep") {
		t.Error("the valid attachment was forgotten too")
	}
	if err := n.check(keep); err != nil {
		t.Errorf("CHECK of the valid one: %v", err)
	}
}

func pluginSaysItsVersions(t *testing.T, n *node) {
	versions, err := n.cni.ValidateNetworkList(t.Context(), n.list)
	if err != nil {
		t.Fatalf("the chain does not validate: %v (%v)", err, versions)
	}
}

func TestStatusPage(t *testing.T) {
	netnstest.Require(t)
	dir := t.TempDir()
	os.Mkdir(filepath.Join(dir, "m"), 0o700)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().String()
	free.Close()
	node, err := cni.New(cni.Config{
		Socket: filepath.Join(dir, "r", "pluginevent.sock"), ZDSSocket: filepath.Join(dir, "z", "zds.sock"), ConfigDir: filepath.Join(dir, "m"), StatusAddr: addr,
	}, cni.Deps{Log: zaptest.NewLogger(t), Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var g lifecycle.Group
	g.Go(ctx, "node", func(ctx context.Context) {
		if err := node.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer g.Wait()
	defer cancel()
	get := func(path string) int {
		transport := &http.Transport{DisableKeepAlives: true}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			return 0
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 503, "/metrics": 200, "/pods": 404} {
		for deadline := time.Now().Add(5 * time.Second); get(path) == 0 && time.Now().Before(deadline); {
		}
		if got := get(path); got != want {
			t.Errorf("%s: %d, want %d", path, got, want)
		}
	}
}
