package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"

	"github.com/ambit-mesh/ambit/cni/agent"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// uidLabel is the label by which a runtime knows whose sandbox it is. Source:
// k8s.io/kubernetes, pkg/kubelet/types/labels.go.
const uidLabel = "io.kubernetes.pod.uid"

// RuntimeSockets returns where container runtimes listen: containerd, that of
// k3s, CRI-O, Docker's.
func RuntimeSockets() []string {
	return []string{"/run/containerd/containerd.sock", "/run/k3s/containerd/containerd.sock", "/run/crio/crio.sock", "/run/cri-dockerd.sock"}
}

// Runtime asks the container runtime of the node about pods that it has started.
type Runtime struct {
	// Set by NewRuntime, then only read.
	sockets []string
	host    agent.HostRoot

	// mu guards the fields below.
	mu   sync.Mutex
	conn *grpc.ClientConn
}

var _ agent.Runtime = (*Runtime)(nil)

// NewRuntime makes a client of the runtime that listens at the first of sockets,
// paths of the node, that is there. It asks nothing yet.
func NewRuntime(sockets []string, host agent.HostRoot) *Runtime {
	return &Runtime{sockets: sockets, host: host}
}

// connect returns the client, and connects when it is first asked.
func (r *Runtime) connect() (cri.RuntimeServiceClient, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn == nil {
		path, err := r.find()
		if err != nil {
			return nil, err
		}
		r.conn, err = grpc.NewClient("passthrough:///runtime", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", path)
			}))
		if err != nil {
			return nil, err
		}
	}
	return cri.NewRuntimeServiceClient(r.conn), nil
}

// find returns the path of the first socket that is there.
func (r *Runtime) find() (string, error) {
	var errs []error
	for _, s := range r.sockets {
		path, err := r.host.Resolve(s)
		if err == nil {
			_, err = os.Stat(path)
		}
		if err == nil {
			return path, nil
		}
		errs = append(errs, err)
	}
	return "", fmt.Errorf("no container runtime is found, name its socket with --cri-socket: %w", errors.Join(errs...))
}

// Close ends the connection.
func (r *Runtime) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn == nil {
		return nil
	}
	err := r.conn.Close()
	r.conn = nil
	return err
}

// Sandbox finds the sandbox of a pod that runs.
func (r *Runtime) Sandbox(ctx context.Context, uid string) (agent.Sandbox, error) {
	client, err := r.connect()
	if err != nil {
		return agent.Sandbox{}, err
	}
	found, err := client.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{
		LabelSelector: map[string]string{uidLabel: uid},
		State:         &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY},
	}})
	if err != nil {
		return agent.Sandbox{}, fmt.Errorf("ask the container runtime for the sandbox: %w", err)
	}
	if len(found.Items) != 1 {
		return agent.Sandbox{}, fmt.Errorf("the container runtime has %d ready sandboxes of the pod, want 1", len(found.Items))
	}
	id := found.Items[0].Id
	status, err := client.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: id, Verbose: true})
	if err != nil {
		return agent.Sandbox{}, fmt.Errorf("ask the container runtime about sandbox %s: %w", id, err)
	}
	return describeSandbox(id, status)
}

// details is what a runtime says of a sandbox when asked for more. containerd and
// CRI-O put the runtime's specification there.
type details struct {
	RuntimeSpec struct {
		Linux struct {
			Namespaces []struct {
				Type string `json:"type"`
				Path string `json:"path"`
			} `json:"namespaces"`
		} `json:"linux"`
	} `json:"runtimeSpec"`
}

// describeSandbox reads the answer.
func describeSandbox(id string, status *cri.PodSandboxStatusResponse) (agent.Sandbox, error) {
	s := agent.Sandbox{ID: id}
	if network := status.GetStatus().GetNetwork(); network != nil {
		ips := []string{network.Ip}
		for _, more := range network.AdditionalIps {
			ips = append(ips, more.Ip)
		}
		for _, ip := range ips {
			if addr, err := netip.ParseAddr(ip); err == nil {
				s.IPs = append(s.IPs, addr.Unmap())
			}
		}
	}
	var d details
	if err := json.Unmarshal([]byte(status.GetInfo()["info"]), &d); err != nil {
		return agent.Sandbox{}, fmt.Errorf("details of sandbox %s: %w", id, err)
	}
	for _, ns := range d.RuntimeSpec.Linux.Namespaces {
		if ns.Type == "network" && ns.Path != "" {
			s.Netns = ns.Path
			return s, nil
		}
	}
	return agent.Sandbox{}, fmt.Errorf("the container runtime does not say which network namespace sandbox %s has", id)
}
