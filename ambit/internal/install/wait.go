package install

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/ambit-mesh/ambit/ambit/internal/kube"
)

const (
	// lookEvery is how often what is waited for is looked at.
	lookEvery = time.Second

	// patience is how long nothing may change before it is said what is in the
	// way: as long as a node needs to load an image of ours.
	patience = 10 * time.Second
)

// Part is a workload that an installation waits for.
type Part struct{ Kind, Name string }

// Parts are all of them, in the order in which they depend on each other.
func Parts() []Part {
	return []Part{{"Deployment", "istiod-lite"}, {"DaemonSet", "ambit-cni"}, {"DaemonSet", "ztunnel"}}
}

// Rollout is how far a workload is.
type Rollout struct {
	Part
	Wanted, Current, Ready int  // pods: that should be, of this version, that are ready
	Observed               bool // its controller has seen the last change
	selector               labels.Selector
}

// Done tells whether all pods are of this version and ready.
func (r Rollout) Done() bool {
	return r.Observed && r.Current == r.Wanted && r.Ready == r.Wanted
}

// String is the rollout as people read it.
func (r Rollout) String() string {
	text := fmt.Sprintf("%s %d/%d ready", r.Name, r.Ready, r.Wanted)
	if r.Current < r.Wanted {
		text += fmt.Sprintf(", %d of this version", r.Current)
	}
	return text
}

// Wait waits until parts run. It says what it waits for whenever that changes,
// and what is in the way when it does not for a while; when ctx ends, the error
// says it too.
func (i *Installer) Wait(ctx context.Context, parts []Part) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var said, reasons string
	changed := time.Now()
	for {
		open, err := i.open(ctx, parts)
		if err == nil && len(open) == 0 {
			return nil
		}
		if err != nil && ctx.Err() == nil {
			open = nil // the API server may be away for a moment
		}
		if text := describe(open, err); text != said {
			i.Say("waiting: %s", text)
			said, reasons, changed = text, "", time.Now()
		} else if time.Since(changed) >= patience {
			if why := strings.Join(i.why(ctx, open), "\n"); why != reasons && why != "" {
				i.Say("%s", why)
				reasons = why
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			looking, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
			defer cancel()
			return fmt.Errorf("gave up waiting: %s\n%s", said, strings.Join(i.why(looking, open), "\n"))
		}
	}
}

// Why says in words what is in the way of parts that do not run; empty when nothing
// is, or it cannot be found out.
func (i *Installer) Why(ctx context.Context, parts []Part) string {
	open, err := i.open(ctx, parts)
	if err != nil {
		return ""
	}
	return strings.Join(i.why(ctx, open), "\n")
}

// describe says what is waited for.
func describe(open []Rollout, err error) string {
	if err != nil {
		return err.Error()
	}
	var texts []string
	for _, r := range open {
		texts = append(texts, r.String())
	}
	return strings.Join(texts, "; ")
}

// open returns the parts that do not run yet.
func (i *Installer) open(ctx context.Context, parts []Part) ([]Rollout, error) {
	all, err := i.Rollouts(ctx, parts)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, Rollout.Done), nil
}

// Rollouts returns how far parts are. One that is not there wants one pod and
// has none.
func (i *Installer) Rollouts(ctx context.Context, parts []Part) (out []Rollout, err error) {
	apps := i.Client.Kube.AppsV1()
	for _, p := range parts {
		r := Rollout{Part: p, Wanted: 1}
		switch p.Kind {
		case "Deployment":
			var d *appsv1.Deployment
			if d, err = apps.Deployments(i.Namespace).Get(ctx, p.Name, metav1.GetOptions{}); err == nil {
				r = rolloutOfDeployment(p, d)
			}
		case "DaemonSet":
			var d *appsv1.DaemonSet
			if d, err = apps.DaemonSets(i.Namespace).Get(ctx, p.Name, metav1.GetOptions{}); err == nil {
				r = rolloutOfDaemonSet(p, d)
			}
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// rolloutOfDeployment reads the state of d.
func rolloutOfDeployment(p Part, d *appsv1.Deployment) Rollout {
	wanted := 1
	if d.Spec.Replicas != nil {
		wanted = int(*d.Spec.Replicas)
	}
	s := d.Status
	return Rollout{
		Part: p, Wanted: wanted, Current: int(s.UpdatedReplicas), Ready: int(s.AvailableReplicas - max(0, s.Replicas-s.UpdatedReplicas)),
		Observed: s.ObservedGeneration >= d.Generation, selector: selectorOf(d.Spec.Selector),
	}
}

// rolloutOfDaemonSet reads the state of d.
func rolloutOfDaemonSet(p Part, d *appsv1.DaemonSet) Rollout {
	s := d.Status
	return Rollout{
		Part: p, Wanted: int(s.DesiredNumberScheduled), Current: int(s.UpdatedNumberScheduled), Ready: int(s.NumberAvailable),
		Observed: s.ObservedGeneration >= d.Generation && s.ObservedGeneration > 0, selector: selectorOf(d.Spec.Selector),
	}
}

// selectorOf turns s into the kind that matches; nothing when it is bad.
func selectorOf(s *metav1.LabelSelector) labels.Selector {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return selector
}

// why says what is in the way of parts that do not run: of each pod that is not
// ready, and of parts that have no pods.
func (i *Installer) why(ctx context.Context, open []Rollout) (lines []string) {
	events, err := i.Client.Kube.CoreV1().Events(i.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return []string{fmt.Sprintf("why cannot be said: %v", err)}
	}
	for _, r := range open {
		if r.selector == nil {
			lines = append(lines, fmt.Sprintf("  %s %s is not there", r.Kind, r.Name))
			continue
		}
		pods, err := i.Client.Kube.CoreV1().Pods(i.Namespace).List(ctx, metav1.ListOptions{LabelSelector: r.selector.String()})
		if err != nil {
			return append(lines, fmt.Sprintf("  %s: %v", r.Name, err))
		}
		if len(pods.Items) < r.Wanted {
			if text := lastWarning(events.Items, r.Name); text != "" {
				lines = append(lines, fmt.Sprintf("  %s %s: %s", r.Kind, r.Name, text))
			}
		}
		for _, pod := range pods.Items {
			if text := ExplainPod(&pod, lastWarning(events.Items, pod.Name)); text != "" {
				lines = append(lines, fmt.Sprintf("  pod %s on %s: %s%s%s", pod.Name, nodeOf(&pod), text, i.ownWord(ctx, &pod), i.lastWords(ctx, &pod)))
			}
		}
	}
	return lines
}

// nodeOf names the node of a pod.
func nodeOf(pod *corev1.Pod) string {
	if pod.Spec.NodeName == "" {
		return "no node"
	}
	return pod.Spec.NodeName
}

// lastWarning is the newest warning about the object called name, or about one
// that it made (a ReplicaSet's name begins with its Deployment's).
func lastWarning(events []corev1.Event, name string) string {
	var text string
	var at time.Time
	for _, e := range events {
		about := e.InvolvedObject
		ours := about.Name == name || about.Kind == "ReplicaSet" && strings.HasPrefix(about.Name, name+"-")
		when := e.LastTimestamp.Time
		if when.IsZero() {
			when = e.EventTime.Time
		}
		if e.Type == corev1.EventTypeWarning && ours && !when.Before(at) {
			text, at = e.Message, when
		}
	}
	return strings.TrimSpace(text)
}

// readiness is where a part says what it still waits for. Source: manifests/ambit.
func readiness(pod *corev1.Pod) (port int, path string) {
	switch {
	case pod.Labels["app"] == "istiod-lite":
		return 15014, "/readyz"
	case pod.Labels["app"] == "ztunnel":
		return 15021, "/healthz/ready"
	case pod.Labels["k8s-app"] == "ambit-cni-node":
		return 15019, "/readyz"
	}
	return 0, ""
}

// ownWord is what a pod that runs says it waits for, if it says it.
func (i *Installer) ownWord(ctx context.Context, pod *corev1.Pod) string {
	port, path := readiness(pod)
	if port == 0 || pod.Status.Phase != corev1.PodRunning || pod.DeletionTimestamp != nil {
		return ""
	}
	_, err := i.Client.Get(ctx, pod.Namespace, pod.Name, port, path)
	if status, ok := errors.AsType[*kube.StatusError](err); ok {
		return "; it says: " + strings.ReplaceAll(status.Text, "\n", "; ")
	}
	return ""
}

// lastWords are the last line that a crashed container wrote, if there is one.
func (i *Installer) lastWords(ctx context.Context, pod *corev1.Pod) string {
	if !slices.ContainsFunc(pod.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return s.RestartCount > 0 && !s.Ready }) {
		return ""
	}
	lines := int64(1)
	text, err := i.Client.Kube.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{Previous: true, TailLines: &lines}).DoRaw(ctx)
	if err != nil || len(text) == 0 {
		return ""
	}
	return "; its last words: " + strings.TrimSpace(string(text[:min(len(text), 500)]))
}

// WaitFor waits until the part that object is runs.
func (i *Installer) WaitFor(ctx context.Context, object *unstructured.Unstructured) error {
	return i.Wait(ctx, []Part{{object.GetKind(), object.GetName()}})
}

// Has tells whether a pod with these labels is one of r's.
func (r Rollout) Has(of map[string]string) bool {
	return r.selector != nil && r.selector.Matches(labels.Set(of))
}
