package install

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/ambit/internal/kube"
	"github.com/ambit-mesh/ambit/ambit/internal/waypoints"
)

// Labels and annotations by which pods are in the mesh. Source: the ambient
// ecosystem.
const (
	ModeLabel             = "istio.io/dataplane-mode"
	ModeAmbient           = "ambient"
	RedirectionAnnotation = "ambient.istio.io/redirection"
)

// agentName is the DaemonSet of the agents.
const agentName = "ambit-cni"

// Removal says how an installation is taken away.
type Removal struct {
	ReleasePods bool // although namespaces want to be in the mesh, or waypoints stand
	Force       bool // although an agent did not release its pods
	KeepCA      bool // leave the key of the root, so that a new installation has the same
	Definitions bool // the definitions too, when nothing uses them
}

// InMeshError means that namespaces or pods still want to be in the mesh, or that
// waypoints stand.
type InMeshError struct{ Namespaces, Pods, Waypoints []string }

func (e *InMeshError) Error() string {
	var lines []string
	for _, ns := range e.Namespaces {
		lines = append(lines, fmt.Sprintf("  namespace %s: kubectl label namespace %s %s-", ns, ns, ModeLabel))
	}
	for _, pod := range e.Pods {
		lines = append(lines, "  pod "+pod+": its own label "+ModeLabel)
	}
	for _, waypoint := range e.Waypoints {
		namespace, name, _ := strings.Cut(waypoint, "/")
		lines = append(lines, fmt.Sprintf("  waypoint %s: ambit waypoint delete --namespace %s %s (it says what is bound to it)", waypoint, namespace, name))
	}
	return "still in the mesh:\n" + strings.Join(lines, "\n") +
		"\ntake them out, or say --release-pods: their pods keep running, and what they send is not encrypted any more"
}

// Remove takes the installation away.
func (i *Installer) Remove(ctx context.Context, r Removal) error {
	inv, err := ReadInventory(ctx, i.Client.Kube, i.Namespace)
	if err != nil {
		return err
	}
	if inv == nil {
		return i.explainAbsent(ctx)
	}
	if !r.ReleasePods {
		if err := i.checkOptedIn(ctx); err != nil {
			return err
		}
	}
	if err := i.removeAgents(ctx); err != nil && !r.Force {
		return err
	} else if err != nil {
		i.Say("going on although: %v", err)
	}
	for _, ref := range slices.Backward(inv.Objects) {
		if err := i.delete(ctx, ref); err != nil {
			return err
		}
	}
	i.Say("%d objects removed", len(inv.Objects))
	if err := i.removeMade(ctx, r.KeepCA); err != nil {
		return err
	}
	// After the control plane and its rights: it would make them again.
	if err := waypoints.DeleteClasses(ctx, i.Client, i.Say); err != nil {
		return err
	}
	if r.Definitions {
		if err := i.removeDefinitions(ctx); err != nil {
			return err
		}
	}
	cms := i.Client.Kube.CoreV1().ConfigMaps(i.Namespace)
	if err := cms.Delete(ctx, inventoryName, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	return i.removeNamespace(ctx)
}

// explainAbsent says why there is nothing to remove.
func (i *Installer) explainAbsent(ctx context.Context) error {
	releases, err := i.Client.Kube.CoreV1().Secrets(i.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "owner=helm,name=" + releaseName})
	if err == nil && len(releases.Items) > 0 {
		return ErrOfHelm
	}
	return fmt.Errorf("nothing of ambit is installed in namespace %s", i.Namespace)
}

// checkOptedIn returns an *InMeshError when something wants to be in the mesh.
func (i *Installer) checkOptedIn(ctx context.Context) error {
	wanted := metav1.ListOptions{LabelSelector: ModeLabel + "=" + ModeAmbient}
	namespaces, err := i.Client.Kube.CoreV1().Namespaces().List(ctx, wanted)
	if err != nil {
		return err
	}
	pods, err := i.Client.Kube.CoreV1().Pods("").List(ctx, wanted)
	if err != nil {
		return err
	}
	e := &InMeshError{}
	for _, ns := range namespaces.Items {
		if ns.DeletionTimestamp != nil {
			continue // what is in it ends anyway
		}
		e.Namespaces = append(e.Namespaces, ns.Name)
	}
	for _, pod := range pods.Items {
		if pod.DeletionTimestamp != nil {
			continue
		}
		e.Pods = append(e.Pods, pod.Namespace+"/"+pod.Name)
	}
	standing, err := waypoints.Names(ctx, i.Client, "")
	if err != nil {
		return err
	}
	for _, w := range standing {
		e.Waypoints = append(e.Waypoints, w.String())
	}
	if len(e.Namespaces)+len(e.Pods)+len(e.Waypoints) == 0 {
		return nil
	}
	return e
}

// removeAgents takes the agents away and waits until they have released their
// pods: while ztunnel and the control plane still stand, so that no connection
// falls into a gap.
func (i *Installer) removeAgents(ctx context.Context) error {
	agents := i.Client.Kube.AppsV1().DaemonSets(i.Namespace)
	set, err := agents.Get(ctx, agentName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return i.checkReleased(ctx)
	}
	if err != nil {
		return err
	}
	if err := i.delete(ctx, Ref{"apps/v1", "DaemonSet", i.Namespace, agentName}); err != nil {
		return err
	}
	selector := metav1.ListOptions{LabelSelector: selectorOf(set.Spec.Selector).String()}
	var said string
	err = poll(ctx, func() (bool, error) {
		pods, err := i.Client.Kube.CoreV1().Pods(i.Namespace).List(ctx, selector)
		if err != nil {
			return false, err
		}
		if text := fmt.Sprintf("waiting: %d agents release the pods of their nodes", len(pods.Items)); text != said && len(pods.Items) > 0 {
			i.Say("%s", text)
			said = text
		}
		return len(pods.Items) == 0, nil
	})
	if err != nil {
		return fmt.Errorf("the agents do not end: %w", err)
	}
	return i.checkReleased(ctx)
}

// checkReleased checks that no pod is marked as captured any more.
func (i *Installer) checkReleased(ctx context.Context) error {
	left := map[string][]string{}
	pods := i.Client.Kube.CoreV1().Pods("")
	items := func(l *corev1.PodList) ([]corev1.Pod, string) { return l.Items, l.Continue }
	err := kube.All(ctx, pods.List, items, metav1.ListOptions{}, func(p *corev1.Pod) {
		running := p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed
		if p.Annotations[RedirectionAnnotation] != "" && running {
			left[p.Spec.NodeName] = append(left[p.Spec.NodeName], p.Namespace+"/"+p.Name)
		}
	})
	if err != nil {
		return err
	}
	var problems []error
	for node, names := range left {
		slices.Sort(names)
		problems = append(problems, fmt.Errorf("node %s: its agent has not released %s: is the node up? Restart these pods afterwards, or --force", node, strings.Join(names, ", ")))
	}
	return errors.Join(problems...)
}

// removeMade removes what the running parts made: the root in every namespace,
// the lease, and the key of the root.
func (i *Installer) removeMade(ctx context.Context, keepCA bool) error {
	core := i.Client.Kube.CoreV1()
	roots, err := core.ConfigMaps("").List(ctx, metav1.ListOptions{LabelSelector: PartOfLabel + "=" + PartOf})
	if err != nil {
		return err
	}
	var refs []Ref
	for _, cm := range roots.Items {
		if cm.Name == "istio-ca-root-cert" {
			refs = append(refs, Ref{"v1", "ConfigMap", cm.Namespace, cm.Name})
		}
	}
	// The lease is made by client-go's election, which sets no labels.
	err = i.Client.Kube.CoordinationV1().Leases(i.Namespace).Delete(ctx, "istiod-lite", metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	if keepCA {
		i.Say("kept Secret %s/istio-ca-secret", i.Namespace)
	} else {
		refs = append(refs, Ref{"v1", "Secret", i.Namespace, "istio-ca-secret"})
	}
	for _, ref := range refs {
		if err := i.delete(ctx, ref); err != nil {
			return err
		}
	}
	return nil
}

// poll calls done until it is, or ctx ends.
func poll(ctx context.Context, done func() (bool, error)) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		ok, err := done()
		if ok {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		}
	}
}
