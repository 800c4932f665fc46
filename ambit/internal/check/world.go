package check

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/ambit-mesh/ambit/ambit/internal/install"
	"github.com/ambit-mesh/ambit/ambit/internal/kube"
	"github.com/ambit-mesh/ambit/ambit/internal/waypoints"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// World is all that the checks look at.
type World struct {
	KubeVersion  string
	Namespace    string // of the installation
	CLIVersion   string
	Inventory    *install.Inventory // nil: not installed
	Rollouts     []install.Rollout  // of the parts of an installation
	Nodes        []corev1.Node
	Namespaces   map[string]*corev1.Namespace
	Pods         []corev1.Pod
	DaemonSets   []appsv1.DaemonSet
	Deployments  []appsv1.Deployment
	NetPolicies  []networkingv1.NetworkPolicy
	MeshPolicies []unstructured.Unstructured // of the kinds whose status istiod-lite writes
	Waypoints    *waypoints.State            // nil: they could not be read
	Root         string                      // PEM of the root certificates that the mesh trusts
	Agents       []Agent                     // one per agent pod
	Istiods      []Istiod                    // one per istiod-lite pod
	Problems     []string                    // what could not be read
}

// Agent is what the agent of a node says.
type Agent struct {
	Node, Pod string
	Unready   string // why it is not ready, in its words; empty when it is
	Numbers   map[string]float64
	Err       error // it could not be asked
}

// Istiod is what a replica of the control plane says of its authority.
type Istiod struct {
	Pod string
	CA  *CA
	Err error
}

// CA is the state of the authority, as istiod-lite's /status tells it.
type CA struct {
	Secret   string    `json:"secret"`
	Issuer   string    `json:"issuer"`
	Roots    []string  `json:"roots"`
	NotAfter time.Time `json:"notAfter"`
	Error    string    `json:"error"`
}

// Ports of the parts. Source: manifests/ambit.
const (
	agentMetricsPort = 15014
	agentReadyPort   = 15019
	istiodStatusPort = 15014
)

// Labels by which pods of the parts are found. Source: manifests/ambit.
const (
	agentLabel  = "k8s-app=ambit-cni-node"
	istiodLabel = "app=istiod-lite"
)

// askTimeout bounds one question to a pod, and atOnce how many are under way.
const (
	askTimeout = 10 * time.Second
	atOnce     = 16
)

// Gather reads the cluster. What must be there for any check is an error; what is
// missing for some is in Problems.
func Gather(ctx context.Context, client *kube.Client, namespace, version string) (*World, error) {
	w := &World{Namespace: namespace, CLIVersion: version, Namespaces: map[string]*corev1.Namespace{}}
	var err error
	if w.KubeVersion, err = client.Version(); err != nil {
		return nil, err
	}
	if w.Inventory, err = install.ReadInventory(ctx, client.Kube, namespace); err != nil {
		return nil, err
	}
	if err := w.readCore(ctx, client); err != nil {
		return nil, err
	}
	w.readMeshPolicies(ctx, client)
	w.readWaypoints(ctx, client)
	if w.Inventory == nil {
		return w, nil
	}
	i := &install.Installer{Client: client, Namespace: namespace}
	if w.Rollouts, err = i.Rollouts(ctx, install.Parts()); err != nil {
		return nil, err
	}
	if cm, err := client.Kube.CoreV1().ConfigMaps(namespace).Get(ctx, "istio-ca-root-cert", metav1.GetOptions{}); err == nil {
		w.Root = cm.Data["root-cert.pem"]
	}
	w.askParts(ctx, client)
	return w, nil
}

// readCore lists what every check looks at.
func (w *World) readCore(ctx context.Context, client *kube.Client) error {
	core, apps, networking := client.Kube.CoreV1(), client.Kube.AppsV1(), client.Kube.NetworkingV1()
	all := metav1.ListOptions{}
	steps := []struct {
		what string
		read func() error
	}{
		{"nodes", func() error {
			l, err := core.Nodes().List(ctx, all)
			if err == nil {
				w.Nodes = l.Items
			}
			return err
		}},
		{"namespaces", func() error {
			l, err := core.Namespaces().List(ctx, all)
			if err == nil {
				for i := range l.Items {
					w.Namespaces[l.Items[i].Name] = &l.Items[i]
				}
			}
			return err
		}},
		{"pods", func() error {
			items := func(l *corev1.PodList) ([]corev1.Pod, string) { return l.Items, l.Continue }
			return kube.All(ctx, core.Pods("").List, items, all, func(p *corev1.Pod) { w.Pods = append(w.Pods, *p) })
		}},
		{"daemonsets", func() error {
			l, err := apps.DaemonSets("").List(ctx, all)
			if err == nil {
				w.DaemonSets = l.Items
			}
			return err
		}},
		{"deployments", func() error {
			l, err := apps.Deployments("").List(ctx, all)
			if err == nil {
				w.Deployments = l.Items
			}
			return err
		}},
		{"networkpolicies", func() error {
			l, err := networking.NetworkPolicies("").List(ctx, all)
			if err == nil {
				w.NetPolicies = l.Items
			}
			return err
		}},
	}
	for _, s := range steps {
		err := s.read()
		if apierrors.IsForbidden(err) {
			w.Problems = append(w.Problems, fmt.Sprintf("you may not list %s: what rests on them was not checked", s.what))
			continue
		}
		if err != nil {
			return fmt.Errorf("list %s: %w", s.what, err)
		}
	}
	return nil
}

// readMeshPolicies lists objects whose status says whether they hold.
func (w *World) readMeshPolicies(ctx context.Context, client *kube.Client) {
	for _, gvr := range []schema.GroupVersionResource{
		{Group: "security.istio.io", Version: "v1", Resource: "authorizationpolicies"},
		{Group: "security.istio.io", Version: "v1", Resource: "peerauthentications"},
		{Group: "security.istio.io", Version: "v1", Resource: "requestauthentications"},
		{Group: "networking.istio.io", Version: "v1", Resource: "serviceentries"},
		{Group: "networking.istio.io", Version: "v1", Resource: "virtualservices"},
		{Group: "networking.istio.io", Version: "v1", Resource: "destinationrules"},
		{Group: "linkerd.io", Version: "v1alpha2", Resource: "serviceprofiles"},
		{Group: "ambit.dev", Version: "v1alpha1", Resource: "ratelimits"},
		{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "httproutes"},
		{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "grpcroutes"},
		{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "tlsroutes"},
		{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "tcproutes"},
	} {
		list, err := client.Dynamic.Resource(gvr).List(ctx, metav1.ListOptions{})
		switch {
		case apierrors.IsNotFound(err): // the kind is not defined
		case err != nil:
			w.Problems = append(w.Problems, fmt.Sprintf("%s were not checked: %v", gvr.Resource, err))
		default:
			w.MeshPolicies = append(w.MeshPolicies, list.Items...)
		}
	}
}

// readWaypoints reads what is asked of waypoints, and what became of it.
func (w *World) readWaypoints(ctx context.Context, client *kube.Client) {
	pods := make([]*corev1.Pod, len(w.Pods))
	for i := range w.Pods {
		pods[i] = &w.Pods[i]
	}
	var err error
	if w.Waypoints, err = waypoints.ReadWith(ctx, client, slices.Collect(maps.Values(w.Namespaces)), pods); err != nil {
		w.Problems = append(w.Problems, fmt.Sprintf("waypoints were not checked: %v", err))
	}
}

// askParts asks the running parts about themselves.
func (w *World) askParts(ctx context.Context, client *kube.Client) {
	var agentPods, istiodPods []corev1.Pod
	for _, pod := range w.Pods {
		switch {
		case pod.Namespace != w.Namespace || pod.Status.Phase != corev1.PodRunning:
		case hasLabel(&pod, agentLabel):
			agentPods = append(agentPods, pod)
		case hasLabel(&pod, istiodLabel):
			istiodPods = append(istiodPods, pod)
		}
	}
	w.Agents, w.Istiods = make([]Agent, len(agentPods)), make([]Istiod, len(istiodPods))
	var asking lifecycle.Group
	slots := make(chan struct{}, atOnce)
	ask := func(fn func(ctx context.Context)) {
		asking.Go(ctx, "ask", func(ctx context.Context) {
			slots <- struct{}{}
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(ctx, askTimeout)
			defer cancel()
			fn(ctx)
		})
	}
	for i, pod := range agentPods {
		ask(func(ctx context.Context) { w.Agents[i] = askAgent(ctx, client, &pod) })
	}
	for i, pod := range istiodPods {
		ask(func(ctx context.Context) { w.Istiods[i] = AskIstiod(ctx, client, &pod) })
	}
	asking.Wait()
}

// askAgent asks an agent whether it is ready, and for its numbers.
func askAgent(ctx context.Context, client *kube.Client, pod *corev1.Pod) Agent {
	a := Agent{Node: pod.Spec.NodeName, Pod: pod.Name}
	_, err := client.Get(ctx, pod.Namespace, pod.Name, agentReadyPort, "/readyz")
	var status *kube.StatusError
	switch {
	case asStatus(err, &status):
		a.Unready = status.Text
	case err != nil:
		a.Err = err
		return a
	}
	text, err := client.Get(ctx, pod.Namespace, pod.Name, agentMetricsPort, "/metrics")
	if err != nil {
		a.Err = err
		return a
	}
	a.Numbers = gauges(string(text), "ambit_pods_")
	return a
}

// AskIstiod asks a replica of the control plane for the state of its authority.
func AskIstiod(ctx context.Context, client *kube.Client, pod *corev1.Pod) Istiod {
	out := Istiod{Pod: pod.Name}
	text, err := client.Get(ctx, pod.Namespace, pod.Name, istiodStatusPort, "/status")
	if err != nil {
		out.Err = err
		return out
	}
	var answer struct {
		CA *CA `json:"ca"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		out.Err = fmt.Errorf("status of pod %s: %w", pod.Name, err)
		return out
	}
	out.CA = answer.CA
	return out
}

// InMesh tells whether the labels of p and its namespace want it in the mesh, and
// nothing keeps it out. Source: the ambient ecosystem's default selectors.
func (w *World) InMesh(p *corev1.Pod) bool {
	return w.wants(p) && !sidecarOf(p).there
}

// wants tells whether the labels of p and its namespace want it in the mesh.
func (w *World) wants(p *corev1.Pod) bool {
	if p.Spec.HostNetwork || p.Namespace == w.Namespace || p.Namespace == "kube-system" {
		return false
	}
	switch p.Labels[install.ModeLabel] {
	case install.ModeAmbient:
		return true
	case "none":
		return false
	}
	ns := w.Namespaces[p.Namespace]
	return ns != nil && ns.Labels[install.ModeLabel] == install.ModeAmbient
}

// NewWorld is a world of one namespace and its pods: enough for [World.InMesh].
func NewWorld(installation string, ns *corev1.Namespace, pods []corev1.Pod) *World {
	return &World{Namespace: installation, Namespaces: map[string]*corev1.Namespace{ns.Name: ns}, Pods: pods}
}

// Running tells whether p is one that connections go to and come from.
func Running(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodRunning && p.DeletionTimestamp == nil
}

// hasLabel tells whether pod has a label, given as key=value.
func hasLabel(pod *corev1.Pod, label string) bool {
	key, value, _ := strings.Cut(label, "=")
	return pod.Labels[key] == value
}

// nameOf names pod as people do.
func nameOf(pod *corev1.Pod) string { return pod.Namespace + "/" + pod.Name }

// sorted returns names in order, each once.
func sorted(names []string) []string {
	slices.Sort(names)
	return slices.Compact(names)
}
