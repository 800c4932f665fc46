package report

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/ambit/internal/check"
	"github.com/ambit-mesh/ambit/ambit/internal/kube"
	"github.com/ambit-mesh/ambit/ambit/internal/members"
	"github.com/ambit-mesh/ambit/ambit/internal/proxies"
	"github.com/ambit-mesh/ambit/ambit/internal/waypoints"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

const (
	// askTimeout bounds one question, and atOnce how many are under way.
	askTimeout = 20 * time.Second
	atOnce     = 16

	// maxLog is the most of one container's log that is kept, in bytes: the last.
	maxLog = 5 << 20
)

// Collector makes reports of one installation.
type Collector struct {
	Client    *kube.Client
	Namespace string
	Version   string
	Say       func(format string, args ...any)

	// mu guards the fields below.
	mu    sync.Mutex
	files []file
}

// file is a file of the report.
type file struct {
	name string
	text []byte
}

// add keeps a file. An error is kept in place of what could not be had: that it
// could not is worth knowing.
func (c *Collector) add(name string, text []byte, err error) {
	if err != nil {
		name, text = name+".error", []byte(err.Error()+"\n")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.files = append(c.files, file{name, Redact(text)})
}

// Collect asks everybody and writes the archive to w, below a folder called
// name. It returns how many files are in it.
func (c *Collector) Collect(ctx context.Context, w io.Writer, name string) (int, error) {
	world, err := check.Gather(ctx, c.Client, c.Namespace, c.Version)
	if err != nil {
		return 0, err
	}
	c.add("check.txt", textOf(func(b *bytes.Buffer) error { return check.Run(world, time.Now()).Write(b) }), nil)
	c.Say("collecting: objects, events, logs and what each part holds")
	c.objects(ctx, world)
	c.asks(ctx, world)
	c.members(ctx, world)
	return len(c.files), c.write(w, name)
}

// textOf is what fn writes.
func textOf(fn func(*bytes.Buffer) error) []byte {
	var b bytes.Buffer
	if err := fn(&b); err != nil {
		fmt.Fprintln(&b, err)
	}
	return b.Bytes()
}

// objects collects objects that say how the mesh is set up. No Secrets.
func (c *Collector) objects(ctx context.Context, world *check.World) {
	for _, r := range []struct {
		resource  schema.GroupVersionResource
		namespace string // empty: all
	}{
		{schema.GroupVersionResource{Version: "v1", Resource: "nodes"}, ""},
		{schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}, ""},
		{schema.GroupVersionResource{Version: "v1", Resource: "events"}, ""},
		{schema.GroupVersionResource{Version: "v1", Resource: "services"}, ""},
		{schema.GroupVersionResource{Version: "v1", Resource: "pods"}, c.Namespace},
		{schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}, c.Namespace},
		{schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "daemonsets"}, c.Namespace},
		{schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}, c.Namespace},
		{schema.GroupVersionResource{Group: "coordination.k8s.io", Version: "v1", Resource: "leases"}, c.Namespace},
		{schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: "networkpolicies"}, ""},
		{schema.GroupVersionResource{Group: "security.istio.io", Version: "v1", Resource: "authorizationpolicies"}, ""},
		{schema.GroupVersionResource{Group: "security.istio.io", Version: "v1", Resource: "peerauthentications"}, ""},
		{schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1", Resource: "serviceentries"}, ""},
		{schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1", Resource: "workloadentries"}, ""},
		{schema.GroupVersionResource{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "gateways"}, ""},
		{schema.GroupVersionResource{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "gatewayclasses"}, ""},
	} {
		list, err := c.Client.Dynamic.Resource(r.resource).Namespace(r.namespace).List(ctx, metav1.ListOptions{})
		var text []byte
		if err == nil {
			for i := range list.Items {
				list.Items[i].SetManagedFields(nil)
			}
			text, err = yaml.Marshal(list.UnstructuredContent())
		}
		c.add(path.Join("objects", r.resource.Resource+".yaml"), text, err)
	}
	text, err := yaml.Marshal(map[string]any{"kubernetes": world.KubeVersion, "ambit": c.Version, "installation": world.Inventory})
	c.add("installation.yaml", text, err)
}

// asks collects logs, and what each part says of itself.
func (c *Collector) asks(ctx context.Context, world *check.World) {
	var asking lifecycle.Group
	slots := make(chan struct{}, atOnce)
	ask := func(name string, fn func(ctx context.Context) ([]byte, error)) {
		asking.Go(ctx, "ask", func(ctx context.Context) {
			slots <- struct{}{}
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(ctx, askTimeout)
			defer cancel()
			text, err := fn(ctx)
			c.add(name, text, err)
		})
	}
	for i := range world.Pods {
		pod := &world.Pods[i]
		folder := pod.Name
		switch {
		case waypoints.IsInstance(pod):
			folder = path.Join("waypoints", pod.Namespace, pod.Name)
		case pod.Namespace != c.Namespace:
			continue
		}
		for _, container := range pod.Spec.Containers {
			ask(path.Join("logs", folder, container.Name+".log"), func(ctx context.Context) ([]byte, error) { return c.log(ctx, pod, container.Name, false) })
		}
		for _, s := range pod.Status.ContainerStatuses {
			if s.RestartCount > 0 {
				ask(path.Join("logs", folder, s.Name+".previous.log"), func(ctx context.Context) ([]byte, error) { return c.log(ctx, pod, s.Name, true) })
			}
		}
		for _, page := range pagesOf(pod) {
			ask(path.Join(page.folder, pod.Spec.NodeName+"-"+pod.Name, page.file), func(ctx context.Context) ([]byte, error) {
				return c.Client.Get(ctx, pod.Namespace, pod.Name, page.port, page.path)
			})
		}
	}
	asking.Wait()
}

// page is something that a part shows.
type page struct {
	folder, file string
	port         int
	path         string
}

// pagesOf are what the part in a pod shows. Source: the parts' own help.
func pagesOf(pod *corev1.Pod) []page {
	if pod.Status.Phase != corev1.PodRunning {
		return nil
	}
	switch {
	case pod.Labels["app"] == "ztunnel":
		return []page{
			{"ztunnel", "config_dump.json", 15000, "/config_dump"},
			{"ztunnel", "connections.json", 15000, "/connections"},
			{"ztunnel", "metrics.txt", 15020, "/metrics"},
			{"ztunnel", "goroutines.txt", 15000, "/debug/pprof/goroutine?debug=1"},
		}
	case waypoints.IsInstance(pod):
		return []page{{path.Join("waypoints", pod.Namespace), "metrics.txt", 15020, "/stats/prometheus"}}
	case pod.Labels["app"] == "istiod-lite":
		return []page{
			{"istiod-lite", "status.json", 15014, "/status"},
			{"istiod-lite", "metrics.txt", 15014, "/metrics"},
		}
	case pod.Labels["k8s-app"] == "ambit-cni-node":
		return []page{
			{"agent", "readyz.txt", 15019, "/readyz"},
			{"agent", "pods.json", 15019, "/pods"},
			{"agent", "rules.txt", 15019, "/rules"},
			{"agent", "metrics.txt", 15014, "/metrics"},
		}
	}
	return nil
}

// log is the end of a container's log.
func (c *Collector) log(ctx context.Context, pod *corev1.Pod, container string, previous bool) ([]byte, error) {
	limit := int64(maxLog)
	lines := int64(20_000)
	return c.Client.Kube.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{
		Container: container, Previous: previous, LimitBytes: &limit, TailLines: &lines, Timestamps: true,
	}).DoRaw(ctx)
}

// members says who is in the mesh.
func (c *Collector) members(ctx context.Context, world *check.World) {
	all, err := proxies.Read(ctx, c.Client, c.Namespace)
	if err != nil {
		c.add("pods.json", nil, err)
		return
	}
	text, err := json.MarshalIndent(members.List(world, all), "", "  ")
	c.add("pods.json", text, err)
}

// write writes the archive.
func (c *Collector) write(w io.Writer, name string) error {
	compressed := gzip.NewWriter(w)
	archive := tar.NewWriter(compressed)
	for _, f := range c.files {
		header := &tar.Header{Name: path.Join(name, strings.TrimPrefix(path.Clean("/"+f.name), "/")), Mode: 0o644, Size: int64(len(f.text)), ModTime: time.Now(), Typeflag: tar.TypeReg}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		if _, err := archive.Write(f.text); err != nil {
			return err
		}
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return compressed.Close()
}
