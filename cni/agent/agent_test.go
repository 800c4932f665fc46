package agent

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/cni/event"
	"github.com/ambit-mesh/ambit/cni/redirect"
	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
	"github.com/ambit-mesh/ambit/internal/zds"
	"github.com/google/nftables"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
)

// flush takes the rules of one of our chains out of a sandbox.
func (s sandbox) flush(t *testing.T, chain string) {
	t.Helper()
	err := s.ns.WithFD(func(fd int) error {
		c, err := nftables.New(nftables.WithNetNSFd(fd))
		if err != nil {
			return err
		}
		table := &nftables.Table{Name: redirect.TableName, Family: nftables.TableFamilyINet}
		c.FlushChain(&nftables.Chain{Name: chain, Table: table})
		return c.Flush()
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestAddEnrols(t *testing.T) {
	n := newNode(t, Config{Node: "node-1"})
	z := n.newZtunnel()
	s := newSandbox(t, "10.74.0.2/24")
	n.manifest("web", "u1", "")
	req := s.request("web", "c1")
	req.PodUID = "u1"
	n.mustAsk(event.PathAdd, req)
	if got, want := s.rules(t), redirect.Text(redirect.Config{IPv6: true, RefuseClosed: true}); got != want {
		t.Errorf("the pod's rules are\n%s\nwant\n%s", got, want)
	}
	if !z.has("u1", s.ns) || z.infos["u1"] != (zds.Info{Name: "web", Namespace: "shop", ServiceAccount: "front"}) {
		t.Errorf("ztunnel has %v with %v, want the pod in its namespace", z.pods, z.infos)
	}
	if got := n.state("web"); got != event.Enrolled {
		t.Errorf("state = %q, want enrolled", got)
	}
	netnstest.Do(t, s.ns, func() error {
		got, err := os.ReadFile("/proc/sys/net/ipv4/tcp_migrate_req")
		if err == nil && strings.TrimSpace(string(got)) != "1" {
			t.Errorf("tcp_migrate_req = %q in the pod, want 1: an upgrade of ztunnel would lose connections", got)
		}
		return err
	})
	n.mustAsk(event.PathAdd, req) // a runtime may ask again
	n.mustAsk(event.PathCheck, req)

	n.mustAsk(event.PathDel, s.del("web", "c1"))
	if s.rules(t) != "" || z.count() != 0 || n.state("web") != "" {
		t.Errorf("after DEL: rules %q, ztunnel has %v, state %q, want nothing", s.rules(t), z.pods, n.state("web"))
	}
	n.mustAsk(event.PathDel, s.del("web", "c1")) // and again
}

// The kubelet starts a static pod under a uid of its own; the pod's copy in the
// cluster has another.
func TestAddEnrolsAStaticPod(t *testing.T) {
	n := newNode(t, Config{Node: "node-1"})
	z := n.newZtunnel()
	s := newSandbox(t, "10.74.0.2/24")
	n.write("pod-static", "apiVersion: v1\nkind: Pod\nmetadata: {name: static, namespace: shop, uid: copy, annotations: {kubernetes.io/config.mirror: own}}\n"+
		"spec: {nodeName: node-1, containers: [{name: app, image: app}]}\n")
	req := s.request("static", "c1")
	req.PodUID = "copy"
	n.wantRefused(event.PathAdd, req, "known with uid own")
	req.PodUID = "own"
	n.mustAsk(event.PathAdd, req)
	if !z.has("copy", s.ns) || n.state("static") != event.Enrolled {
		t.Errorf("ztunnel has %v, state %q, want the pod under the uid of its object", z.pods, n.state("static"))
	}
}

func TestAddOfAPluginThatIsNotOurs(t *testing.T) {
	n := newNode(t, Config{})
	z := n.newZtunnel()
	s := newSandbox(t, "10.74.0.2/24")
	n.manifest("web", "u1", "")
	status, text := n.askRaw(http.MethodPost, event.PathAdd, []byte(`{"Netns":"`+s.path+`","PodName":"web","PodNamespace":"shop",`+
		`"IPs":[{"Interface":null,"Address":{"IP":"10.74.0.2","Mask":"////AA=="},"Gateway":"10.74.0.1"}]}`))
	if status != http.StatusOK || !z.has("u1", s.ns) {
		t.Errorf("answer %d %q, ztunnel has %v", status, text, z.pods)
	}
}

func TestPodsOutsideTheMeshStartAndAreLeftAlone(t *testing.T) {
	n := newNode(t, Config{}) // and without a ztunnel
	s := newSandbox(t, "10.74.0.2/24")
	n.manifest("web", "u1", "none")
	n.mustAsk(event.PathAdd, s.request("web", "c1"))
	if got := s.rules(t); got != "" || n.state("web") != event.Outside {
		t.Errorf("rules %q, state %q, want none, outside", got, n.state("web"))
	}
	n.mustAsk(event.PathCheck, s.request("web", "c1"))
	excluded := s.request("dns", "c2")
	excluded.PodNamespace = "kube-system"
	n.mustAsk(event.PathAdd, excluded) // no manifest, and nobody asks for one
}

func TestAddRefuses(t *testing.T) {
	n := newNode(t, Config{Node: "node-1", AnswerTimeout: 1500 * time.Millisecond})
	n.newZtunnel()
	n.manifest("web", "u1", "")
	n.manifest("db", "u2", "")
	n.write("pod-elsewhere", "apiVersion: v1\nkind: Pod\nmetadata: {name: elsewhere, namespace: shop, uid: u3}\nspec: {nodeName: node-2, containers: [{name: a, image: a}]}\n")
	s, taken := newSandbox(t, "10.74.0.2/24"), newSandbox(t, "10.74.0.3/24")
	n.mustAsk(event.PathAdd, taken.request("db", "c2"))
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		edit func(r *event.Add)
		want string
	}{
		{"the node's own namespace", func(r *event.Add) { r.Netns = "/proc/self/ns/net" }, "node's own"},
		{"a namespace without the pod's address", func(r *event.Add) { r.IPs[0].Address.IP = r.IPs[0].Address.IP.To16(); r.IPs[0].Address.IP[15] = 77 }, "holds none of the pod's addresses [10.74.0.77]"},
		{"a request without addresses", func(r *event.Add) { r.IPs = nil }, "holds none"},
		{"the namespace of another pod", func(r *event.Add) { r.Netns, r.IPs = taken.path, taken.request("", "").IPs }, "namespace of pod shop/db already"},
		{"a path that leads nowhere", func(r *event.Add) { r.Netns = file + "-missing" }, "no such file"},
		{"a file that is no namespace", func(r *event.Add) { r.Netns = file }, "not a network namespace"},
		{"a pod that nobody knows", func(r *event.Add) { r.PodName = "stranger" }, "not known to the agent"},
		{"a pod under another uid", func(r *event.Add) { r.PodUID = "u9" }, "known with uid u1"},
		{"a pod of another node", func(r *event.Add) { r.PodName = "elsewhere" }, "belongs to node node-2"},
		{"no pod name", func(r *event.Add) { r.PodName = "" }, "names no netns"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := s.request("web", "c1")
			tt.edit(&r)
			n.wantRefused(event.PathAdd, r, tt.want)
			if got := s.rules(t); got != "" || n.state("web") != "" {
				t.Errorf("the refused pod has rules %q and state %q", got, n.state("web"))
			}
		})
	}
	if n.state("db") != event.Enrolled {
		t.Error("the other pod has suffered")
	}
	if status, text := n.askRaw(http.MethodPost, event.PathAdd, []byte("{")); status != http.StatusBadRequest || !strings.Contains(text, "/cmdadd") {
		t.Errorf("half a request: %d %q", status, text)
	}
}

func TestAddWithoutAZtunnelFailsAndLeavesNothing(t *testing.T) {
	n := newNode(t, Config{AnswerTimeout: 300 * time.Millisecond})
	s := newSandbox(t, "10.74.0.2/24")
	n.manifest("web", "u1", "")
	n.wantRefused(event.PathAdd, s.request("web", "c1"), "no ztunnel is connected")
	if got := s.rules(t); got != "" || n.state("web") != "" {
		t.Errorf("rules %q, state %q", got, n.state("web"))
	}
	if err := n.Ready(); err == nil || !strings.Contains(err.Error(), "no ztunnel") {
		t.Errorf("Ready = %v, want that there is no ztunnel", err)
	}
	// A runtime that is told that there is no network starts no pods, and ztunnel is
	// one.
	if status, text := n.ask(http.MethodGet, event.PathStatus, nil); status != http.StatusOK {
		t.Errorf("status without a ztunnel: %d %q", status, text)
	}
}

func TestAddThatZtunnelRefusesFailsAndLeavesNothing(t *testing.T) {
	n := newNode(t, Config{})
	z := n.newZtunnel()
	z.setRefuse(errors.New("port 15008 is taken"))
	s := newSandbox(t, "10.74.0.2/24")
	n.manifest("web", "u1", "")
	n.wantRefused(event.PathAdd, s.request("web", "c1"), "port 15008 is taken")
	if got := s.rules(t); got != "" || n.state("web") != "" {
		t.Errorf("rules %q, state %q", got, n.state("web"))
	}
	eventually(t, "ztunnel is told to drop the pod", func() bool { z.mu.Lock(); defer z.mu.Unlock(); return len(z.dels) == 1 })
	z.setRefuse(nil)
	n.mustAsk(event.PathAdd, s.request("web", "c1"))
}

func TestAddWaitsForItsManifest(t *testing.T) {
	n := newNode(t, Config{})
	z := n.newZtunnel()
	s := newSandbox(t, "10.74.0.2/24")
	time.AfterFunc(100*time.Millisecond, func() { n.manifest("web", "u1", "") })
	n.mustAsk(event.PathAdd, s.request("web", "c1"))
	if !z.has("u1", s.ns) {
		t.Error("ztunnel has not got the pod")
	}
}

func TestLabelsTakeARunningPodInAndOut(t *testing.T) {
	n := newNode(t, Config{})
	z := n.newZtunnel()
	s := newSandbox(t, "10.74.0.2/24")
	n.manifest("web", "u1", "none")
	n.mustAsk(event.PathAdd, s.request("web", "c1"))
	for range 2 {
		n.manifest("web", "u1", "")
		eventually(t, "the pod is taken in", func() bool { return n.state("web") == event.Enrolled && z.has("u1", s.ns) && s.rules(t) != "" })
		n.manifest("web", "u1", "none")
		eventually(t, "the pod is let go", func() bool { return n.state("web") == event.Outside && z.count() == 0 && s.rules(t) == "" })
	}
	n.manifest("web", "u1", "")
	eventually(t, "in again", func() bool { return n.state("web") == event.Enrolled })
	n.namespace("shop", "")
	eventually(t, "the namespace's label counts too", func() bool { return n.state("web") == event.Outside && s.rules(t) == "" })
}

func TestAnnotationChangesTheRules(t *testing.T) {
	n := newNode(t, Config{})
	n.newZtunnel()
	s := newSandbox(t, "10.74.0.2/24")
	n.manifest("web", "u1", "")
	n.mustAsk(event.PathAdd, s.request("web", "c1"))
	n.write("pod-web", "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop, uid: u1, annotations: {ambient.istio.io/bypass-inbound-capture: \"true\"}}\nspec: {serviceAccountName: front, containers: [{name: a, image: a}]}\n")
	want := redirect.Text(redirect.Config{IPv6: true, RefuseClosed: true, BypassInbound: true})
	eventually(t, "inbound is left alone", func() bool { return s.rules(t) == want })
}

// What runs on in the sandbox of a pod that is no more is fenced: without its
// rules it would be reached past every policy.
func TestDeletedAndEndedPodsAreFenced(t *testing.T) {
	n := newNode(t, Config{})
	z := n.newZtunnel()
	s := newSandbox(t, "10.74.0.2/24")
	n.manifest("web", "u1", "")
	n.mustAsk(event.PathAdd, s.request("web", "c1"))
	rules := s.rules(t)
	out := func() bool { return z.count() == 0 && n.state("web") == event.Outside }
	fenced := func(why string) {
		t.Helper()
		eventually(t, why+" has left ztunnel", out)
		n.compareAll(t.Context()) // a second look must not think better of it
		if got := s.rules(t); got != rules {
			t.Errorf("%s is open; its rules are\n%s", why, got)
		}
	}
	n.write("pod-web", "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop, uid: u1}\nspec: {containers: [{name: a, image: a}]}\nstatus: {phase: Succeeded}\n")
	fenced("a pod that has ended")
	n.manifest("web", "u1", "")
	eventually(t, "a running one is served", func() bool { return z.count() == 1 })
	n.manifest("web", "u2", "")
	fenced("a pod whose name another has taken")
	n.manifest("web", "u1", "")
	eventually(t, "back", func() bool { return z.count() == 1 })
	if err := os.Remove(filepath.Join(n.dir, "pod-web.yaml")); err != nil {
		t.Fatal(err)
	}
	fenced("a pod that is deleted")
	n.mustAsk(event.PathDel, s.del("web", "c1"))
	if got := s.rules(t); got != "" {
		t.Errorf("DEL leaves rules behind:\n%s", got)
	}
}

// A state file that somebody has written to must not have the node itself
// captured, and an error that says nothing about a pod must not forget it.
func TestRestartRefusesWhatItCannotTrust(t *testing.T) {
	host, err := netns.Current()
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	plain := filepath.Join(t.TempDir(), "loop")
	if err := os.Symlink(plain, plain); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ path, why string }{
		"the namespace of the node":            {"/proc/thread-self/ns/net", "own network namespace"},
		"a place that cannot be looked at now": {plain, "too many levels"},
	} {
		t.Run(name, func(t *testing.T) {
			a := &Agent{log: zap.NewNop(), host: []netns.ID{host.ID()}, attachments: map[event.Attachment]*attachment{}}
			a.cfg.StateFile = filepath.Join(t.TempDir(), "state.json")
			rec := record{UID: "u1", Namespace: "shop", Name: "web", Netns: tt.path, NetnsID: host.ID(), Captured: true}
			if err := writeState(a.cfg.StateFile, []record{rec}); err != nil {
				t.Fatal(err)
			}
			if err := a.restore(); err == nil || !strings.Contains(err.Error(), tt.why) || len(a.attachments) != 0 {
				t.Errorf("restore = %v with %d pods, want an error that says %q", err, len(a.attachments), tt.why)
			}
		})
	}
}

func TestBadManifestChangesNothing(t *testing.T) {
	n := newNode(t, Config{})
	z := n.newZtunnel()
	s := newSandbox(t, "10.74.0.2/24")
	n.manifest("web", "u1", "")
	n.mustAsk(event.PathAdd, s.request("web", "c1"))
	n.write("pod-web", "apiVersion: v1\nkind: Pod\nmetadata: {name: [web\n")
	n.manifest("db", "u2", "")
	s2 := newSandbox(t, "10.74.0.3/24")
	n.mustAsk(event.PathAdd, s2.request("db", "c2"))
	if n.state("web") != event.Enrolled || z.count() != 2 {
		t.Errorf("web is %q, ztunnel has %v", n.state("web"), z.pods)
	}
}

func TestRestartKeepsPodsAndForgetsTheDead(t *testing.T) {
	n := newNode(t, Config{})
	z := n.newZtunnel()
	s, dead, replaced := newSandbox(t, "10.74.0.2/24"), newSandbox(t, "10.74.0.3/24"), newSandbox(t, "10.74.0.4/24")
	for i, sb := range []sandbox{s, dead, replaced} {
		name := []string{"web", "db", "job"}[i]
		n.manifest(name, "u"+name, "")
		n.mustAsk(event.PathAdd, sb.request(name, "c"+name))
	}
	rules := s.rules(t)
	n.stop()
	if got := s.rules(t); got != rules || got == "" {
		t.Errorf("the end of the agent changed the rules of a pod:\n%s", got)
	}
	netnstest.Unmount(t, dead.path)
	netnstest.Unmount(t, replaced.path)
	if err := os.Remove(replaced.path); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(netnstest.Mount(t, netnstest.New(t)), replaced.path); err != nil {
		t.Fatal(err)
	}
	s.flush(t, "nat-output") // and somebody meddles while nobody looks

	n.start()
	eventually(t, "ztunnel has the living pod alone", func() bool { return z.count() == 1 && z.has("uweb", s.ns) })
	eventually(t, "its rules are mended", func() bool { return s.rules(t) == rules })
	eventually(t, "it is known as before", func() bool { return n.state("web") == event.Enrolled })
	n.mustAsk(event.PathCheck, s.request("web", "cweb"))
	n.mustAsk(event.PathDel, s.del("web", "cweb"))
	if s.rules(t) != "" || z.count() != 0 {
		t.Errorf("after DEL: rules %q, ztunnel has %v", s.rules(t), z.pods)
	}
}

func TestRestartOverABadManifestReleasesNobody(t *testing.T) {
	for _, file := range []string{"pod-web", "ns-shop"} {
		t.Run(file, func(t *testing.T) {
			n := newNode(t, Config{RepairEvery: 50 * time.Millisecond})
			z := n.newZtunnel()
			s := newSandbox(t, "10.74.0.2/24")
			n.manifest("web", "u1", "")
			n.mustAsk(event.PathAdd, s.request("web", "c1"))
			rules := s.rules(t)
			n.stop()
			n.write(file, "kind: [\n")
			n.start()
			eventually(t, "the pod is known as before", func() bool { return n.state("web") == event.Enrolled })
			s.flush(t, "nat-output")
			eventually(t, "its rules are mended all the same", func() bool { return s.rules(t) == rules })
			eventually(t, "it is served as before", func() bool { return n.state("web") == event.Enrolled && z.has("u1", s.ns) })
			n.wantRefused(event.PathAdd, newSandbox(t, "10.74.0.7/24").request("stranger", "c7"), file+".yaml")
		})
	}
}

func TestReconnectGetsAFullSnapshot(t *testing.T) {
	n := newNode(t, Config{})
	z := n.newZtunnel()
	s := newSandbox(t, "10.74.0.2/24")
	n.manifest("web", "u1", "")
	n.mustAsk(event.PathAdd, s.request("web", "c1"))
	z.stop()
	again := n.connect()
	eventually(t, "the new ztunnel has the pod", func() bool { return again.has("u1", s.ns) })
}

func TestRefusedSnapshotPodIsPendingAndOfferedAgain(t *testing.T) {
	n := newNode(t, Config{RepairEvery: 100 * time.Millisecond})
	z := n.newZtunnel()
	s := newSandbox(t, "10.74.0.2/24")
	n.manifest("web", "u1", "")
	n.mustAsk(event.PathAdd, s.request("web", "c1"))
	z.stop()
	bad := n.connect()
	bad.setRefuse(errors.New("not yet"))
	eventually(t, "the pod is pending because ztunnel has refused it", func() bool { // and not only because none was connected
		status, text := n.ask(http.MethodPost, event.PathCheck, s.request("web", "c1"))
		return n.state("web") == event.Pending && status != http.StatusOK && strings.Contains(text, "not yet")
	})
	bad.setRefuse(nil)
	eventually(t, "the pod is enrolled", func() bool { return n.state("web") == event.Enrolled && bad.has("u1", s.ns) })
}

func TestDriftIsRepairedAndCounted(t *testing.T) {
	n := newNode(t, Config{RepairEvery: 50 * time.Millisecond})
	n.newZtunnel()
	s := newSandbox(t, "10.74.0.2/24")
	n.manifest("web", "u1", "")
	n.mustAsk(event.PathAdd, s.request("web", "c1"))
	rules := s.rules(t)
	s.flush(t, "nat-prerouting")
	eventually(t, "the rules are back", func() bool { return s.rules(t) == rules })
	eventually(t, "and counted", func() bool { return testutil.ToFloat64(n.metrics.repaired) == 1 })
}

func TestCheckFindsSabotage(t *testing.T) {
	n := newNode(t, Config{RepairEvery: time.Hour})
	n.newZtunnel()
	s := newSandbox(t, "10.74.0.2/24")
	n.manifest("web", "u1", "")
	n.mustAsk(event.PathAdd, s.request("web", "c1"))
	eventually(t, "CHECK finds it, unless a comparison was quicker", func() bool {
		s.flush(t, "nat-output")
		status, text := n.ask(http.MethodPost, event.PathCheck, s.request("web", "c1"))
		return status != http.StatusOK && strings.Contains(text, "missing")
	})
	other := newSandbox(t, "10.74.0.9/24")
	r := s.request("web", "c1")
	r.Netns = other.path
	n.wantRefused(event.PathCheck, r, "taken its place")
	n.wantRefused(event.PathCheck, s.request("web", "c-unknown"), "no record")
}

func TestNamespaceThatIsGoneIsForgotten(t *testing.T) {
	n := newNode(t, Config{RepairEvery: 50 * time.Millisecond})
	z := n.newZtunnel()
	s := newSandbox(t, "10.74.0.2/24")
	n.manifest("web", "u1", "")
	n.mustAsk(event.PathAdd, s.request("web", "c1"))
	netnstest.Unmount(t, s.path)
	eventually(t, "the pod is forgotten", func() bool { return n.state("web") == "" && z.count() == 0 })
}

func TestNewSandboxOfAPodReplacesTheOld(t *testing.T) {
	n := newNode(t, Config{})
	z := n.newZtunnel()
	old, young := newSandbox(t, "10.74.0.2/24"), newSandbox(t, "10.74.0.3/24")
	n.manifest("web", "u1", "")
	n.mustAsk(event.PathAdd, old.request("web", "c1"))
	n.mustAsk(event.PathAdd, young.request("web", "c2"))
	n.mustAsk(event.PathDel, old.del("web", "c1")) // late, as runtimes do
	if !z.has("u1", young.ns) || n.state("web") != event.Enrolled || young.rules(t) == "" || old.rules(t) != "" {
		t.Errorf("ztunnel has %v, state %q; rules old %q, young %q", z.pods, n.state("web"), old.rules(t), young.rules(t))
	}
}

func TestGCForgetsWhatIsNotListed(t *testing.T) {
	n := newNode(t, Config{})
	z := n.newZtunnel()
	keep, stale, other := newSandbox(t, "10.74.0.2/24"), newSandbox(t, "10.74.0.3/24"), newSandbox(t, "10.74.0.4/24")
	for name, s := range map[string]sandbox{"keep": keep, "stale": stale, "other": other} {
		n.manifest(name, "u"+name, "")
		r := s.request(name, "c"+name)
		if name == "other" {
			r.Network = "another"
		}
		n.mustAsk(event.PathAdd, r)
	}
	n.mustAsk(event.PathGC, event.GC{Network: "pods", Valid: []event.Attachment{{ContainerID: "ckeep", IfName: "eth0"}}})
	if n.state("keep") != event.Enrolled || n.state("other") != event.Enrolled || n.state("stale") != "" || stale.rules(t) != "" || z.count() != 2 {
		t.Errorf("keep %q, other %q, stale %q, ztunnel has %v", n.state("keep"), n.state("other"), n.state("stale"), z.pods)
	}
}

func TestDelOfAForgottenPodCleansItsNamespace(t *testing.T) {
	n := newNode(t, Config{})
	s := newSandbox(t, "10.74.0.2/24")
	if err := redirect.Apply(s.ns, redirect.Config{}); err != nil {
		t.Fatal(err)
	}
	n.mustAsk(event.PathDel, s.del("web", "c1"))
	if got := s.rules(t); got != "" {
		t.Errorf("left behind:\n%s", got)
	}
}
