package cases

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/ambit-mesh/ambit/e2e/cluster"
	"github.com/ambit-mesh/ambit/internal/lab/labapp"
)

// App is a deployment of labapp, with a service of its name on port 80 (HTTP) and on
// the numbers of labapp's other ports, and a service account of its name.
type App struct {
	Name      string
	Version   string // of several deployments of one name; part of the deployment's name and a label
	Replicas  int    // zero means 1
	Node      string // empty means anywhere
	Namespace string // empty means the case's own
	Linger    string // how long it goes on after SIGTERM
	Host      bool   // in the network of its node
	Probes    string // more fields of the container
	Labels    map[string]string
	Env       map[string]string
}

// manifest writes the app's objects.
func (a App) manifest() string {
	labels, deployment := "app: "+a.Name, a.Name
	if a.Version != "" {
		labels, deployment = labels+", version: "+a.Version, a.Name+"-"+a.Version
	}
	selector := labels
	for k, v := range a.Labels {
		labels += fmt.Sprintf(", %q: %q", k, v)
	}
	env := fmt.Sprintf("[{name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}, {name: LINGER, value: %q}", cmp.Or(a.Linger, "300ms"))
	for k, v := range a.Env {
		env += fmt.Sprintf(", {name: %s, value: %q}", k, v)
	}
	env += "]"
	node := ""
	if a.Node != "" {
		node = "\n      nodeSelector: {kubernetes.io/hostname: " + a.Node + "}"
	}
	if a.Host {
		node += "\n      hostNetwork: true\n      dnsPolicy: ClusterFirstWithHostNet"
	}
	probes := cmp.Or(a.Probes, "readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1}")
	return fmt.Sprintf(`apiVersion: v1
kind: ServiceAccount
metadata: {name: %[1]s}
---
apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec:
  selector: {app: %[1]s}
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: tcp-echo, port: 7000}
  - {name: tcp-banner, port: 7001}
  - {name: tcp-sum, port: 7002}
  - {name: tcp-source, port: 7003}
  - {name: tcp-ticker, port: 7004}
  - {name: grpc, port: 7005}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[8]s}
spec:
  replicas: %[2]d
  selector: {matchLabels: {%[9]s}}
  template:
    metadata: {labels: {%[3]s}}
    spec:
      serviceAccountName: %[1]s
      terminationGracePeriodSeconds: 20%[4]s
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: ScheduleAnyway
        labelSelector: {matchLabels: {app: %[1]s}}
      containers:
      - name: app
        image: %[5]s
        imagePullPolicy: IfNotPresent
        resources: {requests: {cpu: 25m}} # without any a busy node gives it no turn for seconds
        env: %[6]s
        ports: [{name: http, containerPort: 8080}, {name: echo, containerPort: 7000}]
        %[7]s
`, a.Name, max(a.Replicas, 1), labels, node, cluster.AppImage, env, probes, deployment, selector)
}

// barePod is a pod of an app that no controller has made and no scheduler places.
func barePod(name, app, node string) *corev1.Pod {
	grace := int64(5)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": app}},
		Spec: corev1.PodSpec{
			NodeName: node, TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{
				Name: "app", Image: cluster.AppImage, ImagePullPolicy: corev1.PullIfNotPresent,
				Env: []corev1.EnvVar{{Name: "POD_NAME", Value: name}},
				ReadinessProbe: &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
					HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(labapp.HTTPPort)},
				}},
			}},
		},
	}
}

// Deploy makes apps and waits until all their pods are ready.
func (e *Env) Deploy(ctx context.Context, apps ...App) error {
	for _, a := range apps {
		if _, err := e.Kubectl(ctx, a.manifest(), "apply", "--namespace", cmp.Or(a.Namespace, e.Namespace), "-f", "-"); err != nil {
			return err
		}
	}
	type name struct{ namespace, app string }
	want := map[name]int{} // pods of all versions
	for _, a := range apps {
		want[name{cmp.Or(a.Namespace, e.Namespace), a.Name}] += max(a.Replicas, 1)
	}
	for of, n := range want {
		if err := e.WaitReady(ctx, of.namespace, of.app, n); err != nil {
			return err
		}
	}
	return nil
}

// WaitReady waits until an app has exactly so many pods, all ready.
func (e *Env) WaitReady(ctx context.Context, namespace, app string, want int) error {
	return e.Until(ctx, readyWithin, fmt.Sprintf("%d ready pods of %s/%s", want, namespace, app), func(ctx context.Context) (bool, error) {
		pods, err := e.Kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + app})
		if err != nil {
			return false, err
		}
		ready := 0
		for _, p := range pods.Items {
			if isReady(p) {
				ready++
			}
		}
		if ready != want || len(pods.Items) != want {
			return false, fmt.Errorf("%d pods, %d ready: %s", len(pods.Items), ready, whyNot(pods.Items))
		}
		return true, nil
	})
}

func isReady(p corev1.Pod) bool {
	return p.DeletionTimestamp == nil && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// whyNot says of the first pod that is not ready what it waits for.
func whyNot(pods []corev1.Pod) string {
	for _, p := range pods {
		if isReady(p) {
			continue
		}
		for _, s := range p.Status.ContainerStatuses {
			if s.State.Waiting != nil {
				return fmt.Sprintf("%s: %s %s", p.Name, s.State.Waiting.Reason, s.State.Waiting.Message)
			}
		}
		return fmt.Sprintf("%s: %s", p.Name, p.Status.Phase)
	}
	return ""
}

// Pod is a pod that runs labapp.
type Pod struct {
	Namespace, Name, UID, Node string
	IP                         netip.Addr
}

// String is the pod's namespace and name.
func (p Pod) String() string { return p.Namespace + "/" + p.Name }

// At is a port of the pod.
func (p Pod) At(port uint16) string { return netip.AddrPortFrom(p.IP, port).String() }

// Pods lists the running pods of an app of the case's namespace.
func (e *Env) Pods(ctx context.Context, app string) ([]Pod, error) {
	return e.PodsIn(ctx, e.Namespace, app)
}

// PodsIn lists the running pods of an app of any namespace.
func (e *Env) PodsIn(ctx context.Context, namespace, app string) ([]Pod, error) {
	return e.selected(ctx, namespace, "app="+app)
}

// selected lists the running pods that a selector selects.
func (e *Env) selected(ctx context.Context, namespace, selector string) ([]Pod, error) {
	list, err := e.Kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, err
	}
	var pods []Pod
	for _, p := range list.Items {
		if p.DeletionTimestamp != nil || p.Status.PodIP == "" {
			continue
		}
		ip, err := netip.ParseAddr(p.Status.PodIP)
		if err != nil {
			return nil, fmt.Errorf("pod %s: %w", p.Name, err)
		}
		pods = append(pods, Pod{Namespace: namespace, Name: p.Name, UID: string(p.UID), Node: p.Spec.NodeName, IP: ip})
	}
	if len(pods) == 0 {
		return nil, fmt.Errorf("no running pod of %s with %s", namespace, selector)
	}
	return pods, nil
}

// Pod is the first running pod of an app.
func (e *Env) Pod(ctx context.Context, app string) (Pod, error) {
	pods, err := e.Pods(ctx, app)
	if err != nil {
		return Pod{}, err
	}
	return pods[0], nil
}

// PID is the number, on the host, of the pod's program.
func (p Pod) PID() (int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		group, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "cgroup"))
		if err != nil || !strings.Contains(string(group), "pod"+p.UID) {
			continue
		}
		name, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "comm"))
		if err == nil && strings.TrimSpace(string(name)) != "labpause" {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("no process of pod %v: has it ended?", p)
}

// socket is the path by which the pod's program takes requests.
func (p Pod) socket() (string, error) {
	pid, err := p.PID()
	return fmt.Sprintf("/proc/%d/root/labapp.sock", pid), err
}

// Do runs a client in the pod to its end. That it could not do its work is an error too.
func (p Pod) Do(ctx context.Context, req labapp.Request) (labapp.Reply, error) {
	socket, err := p.socket()
	if err != nil {
		return labapp.Reply{}, err
	}
	r, err := labapp.Do(ctx, socket, req)
	if err == nil && r.Error != "" {
		err = errors.New(r.Error)
	}
	if err != nil {
		err = fmt.Errorf("%s from %v to %s: %w", req.Do, p, req.Address, err)
	}
	return r, err
}

// Begin starts a client in the pod and returns while it works. Whoever calls it closes
// the session.
func (p Pod) Begin(ctx context.Context, req labapp.Request) (*labapp.Session, error) {
	socket, err := p.socket()
	if err != nil {
		return nil, err
	}
	session, err := labapp.Begin(ctx, socket, req)
	if err != nil {
		return nil, fmt.Errorf("%s from %v to %s: %w", req.Do, p, req.Address, err)
	}
	return session, nil
}

// Hello asks an HTTP server once and says who answered.
func (p Pod) Hello(ctx context.Context, address string) (labapp.Hello, error) {
	r, err := p.Do(ctx, labapp.Request{Do: labapp.DoHTTP, Address: address})
	if err != nil {
		return labapp.Hello{}, err
	}
	return r.Hellos[0], nil
}

// Refused makes sure that an HTTP server does not answer.
func (p Pod) Refused(ctx context.Context, address string) error {
	return p.RefusedAll(ctx, address, 1)
}

// RefusedAll makes sure that an HTTP server answers none of n requests that are sent at
// once.
func (p Pod) RefusedAll(ctx context.Context, address string, n int) error {
	r, err := p.Do(ctx, labapp.Request{Do: labapp.DoHTTP, Address: address, Count: n, AtOnce: n})
	if err == nil || len(r.Hellos) > 0 {
		return fmt.Errorf("%v reached %s (%d of %d requests, %s), and must not", p, address, len(r.Hellos), n, r.Hellos[0].Pod)
	}
	if _, perr := p.PID(); perr != nil {
		return perr // it could not even try
	}
	return nil
}
