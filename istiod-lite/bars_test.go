package istiodlite_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	corev1 "k8s.io/api/core/v1"
	discoveryapi "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/ambit-mesh/ambit/e2e/kubetest"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// The size of the measured cluster: a service of 20 pods each.
const (
	barPods     = 2000
	barServices = 100
	barChanges  = 300
)

// BenchmarkTwoThousandPods measures a process of its own against a real API server:
// its memory, and the time from the API server's answer to a change of a pod until
// a proxy has it.
func BenchmarkTwoThousandPods(b *testing.B) {
	s := kubetest.Get(b)
	c := s.Client(b)
	namespace := fmt.Sprintf("bars-%x", time.Now().UnixNano())
	kubetest.Namespace(b, c, namespace, nil)
	s.Apply(b, fmt.Sprintf(rights, namespace))
	fill(b, c, namespace)
	p := startProcess(b, s, kubetest.Token(b, c, namespace, "istiod-lite", "", nil), namespace)

	zt := kubetest.Pod(b, c, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "ztunnel"},
		Spec:       corev1.PodSpec{ServiceAccountName: "ztunnel", NodeName: "node-0"},
	})
	var root string
	kubetest.Eventually(b, "root", func() error {
		m, err := c.CoreV1().ConfigMaps(namespace).Get(b.Context(), "istio-ca-root-cert", metav1.GetOptions{})
		if err == nil {
			root = m.Data["root-cert.pem"]
		}
		return err
	})
	client := p.client(b, root)
	x := client.subscribeIn(namespace, client.dialWith([]byte(root)), kubetest.Token(b, c, namespace, "ztunnel", "istio-ca", zt), "node-0")
	x.wait("all pods", func(held map[string]*discoveryv3.Resource) bool { return len(held) >= barPods+barServices })
	idle := p.memory(b, "VmRSS")

	for b.Loop() {
		lags := measureChanges(b, c, x, namespace)
		b.ReportMetric(float64(lags[len(lags)/2].Microseconds())/1000, "ms-p50")
		b.ReportMetric(float64(lags[len(lags)*99/100].Microseconds())/1000, "ms-p99")
	}
	b.ReportMetric(float64(idle)/1024, "MB-rss")
	b.ReportMetric(float64(p.memory(b, "VmHWM"))/1024, "MB-peak")
	b.ReportMetric(0, "ns/op")
}

// fill makes pods, services and endpoints.
func fill(b *testing.B, c kubernetes.Interface, namespace string) {
	b.Helper()
	var writers lifecycle.Group
	for w := range 20 {
		writers.Go(b.Context(), "fill", func(context.Context) {
			for i := w; i < barServices; i += 20 {
				fillService(b, c, namespace, i)
			}
		})
	}
	writers.Wait()
}

// fillService makes one service and its pods, with what real ones carry around.
func fillService(b *testing.B, c kubernetes.Interface, namespace string, i int) {
	name := fmt.Sprintf("app-%d", i)
	_, err := c.CoreV1().Services(namespace).Create(b.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	if err != nil {
		b.Error(err)
		return
	}
	slice := &discoveryapi.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryapi.LabelServiceName: name}}, AddressType: discoveryapi.AddressTypeIPv4,
		Ports: []discoveryapi.EndpointPort{{Port: new(int32(8080))}},
	}
	for j := range barPods / barServices {
		n := i*barPods/barServices + j
		ip := fmt.Sprintf("10.%d.%d.%d", 10+n/65000, n/250%250, n%250+1)
		pod := kubetest.Pod(b, c, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: namespace, Name: fmt.Sprintf("%s-6f9d5c7b8-%05d", name, n),
				Labels:      map[string]string{"app": name, "pod-template-hash": "6f9d5c7b8", "version": "v1"},
				Annotations: map[string]string{"ambient.istio.io/redirection": "enabled", "checksum": strings.Repeat("x", 500)},
			},
			Spec: corev1.PodSpec{
				ServiceAccountName: name, NodeName: fmt.Sprintf("node-%d", n%50),
				Containers: []corev1.Container{{Name: "c", Image: "registry.example/team/app:v1", Env: []corev1.EnvVar{{Name: "A", Value: strings.Repeat("y", 500)}}, Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}}},
			},
			Status: corev1.PodStatus{PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
		})
		slice.Endpoints = append(slice.Endpoints, discoveryapi.Endpoint{Addresses: []string{ip}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: pod.Name, UID: pod.UID}})
	}
	if _, err := c.DiscoveryV1().EndpointSlices(namespace).Create(b.Context(), slice, metav1.CreateOptions{}); err != nil {
		b.Error(err)
	}
}

// measureChanges makes pods take no connections, and take them again, one after
// the other. The result is sorted.
func measureChanges(b *testing.B, c kubernetes.Interface, x *proxy, namespace string) []time.Duration {
	b.Helper()
	var lags []time.Duration
	for i := range barChanges {
		n := i / 2 * 7 % barPods
		name := fmt.Sprintf("app-%d-6f9d5c7b8-%05d", n*barServices/barPods, n)
		resource := "Kubernetes//Pod/" + namespace + "/" + name
		before := x.held[resource].GetVersion()
		ready := []string{"False", "True"}[i%2]
		patch := `{"status":{"conditions":[{"type":"Ready","status":"` + ready + `"}]}}`
		if _, err := c.CoreV1().Pods(namespace).Patch(b.Context(), name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status"); err != nil {
			b.Fatal(err)
		}
		start := time.Now()
		x.wait("the change", func(held map[string]*discoveryv3.Resource) bool { return held[resource].GetVersion() != before })
		lags = append(lags, time.Since(start))
	}
	slices.Sort(lags)
	return lags
}

// process is istiod-lite as a program.
type process struct {
	cmd             *exec.Cmd
	listen, address string // for proxies, for people
}

// startProcess builds and runs it.
func startProcess(b *testing.B, s *kubetest.Server, token, namespace string) *process {
	b.Helper()
	path := filepath.Join(b.TempDir(), "istiod-lite")
	if out, err := exec.Command("go", "build", "-o", path, "./cmd/istiod-lite").CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	ports := kubetest.FreePorts(b, 2)
	p := &process{listen: "127.0.0.1:" + ports[0], address: "127.0.0.1:" + ports[1]}
	p.cmd = exec.Command(path, "--kubeconfig", s.Kubeconfig(b, token), "--namespace", namespace, "--identity", "one",
		"--listen", p.listen, "--status-addr", p.address, "--dns-name", "istiod.istio-system.svc", "--log-level", "warn")
	p.cmd.Stderr = os.Stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		p.cmd.Process.Signal(syscall.SIGTERM)
		p.cmd.Wait()
	})
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	kubetest.Eventually(b, "ready", func() error {
		resp, err := client.Get("http://" + p.address + "/readyz")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if text, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
			return errors.New(string(text))
		}
		return nil
	})
	return p
}

// memory is a figure of the kernel about the process, in KiB.
func (p *process) memory(b *testing.B, what string) int {
	b.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) == 3 && fields[0] == what+":" {
			n, err := strconv.Atoi(fields[1])
			if err != nil {
				b.Fatal(err)
			}
			return n
		}
	}
	b.Fatalf("no %s", what)
	return 0
}

// client dials the process as the harness dials one within the test.
func (p *process) client(b *testing.B, root string) *plane {
	b.Helper()
	return &plane{t: b, addr: p.listen}
}
