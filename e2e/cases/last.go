package cases

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/e2e/cluster"
)

// lastCases end the installation; what they leave is made anew by the next run.
func lastCases() []Case {
	return []Case{
		{Name: "uninstall", About: "ambit uninstall leaves the cluster as it was before, and pods keep running and talking", Run: uninstall, Breaks: true},
		{Name: "helm", About: "Helm installs the chart and removes it again: its Job has the agents release their pods first, which keep running and talking", Run: withHelm, Breaks: true},
	}
}

func uninstall(ctx context.Context, e *Env) (string, error) {
	evidence, err := e.removed(ctx, func(ctx context.Context) error {
		out, err := e.Run(ctx, "uninstall", "--release-pods")
		if err != nil {
			err = fmt.Errorf("%w:\n%s", err, out)
		}
		return err
	})
	if err != nil {
		return "", err
	}
	return evidence, e.nothingLeft(ctx, everything)
}

// withHelm works on a cluster without ambit, and takes one off that is there.
func withHelm(ctx context.Context, e *Env) (string, error) {
	helm, err := cluster.BuildHelm(ctx, cluster.Config{})
	if err != nil {
		return "", err
	}
	if _, err := e.Kubectl(ctx, "", "--namespace", System, "get", "daemonset", "ztunnel"); err == nil {
		if out, err := e.Run(ctx, "uninstall", "--release-pods"); err != nil {
			return "", fmt.Errorf("%w:\n%s", err, out)
		}
	}
	chart := filepath.Join(os.TempDir(), e.Namespace+".tgz")
	defer os.Remove(chart)
	packed, err := e.Run(ctx, "install", "-o", "chart")
	if err == nil {
		err = os.WriteFile(chart, []byte(packed), 0o600)
	}
	if err != nil {
		return "", err
	}
	do := func(ctx context.Context, args ...string) error {
		cmd := exec.CommandContext(ctx, helm, append(args, "--namespace", System, "--kubeconfig", e.Cluster.Kubeconfig(), "--wait", "--timeout", "3m")...)
		out, err := cmd.CombinedOutput()
		e.Note("helm %s:\n%s", strings.Join(args, " "), out)
		if err != nil {
			return fmt.Errorf("helm %s: %w:\n%s", strings.Join(args, " "), err, out)
		}
		return nil
	}
	if err := do(ctx, "install", "ambit", chart, "--create-namespace"); err != nil {
		return "", err
	}
	// Whatever comes of it, the next case finds none of Helm's.
	e.Undo(func(ctx context.Context) error { return do(ctx, "uninstall", "ambit", "--ignore-not-found") })
	evidence, err := e.removed(ctx, func(ctx context.Context) error { return do(ctx, "uninstall", "ambit") })
	if err != nil {
		return "", err
	}
	return evidence, e.nothingLeft(ctx, ofTheChart)
}

// removed has an installation removed under the load of pods that are in the mesh. They
// must be the same ones after, and no request on a new connection may fail. Of those that
// stand, which the proxies carry, the agents wait for the end only for a while.
func (e *Env) removed(ctx context.Context, remove func(context.Context) error) (string, error) {
	client, err := e.pair(ctx, 2, "")
	if err != nil {
		return "", err
	}
	// By the cluster's own name servers, which are asked again when the mesh is gone; each
	// may be slow to hear of a new service when the API server was away, so that one knows
	// it and the other does not.
	if err := e.reachable(ctx, client, "server:80", 10*settled); err != nil {
		return "", err
	}
	if err := e.Enrol(ctx); err != nil {
		return "", err
	}
	before, err := e.Pods(ctx, "server")
	if err != nil {
		return "", err
	}
	load, err := e.Load(ctx, client, "server:80")
	if err != nil {
		return "", err
	}
	if err := load.Flowing(ctx, rate); err != nil {
		return "", err
	}
	if err := remove(ctx); err != nil {
		return "", err
	}
	if err := load.Flowing(ctx, rate); err != nil {
		return "", err
	}
	now, err := load.Stop()
	if err == nil {
		err = newOnesFine(now)
	}
	if err != nil {
		return "", err
	}
	after, err := e.Pods(ctx, "server")
	if err != nil {
		return "", err
	}
	if fmt.Sprint(before) != fmt.Sprint(after) {
		return "", fmt.Errorf("pods before %v, after %v", before, after)
	}
	return fmt.Sprintf("pods are the same ones, meanwhile %s; nothing of it is on the nodes or in the cluster", summary(now)), nil
}

// look names the files where an installation puts its own, and shows the network
// configuration. Directories that a mount has made are empty and stay.
const look = `for d in /opt/cni/bin /etc/cni/net.d /var/run/ztunnel /var/run/ambit-cni; do
  [ ! -d $d ] || find $d ! -type d
done; cat /etc/cni/net.d/*`

// rootMap is the ConfigMap by which the root is known in every namespace.
const rootMap = "istio-ca-root-cert"

// What may not be left of an installation.
type remains bool

const (
	everything remains = true  // also what its running parts have made
	ofTheChart remains = false // Helm knows of nothing else
)

// nothingLeft looks for what an installation has brought.
func (e *Env) nothingLeft(ctx context.Context, what remains) error {
	for _, n := range e.Cluster.Nodes() {
		out, err := n.Command(ctx, "sh", "-c", look).CombinedOutput()
		if err != nil {
			return fmt.Errorf("look for what is left on %s: %w: %s", n.Name, err, out)
		}
		if strings.Contains(string(out), "ambit") || strings.Contains(string(out), "ztunnel") {
			return fmt.Errorf("left on %s:\n%s", n.Name, out)
		}
	}
	selector := metav1.ListOptions{LabelSelector: "app.kubernetes.io/part-of=ambit"}
	return e.Until(ctx, 30*time.Second, "nothing in the cluster is labelled as ambit's", func(ctx context.Context) (bool, error) {
		var left []string
		pods, err := e.Kube.CoreV1().Pods("").List(ctx, selector)
		if err != nil {
			return false, err
		}
		for _, p := range pods.Items {
			left = append(left, "pod "+p.Name)
		}
		maps, err := e.Kube.CoreV1().ConfigMaps("").List(ctx, selector)
		if err != nil {
			return false, err
		}
		for _, m := range maps.Items {
			if what == ofTheChart && m.Name == rootMap {
				continue // istiod-lite has put it into every namespace
			}
			left = append(left, "configmap "+m.Namespace+"/"+m.Name)
		}
		roles, err := e.Kube.RbacV1().ClusterRoles().List(ctx, selector)
		if err != nil {
			return false, err
		}
		for _, r := range roles.Items {
			left = append(left, "clusterrole "+r.Name)
		}
		if len(left) > 0 {
			return false, fmt.Errorf("still there: %s", strings.Join(left, ", "))
		}
		return true, nil
	})
}
