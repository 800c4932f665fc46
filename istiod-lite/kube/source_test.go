package kube_test

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"
	security "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/ambit-mesh/ambit/e2e/kubetest"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/istiod-lite/kube"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// told is what a source has told of.
type told struct {
	source *kube.Source

	mu      sync.Mutex
	objects map[model.Key]model.Object
	batches int
	of      map[model.Key]int // events
}

// read runs a source until the test ends.
func read(t *testing.T, s *kubetest.Server) *told {
	t.Helper()
	client, err := kube.Connect(kube.Config{Kubeconfig: s.Kubeconfig(t, "")})
	if err != nil {
		t.Fatal(err)
	}
	x := &told{source: kube.NewSource(client, "istio-system", zaptest.NewLogger(t)), objects: map[model.Key]model.Object{}, of: map[model.Key]int{}}
	ctx, cancel := context.WithCancel(t.Context())
	var running lifecycle.Group
	running.Go(ctx, "source", func(ctx context.Context) {
		if err := x.source.Run(ctx, x.take); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	return x
}

// take takes events in.
func (x *told) take(events []model.Event) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.batches++
	for _, e := range events {
		x.of[e.Key]++
		if e.Object == nil {
			delete(x.objects, e.Key)
		} else {
			x.objects[e.Key] = e.Object
		}
	}
}

// look is an object as it was told last, and how many events there were.
func (x *told) look(key model.Key) (model.Object, int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.objects[key], x.of[key]
}

// want waits until an object is as check says; nil wants it gone.
func (x *told) want(t *testing.T, key model.Key, check func(model.Object) bool) {
	t.Helper()
	kubetest.Eventually(t, key.String(), func() error {
		o, _ := x.look(key)
		switch {
		case check == nil && o != nil:
			return fmt.Errorf("it is there: %v", o)
		case check != nil && o == nil:
			return fmt.Errorf("nobody told of it; told were %v", x.keys())
		case check != nil && !check(o):
			return fmt.Errorf("it is %v", o)
		}
		return nil
	})
}

// keys are all objects.
func (x *told) keys() []model.Key {
	x.mu.Lock()
	defer x.mu.Unlock()
	var all []model.Key
	for key := range maps.Keys(x.objects) {
		all = append(all, key)
	}
	return all
}

func any(model.Object) bool { return true }

const policyManifest = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-web, namespace: %s}
spec:
  selector: {matchLabels: {app: api}}
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]}]
`

func namespace(t *testing.T, c kubernetes.Interface, prefix string) string {
	t.Helper()
	name := prefix + "-" + strings.ToLower(fmt.Sprintf("%x", time.Now().UnixNano()))
	kubetest.Namespace(t, c, name, map[string]string{"istio.io/dataplane-mode": "ambient"})
	return name
}

func TestObjectsBecomeEvents(t *testing.T) {
	s := kubetest.Get(t)
	c := s.Client(t)
	ns := namespace(t, c, "objects")
	pod := kubetest.Pod(t, c, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web", Labels: map[string]string{"app": "web"}, Annotations: map[string]string{
			"ambient.istio.io/redirection": "enabled", "large": strings.Repeat("x", 1000),
		}},
		Spec: corev1.PodSpec{
			ServiceAccountName: "web", NodeName: "node-1",
			Containers: []corev1.Container{{Name: "c", Image: "i", Env: []corev1.EnvVar{{Name: "A", Value: "B"}}, Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}}},
		},
		Status: corev1.PodStatus{PodIP: "10.0.0.1", PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}}, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
	})
	kubetest.Pod(t, c, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "ended"}, Status: corev1.PodStatus{Phase: corev1.PodSucceeded}})
	x := read(t, s)

	key := model.Key{Kind: model.KindPod, Namespace: ns, Name: "web"}
	x.want(t, key, any)
	x.mu.Lock()
	if x.batches != 1 {
		t.Errorf("the first picture came in %d parts, want one", x.batches)
	}
	x.mu.Unlock()
	if err := x.source.Check(); err != nil {
		t.Errorf("after the first picture: %v", err)
	}
	o, _ := x.look(key)
	got := o.(*corev1.Pod)
	if got.Spec.ServiceAccountName != "web" || got.Status.PodIP != "10.0.0.1" || got.Spec.Containers[0].Ports[0].ContainerPort != 8080 || string(got.UID) != string(pod.UID) {
		t.Errorf("the pod lost what the model reads: %+v", got)
	}
	if len(got.Annotations) != 1 || got.ManagedFields != nil || got.Spec.Containers[0].Env != nil {
		t.Errorf("the pod carries what nobody reads: %+v", got)
	}
	x.want(t, model.Key{Kind: model.KindPod, Namespace: ns, Name: "ended"}, nil)
	x.want(t, model.Key{Kind: model.KindNamespace, Name: ns}, func(o model.Object) bool { return o.GetLabels()["istio.io/dataplane-mode"] == "ambient" })

	// What changes nothing that is read is not told.
	_, before := x.look(key)
	pod.Annotations["other"] = "1"
	pod, err := c.CoreV1().Pods(ns).Update(t.Context(), pod, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pod.Status.Conditions[0].Status = corev1.ConditionFalse
	if pod, err = c.CoreV1().Pods(ns).UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	x.want(t, key, func(o model.Object) bool { return o.(*corev1.Pod).Status.Conditions[0].Status == corev1.ConditionFalse })
	if _, after := x.look(key); after != before+1 {
		t.Errorf("%d events for two changes of which one is read, want 1", after-before)
	}

	// A pod that ends is gone, like one that is deleted.
	pod.Status.Phase = corev1.PodFailed
	if _, err := c.CoreV1().Pods(ns).UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	x.want(t, key, nil)
}

func TestDefinitionsComeAndGo(t *testing.T) {
	s := kubetest.Get(t)
	c := s.Client(t)
	ns := namespace(t, c, "definitions")
	x := read(t, s)
	x.want(t, model.Key{Kind: model.KindNamespace, Name: ns}, any) // ready without definitions

	definition := kubetest.Definition(t, "authorizationpolicies.security.istio.io")
	key := model.Key{Kind: model.KindAuthorizationPolicy, Namespace: ns, Name: "only-web"}
	for range 2 { // also after it was gone for a while
		s.Apply(t, definition)
		s.Kubectl(t, "", "wait", "--for=condition=Established", "crd/authorizationpolicies.security.istio.io")
		s.Apply(t, fmt.Sprintf(policyManifest, ns))
		x.want(t, key, func(o model.Object) bool {
			p := o.(*security.AuthorizationPolicy)
			return p.Spec.Selector.MatchLabels["app"] == "api" && p.Spec.Rules[0].From[0].Source.Principals[0] == "cluster.local/ns/shop/sa/web"
		})
		if v := x.source.Version(model.KindAuthorizationPolicy); v != "v1" {
			t.Errorf("version %q is read, want v1", v)
		}
		s.Kubectl(t, "", "delete", "crd", "authorizationpolicies.security.istio.io")
		x.want(t, key, nil)
		kubetest.Eventually(t, "the kind is absent", func() error {
			for _, r := range x.source.Report() {
				if r.Kind == string(model.KindAuthorizationPolicy) && !r.Absent {
					return fmt.Errorf("%+v", r)
				}
			}
			return nil
		})
	}
}

// Only when everything was read once anything is told: here a kind cannot be read.
func TestNothingIsToldBeforeEverythingWasRead(t *testing.T) {
	s := kubetest.Get(t)
	c := s.Client(t)
	ns := namespace(t, c, "partly")
	token := kubetest.Token(t, c, ns, "reader", "", nil)
	if _, err := c.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "of-" + ns}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	role := "kubetest-" + ns
	s.Apply(t, fmt.Sprintf(`
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: %[1]s}
rules:
- {apiGroups: [""], resources: [pods, namespaces, services], verbs: [list, watch]}
- {apiGroups: [""], resources: [configmaps], resourceNames: [istio], verbs: [list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
- {apiGroups: [apiextensions.k8s.io], resources: [customresourcedefinitions], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: %[1]s}
subjects: [{kind: ServiceAccount, name: reader, namespace: %[2]s}]
`, role, ns))
	client, err := kube.Connect(kube.Config{Kubeconfig: s.Kubeconfig(t, token)})
	if err != nil {
		t.Fatal(err)
	}
	x := &told{source: kube.NewSource(client, "istio-system", zaptest.NewLogger(t)), objects: map[model.Key]model.Object{}, of: map[model.Key]int{}}
	ctx, cancel := context.WithCancel(t.Context())
	var running lifecycle.Group
	running.Go(ctx, "source", func(ctx context.Context) { x.source.Run(ctx, x.take) })
	defer func() { cancel(); running.Wait() }()

	kubetest.Eventually(t, "only nodes are missing, and why", func() error {
		if err := x.source.Check(); err == nil || strings.Contains(err.Error(), "Pod") || !strings.Contains(err.Error(), "Node (nodes is forbidden") {
			return fmt.Errorf("Check = %v", err)
		}
		return nil
	})
	if keys := x.keys(); len(keys) > 0 {
		t.Errorf("told of %v before nodes were read", keys)
	}
	if n := x.source.Unreadable(); n != 1 {
		t.Errorf("%d kinds cannot be read, want 1", n)
	}
	s.Apply(t, fmt.Sprintf(`
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: %s}
rules: [{apiGroups: [""], resources: [nodes], verbs: [list, watch]}]
`, role))
	x.want(t, model.Key{Kind: model.KindNode, Name: "of-" + ns}, any)
	if n := x.source.Unreadable(); n != 0 {
		t.Errorf("%d kinds cannot be read, want none", n)
	}
}
