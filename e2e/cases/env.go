package cases

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/ambit-mesh/ambit/e2e/cluster"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

const (
	// System is the namespace of the installation.
	System = "istio-system"

	modeLabel  = "istio.io/dataplane-mode"
	modeMesh   = "ambient"
	redirected = "ambient.istio.io/redirection"

	// readyWithin is how long pods have to become ready, on a busy machine.
	readyWithin = 90 * time.Second
	// pollEvery is how often a condition is looked at.
	pollEvery = 100 * time.Millisecond
)

// Env is what a case works with. One goroutine uses it.
type Env struct {
	// Set by the runner, then only read.
	Cluster   *cluster.Cluster
	Kube      kubernetes.Interface
	Ambit     string // path of the command ambit
	Manifests string // directory of the manifests that are applied unchanged
	Namespace string // the case's own
	Marker    string // in each request and answer of the case's load

	leaks    []*Leak
	loads    []*Load
	undo     []func(context.Context) error
	dir      string // for what a failure leaves
	others   []string
	notes    strings.Builder
	progress io.Writer
}

// client makes a client of the cluster's API.
func client(c *cluster.Cluster) (kubernetes.Interface, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		return nil, err
	}
	cfg.QPS, cfg.Burst = 100, 200
	return kubernetes.NewForConfig(cfg)
}

// Note keeps a line for the folder of a failure.
func (e *Env) Note(format string, args ...any) {
	line := time.Now().Format("15:04:05.000 ") + fmt.Sprintf(format, args...)
	fmt.Fprintln(&e.notes, line)
	if e.progress != nil {
		fmt.Fprintln(e.progress, "      "+line)
	}
}

// Undo registers what is to be done after the case, the last first.
func (e *Env) Undo(fn func(context.Context) error) { e.undo = append(e.undo, fn) }

// Kubectl runs kubectl with some input, in the case's namespace unless args name one.
func (e *Env) Kubectl(ctx context.Context, input string, args ...string) (string, error) {
	cmd := e.Cluster.Kubectl(ctx, append([]string{"--namespace", e.Namespace}, args...)...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// Run runs the command ambit on the cluster and returns what it says.
func (e *Env) Run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, e.Ambit, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+e.Cluster.Kubeconfig())
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("ambit %s: %w", strings.Join(args, " "), err)
	}
	return string(out), err
}

// Apply makes objects, in the case's namespace unless they name one.
func (e *Env) Apply(ctx context.Context, manifests string) error {
	_, err := e.Kubectl(ctx, manifests, "apply", "-f", "-")
	return err
}

// Delete removes objects and waits for their end.
func (e *Env) Delete(ctx context.Context, manifests string) error {
	_, err := e.Kubectl(ctx, manifests, "delete", "--ignore-not-found", "-f", "-")
	return err
}

// Until waits until done says so, at most for the given time. The error names what was
// waited for, and what done said last.
func (e *Env) Until(ctx context.Context, within time.Duration, what string, done func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var last error // of a look that had its time
	for {
		ok, err := done(ctx)
		if ok && err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		if lifecycle.Sleep(ctx, pollEvery) != nil {
			if last != nil {
				return fmt.Errorf("%s: not within %v: %w", what, within, last)
			}
			return fmt.Errorf("%s: not within %v", what, within)
		}
	}
}

// Extra makes another namespace for the case and returns its name.
func (e *Env) Extra(ctx context.Context, suffix string, labels map[string]string) (string, error) {
	name := e.Namespace + "-" + suffix
	e.others = append(e.others, name)
	return name, e.makeNamespace(ctx, name, labels)
}

// makeNamespace makes a namespace; one that an earlier run has left is removed first.
func (e *Env) makeNamespace(ctx context.Context, name string, labels map[string]string) error {
	if err := e.removeNamespace(ctx, name); err != nil {
		return err
	}
	err := e.Until(ctx, readyWithin, "end of an earlier namespace "+name, func(ctx context.Context) (bool, error) {
		_, err := e.Kube.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
		return apierrors.IsNotFound(err), nil
	})
	if err != nil {
		return err
	}
	all := map[string]string{"e2e": "case"}
	for k, v := range labels {
		all[k] = v
	}
	_, err = e.Kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: all}}, metav1.CreateOptions{})
	return err
}

// removeNamespace begins to remove a namespace and waits until no pod is left in it.
func (e *Env) removeNamespace(ctx context.Context, name string) error {
	err := e.Kube.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	// The namespace's own controller would wait for the grace of each pod.
	second := int64(1)
	now := metav1.DeleteOptions{GracePeriodSeconds: &second}
	return e.Until(ctx, readyWithin, "end of the pods of "+name, func(ctx context.Context) (bool, error) {
		err := e.Kube.CoreV1().Pods(name).DeleteCollection(ctx, now, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		left, err := e.Kube.CoreV1().Pods(name).List(ctx, metav1.ListOptions{})
		return err == nil && len(left.Items) == 0, err
	})
}

// LabelNamespace sets labels of a namespace; an empty value removes one.
func (e *Env) LabelNamespace(ctx context.Context, name string, labels map[string]string) error {
	set := map[string]any{}
	for k, v := range labels {
		if set[k] = v; v == "" {
			set[k] = nil
		}
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": set}})
	if err != nil {
		return err
	}
	_, err = e.Kube.CoreV1().Namespaces().Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}

// Enrol takes the case's namespace into the mesh and waits until all its pods are in.
func (e *Env) Enrol(ctx context.Context) error {
	if err := e.LabelNamespace(ctx, e.Namespace, map[string]string{modeLabel: modeMesh}); err != nil {
		return err
	}
	return e.WaitEnrolled(ctx, true)
}

// Release takes the case's namespace out of the mesh and waits until all its pods are out.
func (e *Env) Release(ctx context.Context) error {
	if err := e.LabelNamespace(ctx, e.Namespace, map[string]string{modeLabel: ""}); err != nil {
		return err
	}
	return e.WaitEnrolled(ctx, false)
}

// WaitEnrolled waits until the annotations say that all of the case's pods are in the
// mesh, or none is.
func (e *Env) WaitEnrolled(ctx context.Context, want bool) error {
	return e.Until(ctx, 30*time.Second, fmt.Sprintf("pods of %s in the mesh: %v", e.Namespace, want), func(ctx context.Context) (bool, error) {
		pods, err := e.Kube.CoreV1().Pods(e.Namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		for _, p := range pods.Items {
			if p.DeletionTimestamp != nil || p.Spec.HostNetwork || p.Status.Phase != corev1.PodRunning {
				continue
			}
			if (p.Annotations[redirected] == "enabled") != want {
				return false, fmt.Errorf("pod %s on %s has %s=%q", p.Name, p.Spec.NodeName, redirected, p.Annotations[redirected])
			}
		}
		return true, nil
	})
}
