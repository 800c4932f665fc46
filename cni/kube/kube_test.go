package kube_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/cni/agent"
	"github.com/ambit-mesh/ambit/cni/kube"
	"github.com/ambit-mesh/ambit/e2e/kubetest"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

// start runs fn until the test ends, or stop is called.
func start(t *testing.T, fn func(context.Context)) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var g lifecycle.Group
	g.Go(ctx, t.Name(), fn)
	stop = func() { cancel(); g.Wait() }
	t.Cleanup(stop)
	return stop
}

// pod is one of node-1 in namespace ns.
func pod(ns, name, node string, ips ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: ns}, Spec: corev1.PodSpec{NodeName: node}}
	for _, ip := range ips {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: ip})
		p.Status.PodIP = ips[0]
	}
	return p
}

// mustPatch changes an object's labels.
func mustPatch(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestSource(t *testing.T) {
	c := kubetest.Get(t).Client(t)
	const ns, node = "source", "source-node"
	kubetest.Namespace(t, c, ns, map[string]string{"istio.io/dataplane-mode": "ambient"})
	made := kubetest.Pod(t, c, pod(ns, "web", node, "10.1.0.5", "fd00::5"))
	kubetest.Pod(t, c, pod(ns, "elsewhere", "other-node", "10.1.0.6"))
	s := kube.NewSource(c, node)
	if _, _, err := s.Lookup(t.Context(), ns, "web"); err == nil {
		t.Error("a source that has read nothing knows who is not there")
	}
	if p, found, err := s.Fetch(t.Context(), ns, "web"); err != nil || !found || p.UID != string(made.UID) || p.NamespaceLabels["istio.io/dataplane-mode"] != "ambient" {
		t.Errorf("asked anew before anything was read: %+v, %v, %v", p, found, err)
	}
	if _, found, err := s.Fetch(t.Context(), ns, "nobody"); err != nil || found {
		t.Errorf("asked anew for who is not there: %v, %v", found, err)
	}
	var changes atomic.Int64
	start(t, func(ctx context.Context) {
		if err := s.Watch(ctx, func() { changes.Add(1) }); err != nil {
			t.Error(err)
		}
	})
	kubetest.Eventually(t, "the cluster is read", func() error {
		if changes.Load() == 0 {
			return errors.New("no call")
		}
		return nil
	})
	want := agent.Pod{
		UID: string(made.UID), Namespace: ns, Name: "web", ServiceAccount: "default", Node: node,
		IPs:             []netip.Addr{netip.MustParseAddr("10.1.0.5"), netip.MustParseAddr("fd00::5")},
		NamespaceLabels: map[string]string{"istio.io/dataplane-mode": "ambient", "kubernetes.io/metadata.name": ns},
	}
	all, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	same := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	if diff := cmp.Diff([]agent.Pod{want}, all, same); diff != "" {
		t.Errorf("pods of the node (- want, + got):\n%s", diff)
	}

	// seen changes something and waits for the call and for what is then said.
	seen := func(what string, change func() error, check func(agent.Pod, bool) bool) {
		t.Helper()
		before := changes.Load()
		mustPatch(t, change())
		kubetest.Eventually(t, what, func() error {
			p, found, err := s.Lookup(t.Context(), ns, "web")
			if err != nil || changes.Load() == before || !check(p, found) {
				return fmt.Errorf("%d calls, %+v, %v, %v", changes.Load()-before, p, found, err)
			}
			return nil
		})
	}
	patch := func(body string) func() error {
		return func() error {
			_, err := c.CoreV1().Pods(ns).Patch(t.Context(), "web", types.MergePatchType, []byte(body), metav1.PatchOptions{})
			return err
		}
	}
	seen("a label", patch(`{"metadata":{"labels":{"istio.io/dataplane-mode":"none"}}}`), func(p agent.Pod, _ bool) bool { return p.Labels["istio.io/dataplane-mode"] == "none" })
	seen("a label of the namespace", func() error {
		_, err := c.CoreV1().Namespaces().Patch(t.Context(), ns, types.MergePatchType, []byte(`{"metadata":{"labels":{"istio.io/dataplane-mode":null}}}`), metav1.PatchOptions{})
		return err
	}, func(p agent.Pod, _ bool) bool { return p.NamespaceLabels["istio.io/dataplane-mode"] == "" })
	before := changes.Load()
	mustPatch(t, patch(`{"metadata":{"annotations":{"ambient.istio.io/redirection":"enabled"}}}`)())
	kubetest.Eventually(t, "our own mark", func() error {
		if p, _, err := s.Lookup(t.Context(), ns, "web"); p.Annotations[agent.MarkAnnotation] != "enabled" {
			return fmt.Errorf("%+v, %v", p, err)
		}
		return nil
	})
	if got := changes.Load(); got != before {
		t.Errorf("our own mark makes %d calls", got-before)
	}
	seen("its end", func() error {
		made, err := c.CoreV1().Pods(ns).Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil {
			return err
		}
		made.Status.Phase = corev1.PodSucceeded
		_, err = c.CoreV1().Pods(ns).UpdateStatus(t.Context(), made, metav1.UpdateOptions{})
		return err
	}, func(p agent.Pod, _ bool) bool { return p.Terminal })
	seen("its deletion", func() error {
		now := int64(0)
		return c.CoreV1().Pods(ns).Delete(t.Context(), "web", metav1.DeleteOptions{GracePeriodSeconds: &now})
	}, func(_ agent.Pod, found bool) bool { return !found })
}

// cutNamespaces is a way to the API server on which, once it is cut, no watch tells of
// namespaces any more.
type cutNamespaces struct {
	http.RoundTripper
	cut atomic.Bool
}

func (c *cutNamespaces) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := c.RoundTripper.RoundTrip(r)
	if err != nil || r.URL.Path != "/api/v1/namespaces" {
		return resp, err
	}
	if c.cut.Load() {
		resp.Body.Close()
		return nil, errors.New("cut by the test")
	}
	resp.Body = &cutBody{resp.Body, c}
	return resp, nil
}

// cutBody is an answer that ends when the way is cut.
type cutBody struct {
	io.ReadCloser
	way *cutNamespaces
}

func (b *cutBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.way.cut.Load() {
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

// Watches begin anew one by one after an API server was away: a pod whose namespace was
// labelled meanwhile is told of first, is taken in by what is read anew, and must not
// be let go by what the other watch has told before.
func TestSourceKeepsWhatItHasReadOfANamespace(t *testing.T) {
	server := kubetest.Get(t)
	c := server.Client(t)
	const ns, node = "late", "late-node"
	kubetest.Namespace(t, c, ns, nil)
	way := &cutNamespaces{}
	config := server.Config("")
	config.Wrap(func(rt http.RoundTripper) http.RoundTripper { way.RoundTripper = rt; return way })
	cut, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	s := kube.NewSource(cut, node)
	var read atomic.Bool
	start(t, func(ctx context.Context) {
		if err := s.Watch(ctx, func() { read.Store(true) }); err != nil {
			t.Error(err)
		}
	})
	kubetest.Eventually(t, "the cluster is read", func() error {
		if !read.Load() {
			return errors.New("no call")
		}
		return nil
	})
	way.cut.Store(true)
	label := func(mode string) {
		_, err := c.CoreV1().Namespaces().Patch(t.Context(), ns, types.MergePatchType, []byte(`{"metadata":{"labels":{"istio.io/dataplane-mode":`+mode+`}}}`), metav1.PatchOptions{})
		mustPatch(t, err)
	}
	label(`"ambient"`)
	kubetest.Pod(t, c, pod(ns, "web", node, "10.1.0.5"))
	const key = "istio.io/dataplane-mode"
	kubetest.Eventually(t, "the pod is known", func() error {
		p, found, err := s.Lookup(t.Context(), ns, "web")
		if err == nil && (!found || p.NamespaceLabels[key] != "") {
			err = fmt.Errorf("%+v, %v; want it without the label, which nobody tells of", p, found)
		}
		return err
	})
	if p, found, err := s.Fetch(t.Context(), ns, "web"); err != nil || !found || p.NamespaceLabels[key] != "ambient" {
		t.Errorf("asked anew: %+v, %v, %v", p, found, err)
	}
	if p, found, err := s.Lookup(t.Context(), ns, "web"); err != nil || !found || p.NamespaceLabels[key] != "ambient" {
		t.Errorf("asked for what is known: %+v, %v, %v; want what was read", p, found, err)
	}
	if all, err := s.List(t.Context()); err != nil || len(all) != 1 || all[0].NamespaceLabels[key] != "ambient" {
		t.Errorf("all pods: %+v, %v; want what was read", all, err)
	}
	label("null")
	way.cut.Store(false)
	kubetest.Eventually(t, "the watch tells again, and counts", func() error {
		p, found, err := s.Lookup(t.Context(), ns, "web")
		if err == nil && (!found || p.NamespaceLabels[key] != "") {
			err = fmt.Errorf("%+v, %v; want it without the label", p, found)
		}
		return err
	})
}

// annotation waits until a pod's mark is want.
func annotation(t *testing.T, c kubernetes.Interface, ns, name, want string) {
	t.Helper()
	kubetest.Eventually(t, "the mark "+want, func() error {
		p, err := c.CoreV1().Pods(ns).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		got, has := p.Annotations[agent.MarkAnnotation]
		if got != want || has != (want != "") {
			return fmt.Errorf("annotations %v", p.Annotations)
		}
		return nil
	})
}

func TestReporter(t *testing.T) {
	server := kubetest.Get(t)
	c := server.Client(t)
	const ns = "report"
	kubetest.Namespace(t, c, ns, nil)
	web := kubetest.Pod(t, c, pod(ns, "web", "report-node"))
	r := kube.NewReporter(c, "report-node", zaptest.NewLogger(t))
	stop := start(t, r.Run)
	r.Mark(string(web.UID), ns, "web", agent.Marked)
	annotation(t, c, ns, "web", "enabled")
	r.Mark("another-uid", ns, "web", agent.Waiting) // of a pod whose name web has taken
	r.Mark("gone", ns, "gone", agent.Waiting)
	r.Event(string(web.UID), ns, "web", "Fenced", "because of a test")
	kubetest.Eventually(t, "the event", func() error {
		all, err := c.CoreV1().Events(ns).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=web"})
		if err != nil {
			return err
		}
		if len(all.Items) != 1 || all.Items[0].Reason != "Fenced" || all.Items[0].Message != "because of a test" {
			return fmt.Errorf("events %+v", all.Items)
		}
		return nil
	})
	annotation(t, c, ns, "web", "enabled")

	resume := server.Pause(t)
	r.Mark(string(web.UID), ns, "web", agent.Waiting)
	r.Mark(string(web.UID), ns, "web", agent.Unmarked) // the last one counts
	resume()
	annotation(t, c, ns, "web", "")

	stop()
	r.Mark(string(web.UID), ns, "web", agent.Marked)
	if err := r.Flush(t.Context()); err != nil {
		t.Error(err)
	}
	annotation(t, c, ns, "web", "enabled")
}

func TestLeavingIsKnownByTheDaemonSet(t *testing.T) {
	server := kubetest.Get(t)
	c := server.Client(t)
	const ns = "leaving"
	kubetest.Namespace(t, c, ns, nil)
	agentSet(t, c, ns)
	stranger, err := kubernetes.NewForConfig(server.Config(kubetest.Token(t, c, ns, "stranger", "", nil)))
	if err != nil {
		t.Fatal(err)
	}
	unknown := kube.NewOwn(stranger, ns, "agent") // may not ask
	own := kube.NewOwn(c, ns, "agent")
	start(t, func(ctx context.Context) {
		if err := own.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	if own.Leaving(t.Context()) || unknown.Leaving(t.Context()) {
		t.Error("leaving though the DaemonSet is there")
	}
	if err := c.AppsV1().DaemonSets(ns).Delete(t.Context(), "agent", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if !kube.NewOwn(c, ns, "agent").Leaving(t.Context()) {
		t.Error("not leaving though the DaemonSet is being deleted")
	}
	if unknown.Leaving(t.Context()) {
		t.Error("leaving though nobody could say so")
	}
	if _, err := c.AppsV1().DaemonSets(ns).Patch(t.Context(), "agent", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	// Known before it is asked: the right to ask may go with the DaemonSet.
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	kubetest.Eventually(t, "the watch has seen it", func() error {
		if !own.Leaving(ended) {
			return errors.New("not leaving")
		}
		return nil
	})
}

func TestAgentsAreEnded(t *testing.T) {
	c := kubetest.Get(t).Client(t)
	const ns = "ended"
	kubetest.Namespace(t, c, ns, nil)
	if err := kube.EndAgents(t.Context(), c, ns, "agent"); err != nil {
		t.Errorf("one that is not there: %v", err)
	}
	agentSet(t, c, ns)
	short, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := kube.EndAgents(short, c, ns, "agent"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while agents still run: %v, want %v", err, context.DeadlineExceeded)
	}
	d, err := c.AppsV1().DaemonSets(ns).Get(t.Context(), "agent", metav1.GetOptions{})
	if err != nil || !slices.Contains(d.Finalizers, metav1.FinalizerDeleteDependents) {
		t.Fatalf("finalizers %v, %v: want it to stay until its pods are gone", d.Finalizers, err)
	}
	ended := make(chan error, 1)
	start(t, func(ctx context.Context) { ended <- kube.EndAgents(ctx, c, ns, "agent") })
	// As the garbage collector does, which does not run here.
	if _, err := c.AppsV1().DaemonSets(ns).Patch(t.Context(), "agent", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// agentSet makes the DaemonSet "agent", which stays until its finalizers are taken
// away.
func agentSet(t *testing.T, c kubernetes.Interface, ns string) {
	t.Helper()
	labels := map[string]string{"a": "b"}
	set := &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "agent", Namespace: ns, Finalizers: []string{"test.ambit.dev/keep"}},
		Spec: appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "none"}}},
		}},
	}
	if _, err := c.AppsV1().DaemonSets(ns).Create(t.Context(), set, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// criServer is a container runtime that knows some sandboxes.
type criServer struct {
	cri.UnimplementedRuntimeServiceServer
	boxes map[string]string // uid to details, as containerd gives them
}

func (s *criServer) ListPodSandbox(_ context.Context, r *cri.ListPodSandboxRequest) (*cri.ListPodSandboxResponse, error) {
	answer := &cri.ListPodSandboxResponse{}
	uid := r.GetFilter().GetLabelSelector()["io.kubernetes.pod.uid"]
	if _, ok := s.boxes[uid]; ok && r.GetFilter().GetState().GetState() == cri.PodSandboxState_SANDBOX_READY {
		answer.Items = append(answer.Items, &cri.PodSandbox{Id: "box-" + uid})
	}
	return answer, nil
}

func (s *criServer) PodSandboxStatus(_ context.Context, r *cri.PodSandboxStatusRequest) (*cri.PodSandboxStatusResponse, error) {
	return &cri.PodSandboxStatusResponse{
		Status: &cri.PodSandboxStatus{Network: &cri.PodSandboxNetworkStatus{Ip: "10.1.0.7", AdditionalIps: []*cri.PodIP{{Ip: "fd00::7"}}}},
		Info:   map[string]string{"info": s.boxes[strings.TrimPrefix(r.PodSandboxId, "box-")]},
	}, nil
}

func TestRuntime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cri.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	cri.RegisterRuntimeServiceServer(server, &criServer{boxes: map[string]string{
		"web":  `{"pid": 7, "runtimeSpec": {"linux": {"namespaces": [{"type": "pid"}, {"type": "network", "path": "/var/run/netns/cni-1"}]}}}`,
		"host": `{"runtimeSpec": {"linux": {"namespaces": [{"type": "pid"}]}}}`,
		"mute": ``,
	}})
	start(t, func(context.Context) {
		if err := server.Serve(l); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(server.Stop)
	r := kube.NewRuntime([]string{filepath.Join(t.TempDir(), "missing"), path}, "")
	defer r.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	got, err := r.Sandbox(ctx, "web")
	if err != nil {
		t.Fatal(err)
	}
	if want := []netip.Addr{netip.MustParseAddr("10.1.0.7"), netip.MustParseAddr("fd00::7")}; got.ID != "box-web" || got.Netns != "/var/run/netns/cni-1" || !slices.Equal(got.IPs, want) {
		t.Errorf("Sandbox = %+v", got)
	}
	for uid, why := range map[string]string{"gone": "0 ready sandboxes", "host": "does not say which network namespace", "mute": "details"} {
		if got, err := r.Sandbox(ctx, uid); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("Sandbox(%s) = %+v, %v; want an error that says %q", uid, got, err, why)
		}
	}
	nowhere := kube.NewRuntime([]string{filepath.Join(t.TempDir(), "missing")}, "")
	if _, err := nowhere.Sandbox(ctx, "web"); err == nil || !strings.Contains(err.Error(), "--cri-socket") {
		t.Errorf("without a runtime: %v, want what to try", err)
	}
}
