package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

const (
	cniVersion = "1.1.0"
	podIfName  = "eth0"
	podBridge  = "cni0"
)

// chain is the CNI configuration of a node and what is needed to call it: the
// part of a container runtime.
type chain struct {
	list *libcni.NetworkConfigList
	cni  *libcni.CNIConfig
}

// newChain reads the configuration of a node through libcni, as a runtime does.
func (l *Lab) newChain(n *Node) (*chain, error) {
	plugins := []map[string]any{{
		"type":             "bridge",
		"bridge":           podBridge,
		"isGateway":        true,
		"isDefaultGateway": true,
		"hairpinMode":      true,
		"ipam": map[string]any{
			"type":    "host-local",
			"dataDir": filepath.Join(n.Dir, "ipam"),
			"ranges":  [][]map[string]string{{{"subnet": n.PodCIDR.String()}}},
		},
	}}
	if !l.cfg.NoMesh {
		plugins = append(plugins, map[string]any{
			"type":              "ambit-cni",
			"cni_agent_run_dir": n.pluginDir(),
		})
	}
	raw, err := json.Marshal(map[string]any{"cniVersion": cniVersion, "name": l.cfg.Name + "-pods", "plugins": plugins})
	if err != nil {
		return nil, err
	}
	list, err := libcni.NetworkConfFromBytes(raw)
	if err != nil {
		return nil, fmt.Errorf("CNI configuration of %s: %w", n.Name, err)
	}
	return &chain{
		list: list,
		cni:  libcni.NewCNIConfigWithCacheDir([]string{l.cfg.BinDir}, filepath.Join(n.Dir, "cni-cache"), newNodeExec(n.NetNS)),
	}, nil
}

// add calls ADD for a pod and returns its address.
func (c *chain) add(ctx context.Context, p *Pod) (netip.Addr, error) {
	res, err := c.cni.AddNetworkList(ctx, c.list, runtimeConf(p))
	if err != nil {
		return netip.Addr{}, err
	}
	result, err := types100.GetResult(res)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, ip := range result.IPs {
		if a, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			return a.Unmap(), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("CNI ADD of %s gave no address", p)
}

// Check calls CHECK of the whole chain for a pod.
func (l *Lab) Check(ctx context.Context, p *Pod) error {
	c := p.Node.chain
	return c.cni.CheckNetworkList(ctx, c.list, runtimeConf(p))
}

// del calls DEL for a pod.
func (c *chain) del(ctx context.Context, p *Pod) error {
	return c.cni.DelNetworkList(ctx, c.list, runtimeConf(p))
}

// runtimeConf is what a Kubernetes runtime says about a pod in each call.
func runtimeConf(p *Pod) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{
		ContainerID: p.sandbox,
		NetNS:       p.NetNS.Path(),
		IfName:      podIfName,
		Args: [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", p.Namespace},
			{"K8S_POD_NAME", p.Name},
			{"K8S_POD_INFRA_CONTAINER_ID", p.sandbox},
			{"K8S_POD_UID", p.UID},
		},
	}
}

// nodeExec runs plugins in the namespace of a node, where a runtime on that node
// would run them.
type nodeExec struct {
	ns Namespace
	invoke.RawExec
	version.PluginDecoder
}

var _ invoke.Exec = (*nodeExec)(nil)

func newNodeExec(ns Namespace) *nodeExec { return &nodeExec{ns: ns} }

// ExecPlugin starts the plugin on a thread that is inside the node.
func (e *nodeExec) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) (out []byte, err error) {
	doErr := e.ns.Do(func() error {
		out, err = e.RawExec.ExecPlugin(ctx, path, stdin, environ)
		return nil
	})
	if doErr != nil {
		return nil, types.NewError(types.ErrInternal, "enter the node", doErr.Error())
	}
	return out, err
}
