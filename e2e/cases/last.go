package cases

import (
	"context"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// lastCases end the installation; what they leave is made anew by the next run.
func lastCases() []Case {
	return []Case{
		{Name: "uninstall", About: "ambit uninstall leaves the cluster as it was before, and pods keep running", Run: uninstall, Breaks: true},
	}
}

func uninstall(ctx context.Context, e *Env) (string, error) {
	client, err := e.pair(ctx, 2, "")
	if err != nil {
		return "", err
	}
	if err := e.Enrol(ctx); err != nil {
		return "", err
	}
	if err := e.Reachable(ctx, client, "server:80"); err != nil {
		return "", err
	}
	before, err := e.Pods(ctx, "server")
	if err != nil {
		return "", err
	}
	if err := e.LabelNamespace(ctx, e.Namespace, map[string]string{modeLabel: ""}); err != nil {
		return "", err
	}
	if out, err := e.Run(ctx, "uninstall"); err != nil {
		return "", fmt.Errorf("%w:\n%s", err, out)
	}
	load, err := e.Load(ctx, client, "server:80")
	if err != nil {
		return "", err
	}
	if err := load.Flowing(ctx, rate); err != nil {
		return "", err
	}
	now, err := load.Clean()
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
	if err := e.nothingLeft(ctx); err != nil {
		return "", err
	}
	return fmt.Sprintf("pods are the same ones, %s; nothing of it is on the nodes or in the cluster", summary(now)), nil
}

// look names the files where an installation puts its own, and shows the network
// configuration. Directories that a mount has made are empty and stay.
const look = `for d in /opt/cni/bin /etc/cni/net.d /var/run/ztunnel /var/run/ambit-cni; do
  [ ! -d $d ] || find $d ! -type d
done; cat /etc/cni/net.d/*`

// nothingLeft looks for what an installation has brought.
func (e *Env) nothingLeft(ctx context.Context) error {
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
