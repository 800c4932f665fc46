package cases

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/e2e/cluster"
	"github.com/ambit-mesh/ambit/internal/netns"
)

// adminPort is where a ztunnel answers questions, on the loopback of its pod.
const adminPort = 15000

// collector writes files into the folder of a failed case. What cannot be had is
// written down there too: it may be the reason of the failure.
type collector struct {
	e    *Env
	dir  string
	errs []error // of writing files
}

func (c *collector) write(name string, content []byte) {
	path := filepath.Join(c.dir, name)
	c.errs = append(c.errs, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o644))
}

// output writes what a command or a question gave.
func (c *collector) output(name string, content []byte, err error) {
	if err != nil {
		content = append(content, fmt.Sprintf("\n(%v)\n", err)...)
	}
	c.write(name, content)
}

// traffic writes the numbers of the case's loads.
func (c *collector) traffic() {
	for i, l := range c.e.loads {
		now, err := l.Now()
		raw, jerr := json.MarshalIndent(map[string]any{"what": l.What, "load": now}, "", "  ")
		c.output(fmt.Sprintf("load-%d.json", i+1), raw, errors.Join(err, jerr))
	}
}

// objects writes what the API server knows.
func (c *collector) objects(ctx context.Context) {
	for name, args := range map[string][]string{
		"pods.txt":      {"get", "pods", "--all-namespaces", "-o", "wide"},
		"pods.yaml":     {"get", "pods", "-o", "yaml"},
		"events.txt":    {"get", "events", "--all-namespaces", "--sort-by=.lastTimestamp"},
		"services.yaml": {"get", "services,endpointslices", "-o", "yaml"},
		"policies.yaml": {"get", "authorizationpolicies.security.istio.io,peerauthentications.security.istio.io,networkpolicies", "--all-namespaces", "-o", "yaml"},
		"nodes.yaml":    {"get", "nodes", "-o", "yaml"},
	} {
		out, err := c.e.Kubectl(ctx, "", append(args, "--request-timeout=10s")...)
		c.output(name, []byte(out), err)
	}
}

// logs copies the logs of the installation and of the case's pods from the nodes'
// disks: they are there also when the API server is not.
func (c *collector) logs(ctx context.Context) {
	for _, n := range append(c.e.Cluster.Nodes(), c.e.Cluster.Control()) {
		for _, pattern := range []string{"var/log/*.log", "var/log/pods/" + System + "_*/*/*.log*", "var/log/pods/" + c.e.Namespace + "*/*/*.log*"} {
			paths, err := filepath.Glob(filepath.Join(n.Dir, pattern))
			if err != nil {
				c.errs = append(c.errs, err)
			}
			for _, path := range paths {
				rel := strings.TrimPrefix(path, filepath.Join(n.Dir, "var/log")+"/")
				raw, err := tail(path, 4<<20)
				c.output(filepath.Join("logs", n.Name, strings.ReplaceAll(rel, "/", "_")), raw, err)
			}
		}
	}
}

// tail reads the end of a file.
func tail(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > most {
		if _, err := f.Seek(-most, io.SeekEnd); err != nil {
			return nil, err
		}
	}
	return io.ReadAll(f)
}

// nodes writes rules and sockets of each node and of each of the case's pods, and what
// the ztunnels know.
func (c *collector) nodes(ctx context.Context) {
	for _, n := range c.e.Cluster.Nodes() {
		for name, args := range map[string][]string{
			"rules.txt":   {"nft", "list", "ruleset"},
			"sockets.txt": {"ss", "-tanp"},
			"net.d.txt":   {"sh", "-c", "for f in /etc/cni/net.d/*; do echo \"== $f\"; cat \"$f\"; done; ls -l /opt/cni/bin"},
		} {
			out, err := n.Command(ctx, args...).CombinedOutput()
			c.output(filepath.Join("nodes", n.Name, name), out, err)
		}
	}
	namespaces := append([]string{c.e.Namespace, System}, c.e.others...)
	for _, ns := range namespaces {
		pods, err := c.e.Kube.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			c.output(filepath.Join("pods", ns+".txt"), nil, err)
			continue
		}
		for _, p := range pods.Items {
			c.pod(ctx, p)
		}
	}
}

// pod writes what is in the network namespace of a pod.
func (c *collector) pod(ctx context.Context, p corev1.Pod) {
	pod := Pod{Namespace: p.Namespace, Name: p.Name, UID: string(p.UID)}
	at := filepath.Join("pods", p.Namespace+"_"+p.Name)
	pid, err := pod.PID()
	if err != nil {
		c.output(at+".txt", nil, err)
		return
	}
	out, err := inNetworkOf(ctx, pid, "nft", "list", "ruleset")
	c.output(at+"-rules.txt", out, err)
	out, err = inNetworkOf(ctx, pid, "ss", "-tan")
	c.output(at+"-sockets.txt", out, err)
	if p.Labels["app"] == "ztunnel" {
		out, err = Fetch(ctx, pid, fmt.Sprintf("http://127.0.0.1:%d/config_dump", adminPort))
		c.output(at+"-config_dump.json", out, err)
	}
}

// inNetworkOf runs a program of the host in the network of a process.
func inNetworkOf(ctx context.Context, pid int, args ...string) ([]byte, error) {
	cmd := cluster.InNetworkOf(ctx, pid, args...)
	return cmd.CombinedOutput()
}

// Fetch gets a page as a process in the network of process pid sees it.
func Fetch(ctx context.Context, pid int, url string) ([]byte, error) {
	ns, err := netns.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("process %d has ended", pid)
	}
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
			derr := ns.Do(func() error {
				conn, err = (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, address)
				return nil
			})
			return conn, errors.Join(err, derr)
		},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	var body bytes.Buffer
	if _, err := io.Copy(&body, res.Body); err != nil {
		return body.Bytes(), err
	}
	if res.StatusCode != http.StatusOK {
		return body.Bytes(), fmt.Errorf("%s answered %s", url, res.Status)
	}
	return body.Bytes(), nil
}
