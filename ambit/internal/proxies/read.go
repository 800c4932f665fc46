package proxies

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/ambit/internal/kube"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// Selector finds the pods of the proxies. Source: manifests/ambit.
const Selector = "app=ztunnel"

// adminPort is where a proxy shows what it holds.
const adminPort = 15000

// askTimeout bounds one question, and atOnce how many are under way.
const (
	askTimeout = 15 * time.Second
	atOnce     = 16
)

// Proxy is the proxy of a node.
type Proxy struct {
	Node, Pod string
	Ending    bool  // it is draining: another has taken over
	Dump      *Dump // nil when Err is set
	Err       error
}

// Read asks all proxies of the installation in namespace.
func Read(ctx context.Context, client *kube.Client, namespace string) ([]Proxy, error) {
	pods, err := client.Kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: Selector})
	if err != nil {
		return nil, fmt.Errorf("list the proxies: %w", err)
	}
	out := make([]Proxy, len(pods.Items))
	var asking lifecycle.Group
	slots := make(chan struct{}, atOnce)
	for i := range pods.Items {
		asking.Go(ctx, "ask", func(ctx context.Context) {
			slots <- struct{}{}
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(ctx, askTimeout)
			defer cancel()
			out[i] = ask(ctx, client, &pods.Items[i])
		})
	}
	asking.Wait()
	return out, nil
}

// ask asks one proxy.
func ask(ctx context.Context, client *kube.Client, pod *corev1.Pod) Proxy {
	p := Proxy{Node: pod.Spec.NodeName, Pod: pod.Name, Ending: pod.DeletionTimestamp != nil}
	if pod.Status.Phase != corev1.PodRunning {
		p.Err = fmt.Errorf("pod %s is %s", pod.Name, pod.Status.Phase)
		return p
	}
	text, err := client.Get(ctx, pod.Namespace, pod.Name, adminPort, "/config_dump")
	if err != nil {
		p.Err = err
		return p
	}
	p.Dump, p.Err = ParseDump(text)
	return p
}
