package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/cni/event"
	"github.com/ambit-mesh/ambit/cni/redirect"
	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
)

// world is a cluster and a container runtime in memory, and hears what the agent
// reports.
type world struct {
	mu        sync.Mutex
	pods      map[string]Pod     // by name
	sandboxes map[string]Sandbox // by uid
	marks     map[string][]Mark  // by name, in their order
	events    []string
	changed   func()
	leave     bool

	late   atomic.Bool  // who asks for what is known hears of no labels of namespaces until somebody has asked anew
	deaf   atomic.Bool  // who asks for what is known hears of no pod
	looked atomic.Int64 // how often it was asked for what is known
	listed atomic.Int64 // and how often for all pods
}

func newWorld() *world {
	return &world{pods: map[string]Pod{}, sandboxes: map[string]Sandbox{}, marks: map[string][]Mark{}}
}

// set has a pod be as change makes it.
func (w *world) set(name string, change func(*Pod)) {
	w.mu.Lock()
	p, ok := w.pods[name]
	if !ok {
		p = Pod{UID: "u-" + name, Namespace: "shop", Name: name, ServiceAccount: "front", NamespaceLabels: map[string]string{}}
	}
	change(&p)
	w.pods[name] = p
	fn := w.changed
	w.mu.Unlock()
	if fn != nil {
		fn()
	}
}

// runs has a pod run in s, by the runtime's word, and have a mode by the label of
// its namespace.
func (w *world) runs(name string, s sandbox, mode string) {
	w.mu.Lock()
	w.sandboxes["u-"+name] = Sandbox{ID: "box-" + name, Netns: s.path}
	w.mu.Unlock()
	w.set(name, func(p *Pod) {
		p.IPs, p.NamespaceLabels = []netip.Addr{s.addr.Addr()}, map[string]string{modeLabel: mode}
	})
}

func (w *world) Lookup(ctx context.Context, namespace, name string) (Pod, bool, error) {
	w.looked.Add(1)
	if w.deaf.Load() {
		return Pod{}, false, nil
	}
	late := w.late.Load()
	p, found, err := w.Fetch(ctx, namespace, name)
	if late {
		p.NamespaceLabels = nil
		w.late.Store(true)
	}
	return p, found, err
}

func (w *world) Fetch(_ context.Context, namespace, name string) (Pod, bool, error) {
	w.late.Store(false)
	w.mu.Lock()
	defer w.mu.Unlock()
	p, ok := w.pods[name]
	return p, ok && p.Namespace == namespace, nil
}

func (w *world) List(context.Context) ([]Pod, error) {
	w.listed.Add(1)
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []Pod
	for _, p := range w.pods {
		all = append(all, p)
	}
	return all, nil
}

func (w *world) Watch(ctx context.Context, fn func()) error {
	w.mu.Lock()
	w.changed = fn
	w.mu.Unlock()
	fn()
	<-ctx.Done()
	return nil
}

func (w *world) Sandbox(_ context.Context, uid string) (Sandbox, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s, ok := w.sandboxes[uid]
	if !ok {
		return Sandbox{}, errors.New("the runtime does not know it")
	}
	return s, nil
}

func (w *world) Mark(uid, namespace, name string, value Mark) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.marks[name] = append(w.marks[name], value)
	p := w.pods[name]
	p.Annotations = map[string]string{}
	if value != Unmarked {
		p.Annotations[MarkAnnotation] = string(value)
	}
	w.pods[name] = p
}

func (w *world) Event(_, _, name, reason, message string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, name+" "+reason+": "+message)
}

// marked returns the marks that a pod has had.
func (w *world) marked(name string) []Mark {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.marks[name])
}

// said says whether an event was written that contains text.
func (w *world) said(text string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.events, func(e string) bool { return strings.Contains(e, text) })
}

// newClusterNode runs an agent whose pods come from w.
func newClusterNode(t *testing.T, w *world, cfg Config) *node {
	t.Helper()
	return newClusterNodeIn(t, w, cfg, nil)
}

// newClusterNodeIn is newClusterNode on a node with that namespace.
func newClusterNodeIn(t *testing.T, w *world, cfg Config, in *netns.NS) *node {
	t.Helper()
	netnstest.Require(t)
	cfg.FenceAfter = max(cfg.FenceAfter, time.Millisecond)
	cfg.RepairEvery = max(cfg.RepairEvery, 20*time.Millisecond)
	cfg.ReleaseLinger = time.Millisecond
	n := &node{t: t, dir: t.TempDir(), run: t.TempDir() + "/r", cfg: cfg, world: w, in: in}
	n.start()
	return n
}

// gauge is the value of one of the agent's gauges.
func (n *node) gauge(name string) float64 {
	n.t.Helper()
	all, err := n.registry.Gather()
	if err != nil {
		n.t.Fatal(err)
	}
	for _, m := range all {
		if m.GetName() == name {
			return m.GetMetric()[0].GetGauge().GetValue()
		}
	}
	n.t.Fatalf("no metric %s", name)
	return 0
}

// counts is what the invariant says: expected, enrolled, fenced.
func (n *node) counts() string {
	return fmt.Sprint(n.gauge("ambit_pods_expected"), n.gauge("ambit_pods_enrolled"), n.gauge("ambit_pods_fenced"))
}

func TestPodThatRanBefore(t *testing.T) {
	w := newWorld()
	s, other := newSandbox(t, "10.74.0.2/24"), newSandbox(t, "10.74.0.3/24")
	w.runs("web", s, modeAmbient)
	w.runs("plain", other, "")
	n := newClusterNode(t, w, Config{})
	z := n.newZtunnel()
	eventually(t, "the pod is taken in", func() bool { return n.state("web") == event.Enrolled && z.has("u-web", s.ns) })
	eventually(t, "it is counted", func() bool { return n.counts() == "1 1 0" })
	if got := w.marked("web"); !slices.Equal(got, []Mark{Marked}) {
		t.Errorf("marks %q, want one", got)
	}
	if other.rules(t) != "" || n.state("plain") != "" {
		t.Errorf("a pod outside of the mesh is %q, with rules %q", n.state("plain"), other.rules(t))
	}
	w.runs("plain", other, modeAmbient)
	eventually(t, "a label takes it in", func() bool { return n.state("plain") == event.Enrolled })
	w.runs("plain", other, "")
	eventually(t, "and lets it go", func() bool { return n.state("plain") == event.Outside && other.rules(t) == "" })
	eventually(t, "and its mark goes", func() bool { return slices.Equal(w.marked("plain"), []Mark{Marked, Unmarked}) })
}

func TestStaticPodThatRanBefore(t *testing.T) {
	w := newWorld()
	s := newSandbox(t, "10.74.0.2/24")
	w.runs("web", s, "")
	w.sandboxes["own"] = w.sandboxes["u-web"]
	delete(w.sandboxes, "u-web")
	w.set("web", func(p *Pod) { p.StaticUID, p.NamespaceLabels = "own", map[string]string{modeLabel: modeAmbient} })
	n := newClusterNode(t, w, Config{})
	z := n.newZtunnel()
	eventually(t, "the pod is taken in", func() bool { return n.state("web") == event.Enrolled && z.has("u-web", s.ns) })
}

// A pod may start before the source has heard of it: watches begin anew late after an
// API server was away.
func TestPodThatTheSourceHasNotHeardOf(t *testing.T) {
	w := newWorld()
	s := newSandbox(t, "10.74.0.2/24")
	w.set("web", func(p *Pod) {
		p.IPs, p.NamespaceLabels = []netip.Addr{s.addr.Addr()}, map[string]string{modeLabel: modeAmbient}
	})
	w.deaf.Store(true)
	n := newClusterNode(t, w, Config{})
	z := n.newZtunnel()
	req := s.request("web", "c1")
	req.PodUID = "u-web"
	n.mustAsk(event.PathAdd, req)
	if got := n.state("web"); got != event.Enrolled {
		t.Errorf("the pod is %q, want it enrolled", got)
	}
	compared := func() {
		t.Helper()
		before := w.looked.Load()
		eventually(t, "some comparisons", func() bool { return w.looked.Load() > before+3 })
	}
	compared()
	if got := n.state("web"); got != event.Enrolled || !z.has("u-web", s.ns) {
		t.Errorf("the pod is %q after comparisons, want it enrolled", got)
	}
	// Once it was heard of, its absence is its end.
	w.deaf.Store(false)
	compared()
	w.deaf.Store(true)
	eventually(t, "a pod that is known no more is given back", func() bool { return !z.has("u-web", s.ns) })
}

// The news of a namespace's label may come later than that of its first pod.
func TestPodWhoseNamespaceWasJustLabelled(t *testing.T) {
	w := newWorld()
	s := newSandbox(t, "10.74.0.2/24")
	n := newClusterNode(t, w, Config{})
	n.newZtunnel()
	w.late.Store(true)
	w.set("web", func(p *Pod) { p.NamespaceLabels = map[string]string{modeLabel: modeAmbient} })
	n.mustAsk(event.PathAdd, s.request("web", "c1"))
	if got := n.state("web"); got != event.Enrolled {
		t.Errorf("the pod has started %q, want it enrolled", got)
	}
}

func TestRuntimeIsNotBelieved(t *testing.T) {
	w := newWorld()
	s, other := newSandbox(t, "10.74.0.2/24"), newSandbox(t, "10.74.0.3/24")
	w.runs("web", s, modeAmbient)
	w.runs("thief", other, modeAmbient)
	w.mu.Lock()
	w.sandboxes["u-thief"] = Sandbox{ID: "box", Netns: s.path} // somebody else's
	w.sandboxes["u-host"] = Sandbox{ID: "box2", Netns: "/proc/self/ns/net"}
	w.mu.Unlock()
	w.set("host", func(p *Pod) {
		p.IPs, p.NamespaceLabels = []netip.Addr{netip.MustParseAddr("127.0.0.1")}, map[string]string{modeLabel: modeAmbient}
	})
	w.set("unknown", func(p *Pod) {
		p.IPs, p.NamespaceLabels = []netip.Addr{netip.MustParseAddr("10.74.0.9")}, map[string]string{modeLabel: modeAmbient}
	})
	n := newClusterNode(t, w, Config{})
	n.newZtunnel()
	eventually(t, "what is sound is taken in", func() bool { return n.state("web") == event.Enrolled })
	for _, name := range []string{"thief", "host", "unknown"} {
		eventually(t, name+" is complained of", func() bool { return w.said(name + " NotInMesh") })
		if got := n.state(name); got != "" {
			t.Errorf("%s is %q", name, got)
		}
	}
	if got := n.counts(); got != "4 1 0" {
		t.Errorf("expected, enrolled, fenced: %s, want 4 1 0", got)
	}
	w.runs("thief", other, modeAmbient)
	eventually(t, "the truth helps", func() bool { return n.state("thief") == event.Enrolled })
}

func TestRunningPodIsNotCapturedBeforeItIsServed(t *testing.T) {
	w := newWorld()
	s := newSandbox(t, "10.74.0.2/24")
	w.runs("web", s, modeAmbient)
	n := newClusterNode(t, w, Config{FenceAfter: time.Hour})
	z := n.connect()
	z.setRefuse(errors.New("not yet"))
	eventually(t, "it was offered", func() bool { return n.state("web") == event.Failed })
	if got := s.rules(t); got != "" {
		t.Errorf("captured without a proxy:\n%s", got)
	}
	z.setRefuse(nil)
	eventually(t, "it is taken in", func() bool { return n.state("web") == event.Enrolled })
}

// uncapturable makes a namespace one that cannot be captured, or again one that
// can.
func uncapturable(t *testing.T, s sandbox, yes bool) {
	t.Helper()
	value := "0"
	if yes {
		value = "1"
	}
	netnstest.Sysctl(t, s.ns, "net/ipv6/conf/lo/disable_ipv6", value)
}

func TestWhoCannotBeTakenInIsFenced(t *testing.T) {
	w := newWorld()
	s := newSandbox(t, "10.74.0.2/24")
	netnstest.Addr(t, s.ns, "eth0", netip.MustParsePrefix("fd74::2/64"))
	uncapturable(t, s, true)
	w.runs("web", s, modeAmbient)
	n := newClusterNode(t, w, Config{})
	n.newZtunnel()
	eventually(t, "it is fenced", func() bool { return n.state("web") == event.Fenced && n.counts() == "1 0 1" })
	if !fencedInside(t, s) || !w.said("web Fenced: ") {
		t.Errorf("fence %v, events %q", fencedInside(t, s), w.events)
	}
	n.stop()
	n.start() // the fence is remembered
	n.newZtunnel()
	eventually(t, "it is still fenced", func() bool { return n.state("web") == event.Fenced })

	w.set("web", func(p *Pod) { p.NamespaceLabels = map[string]string{modeLabel: modeAmbient, openLabel: openValue} })
	eventually(t, "the label opens it", func() bool { return n.state("web") == event.Failed && !fencedInside(t, s) })
	w.set("web", func(p *Pod) { p.NamespaceLabels = map[string]string{modeLabel: modeAmbient} })
	eventually(t, "without it the fence is back", func() bool { return n.state("web") == event.Fenced && fencedInside(t, s) })
	uncapturable(t, s, false)
	eventually(t, "it is taken in when it can be", func() bool { return n.state("web") == event.Enrolled && !fencedInside(t, s) && n.counts() == "1 1 0" })
	w.runs("web", s, "")
	eventually(t, "and let go", func() bool { return n.state("web") == event.Outside && s.rules(t) == "" })
}

// fencedInside says whether a fence is in the pod.
func fencedInside(t *testing.T, s sandbox) bool {
	t.Helper()
	fenced, err := redirect.FencedInside(s.ns)
	if err != nil {
		t.Fatal(err)
	}
	return fenced
}

func TestPodWithoutItsProxyIsNotEnrolled(t *testing.T) {
	w := newWorld()
	s := newSandbox(t, "10.74.0.2/24")
	w.runs("web", s, modeAmbient)
	n := newClusterNode(t, w, Config{})
	z := n.newZtunnel()
	eventually(t, "it is enrolled", func() bool { return n.state("web") == event.Enrolled })
	rules := s.rules(t)
	z.stop()
	eventually(t, "it is not, without its ztunnel", func() bool { return n.state("web") == event.Pending && n.counts() == "1 0 0" })
	if got := s.rules(t); got != rules {
		t.Errorf("its rules changed to\n%s", got)
	}
	if got := w.marked("web"); !slices.Equal(got, []Mark{Marked}) {
		t.Errorf("marks %q: without the mark its peers would send plaintext", got)
	}
	n.connect()
	eventually(t, "another ztunnel serves it", func() bool { return n.state("web") == event.Enrolled })
}

// A proxy that listens, and takes nothing.
func TestPodWhoseProxyHangsIsNotEnrolled(t *testing.T) {
	w := newWorld()
	s := newSandbox(t, "10.74.0.2/24")
	w.runs("web", s, modeAmbient)
	n := newClusterNode(t, w, Config{})
	z := n.newZtunnel()
	eventually(t, "it is enrolled", func() bool { return n.state("web") == event.Enrolled })
	z.mu.Lock()
	z.close["u-web"]()
	for _, port := range []uint16{portOutbound, portInbound, portTunnel} {
		l, err := s.ns.Listen(t.Context(), "tcp", netip.AddrPortFrom(netip.IPv6Unspecified(), port), netns.SocketOptions{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
	}
	z.mu.Unlock()
	eventually(t, "it is not any more", func() bool { return n.state("web") == event.Pending })
}

func TestConnectionsMayEndBeforeAPodIsLetGo(t *testing.T) {
	w := newWorld()
	s := newSandbox(t, "10.74.0.2/24")
	w.runs("web", s, modeAmbient)
	n := newClusterNode(t, w, Config{})
	z := n.newZtunnel()
	eventually(t, "it is enrolled", func() bool { return n.state("web") == event.Enrolled })

	// What the proxy carries: a connection to the application in a client's name.
	app, err := s.ns.Listen(t.Context(), "tcp", netip.AddrPortFrom(s.addr.Addr(), 8080), netns.SocketOptions{NoMark: true, Transparent: netns.TransparentNever})
	if err != nil {
		t.Fatal(err)
	}
	defer app.Close()
	out, err := s.ns.Dial(t.Context(), netns.DialOptions{
		Local: netip.MustParseAddr("198.51.100.7"), Remote: netip.AddrPortFrom(s.addr.Addr(), 8080), Timeout: patience,
		SocketOptions: netns.SocketOptions{Transparent: netns.TransparentAlways},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	in, err := app.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()

	w.runs("web", s, "")
	eventually(t, "its release has begun", func() bool { return n.state("web") == event.Releasing })
	n.compareAll(t.Context())
	want := redirect.Text(redirect.Config{RefuseClosed: true, IPv6: true, Releasing: true})
	if got := s.rules(t); n.state("web") != event.Releasing || got != want || !z.has("u-web", s.ns) {
		t.Errorf("with a connection under way it is %q, served %v, with rules\n%s", n.state("web"), z.has("u-web", s.ns), got)
	}
	in.SetDeadline(time.Now().Add(patience))
	out.SetDeadline(time.Now().Add(patience))
	if _, err := out.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := in.Read(make([]byte, 1)); err != nil {
		t.Errorf("the connection does not go on: %v", err)
	}
	n.stop()
	n.start()
	z = n.newZtunnel()
	eventually(t, "another agent goes on with it", func() bool { return n.state("web") == event.Releasing && z.has("u-web", s.ns) })
	w.runs("web", s, modeAmbient)
	eventually(t, "a label takes it back", func() bool { return n.state("web") == event.Enrolled })
	w.runs("web", s, "")
	eventually(t, "its release has begun again", func() bool { return n.state("web") == event.Releasing })
	in.Close()
	out.Close()
	eventually(t, "it is let go in the end", func() bool { return n.state("web") == event.Outside && s.rules(t) == "" && z.count() == 0 })
}

func TestMeshThatLeavesTheNodeReleasesItsPods(t *testing.T) {
	w := newWorld()
	s, broken := newSandbox(t, "10.74.0.2/24"), newSandbox(t, "10.74.0.3/24")
	netnstest.Addr(t, broken.ns, "eth0", netip.MustParsePrefix("fd74::3/64"))
	uncapturable(t, broken, true)
	w.runs("web", s, modeAmbient)
	w.runs("broken", broken, modeAmbient)
	n := newClusterNode(t, w, Config{})
	n.newZtunnel()
	eventually(t, "one is enrolled, one fenced", func() bool { return n.counts() == "2 1 1" })
	n.stop()
	if s.rules(t) == "" || !fencedInside(t, broken) {
		t.Fatal("an agent that is replaced has let pods go")
	}
	w.mu.Lock()
	w.leave = true
	w.mu.Unlock()
	n.start()
	n.newZtunnel()
	eventually(t, "all is as before", func() bool { return n.counts() == "2 1 1" })
	n.stop()
	if got := s.rules(t); got != "" || fencedInside(t, broken) {
		t.Errorf("left behind: fence %v, rules\n%s", fencedInside(t, broken), got)
	}
	if got := w.marked("web"); len(got) == 0 || got[len(got)-1] != Unmarked {
		t.Errorf("marks %q, want it unmarked in the end", got)
	}
}

func TestHostRootFollowsLinksOfTheNode(t *testing.T) {
	root := t.TempDir()
	for _, step := range []error{mkdir(root, "run/netns"), mkdir(root, "var"), mkdir(root, "data/real"), link(root, "/run", "var/run"), link(root, "../data/real", "run/rel"), link(root, "loop", "loop")} {
		if step != nil {
			t.Fatal(step)
		}
	}
	for _, tt := range []struct{ root, path, want string }{
		{"", "/var/run/netns/a", "/var/run/netns/a"},
		{root, "/var/run/netns/a", root + "/run/netns/a"},
		{root, "/run/rel/x", root + "/data/real/x"},
		{root, "/../../var/run/x", root + "/run/x"},
		{root, "/proc/12/ns/net", root + "/proc/12/ns/net"},
		{root, "/missing/x", root + "/missing/x"},
		{root, "/loop", ""},
	} {
		got, err := HostRoot(tt.root).Resolve(tt.path)
		if (err != nil) != (tt.want == "") || got != tt.want {
			t.Errorf("Resolve(%q, %q) = %q, %v; want %q", tt.root, tt.path, got, err, tt.want)
		}
	}
}

func mkdir(root, path string) error { return os.MkdirAll(filepath.Join(root, path), 0o700) }

func link(root, target, path string) error { return os.Symlink(target, filepath.Join(root, path)) }
