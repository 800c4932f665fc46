package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/ambit-mesh/ambit/e2e/cluster/machine"
)

// Files of a node's machine.
const (
	containerdSocket = "/run/containerd/containerd.sock"
	cniBinDir        = "/opt/cni/bin"
	cniConfDir       = "/etc/cni/net.d"
)

// conflistFile is the cluster's own chain, into which an agent puts itself.
const conflistFile = "10-lab.conflist"

// writeNode makes the directory of a node's machine.
func (b *builder) writeNode(m machineRecord) error {
	dir := b.machineDir(m.Name)
	etc := filepath.Join(dir, "etc")
	for _, d := range []string{"etc/kubernetes", "etc/containerd", cniConfDir, cniBinDir, "var/lib/kubelet"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	snapshotter, err := snapshotterFor(dir)
	if err != nil {
		return err
	}
	conflist, err := conflist(m)
	if err != nil {
		return err
	}
	kubelet, err := kubeletConfig()
	if err != nil {
		return err
	}
	user := subject{name: "system:node:" + m.Name, groups: []string{"system:nodes"}}
	err = errors.Join(
		b.writeEtc(dir, m.Name),
		b.copyPlugins(filepath.Join(dir, cniBinDir)),
		os.WriteFile(filepath.Join(dir, cniConfDir, conflistFile), conflist, 0o644),
		os.WriteFile(filepath.Join(etc, "containerd/config.toml"), containerdConfig(snapshotter), 0o644),
		os.WriteFile(filepath.Join(etc, "kubernetes/kubelet.yaml"), kubelet, 0o644),
		os.WriteFile(filepath.Join(etc, "kubernetes/ca.crt"), b.ca.pem, 0o644),
		b.ca.writeKubeconfig(filepath.Join(etc, "kubernetes/kubelet.conf"), b.server(), user),
		b.ca.writeKubeconfig(filepath.Join(etc, "kubernetes/kube-proxy.conf"), b.server(), subject{name: "system:kube-proxy"}),
		b.ca.writeKubeconfig(filepath.Join(etc, "kubernetes/netpol.conf"), b.server(), subject{name: "lab:netpol"}),
	)
	if err != nil {
		return err
	}
	return machine.Spec{
		Hostname: m.Name,
		Programs: b.programMounts(groupKubernetes, groupOurs),
		Services: nodeServices(m),
	}.Write(dir)
}

// nodeServices are the programs of a node.
func nodeServices(m machineRecord) []machine.Service {
	const etc = "/etc/kubernetes/"
	return []machine.Service{
		{Name: "containerd", Path: "/usr/bin/containerd", Args: []string{"--config", "/etc/containerd/config.toml"}},
		{Name: "kubelet", Path: programRoot + "kubernetes/kubelet", After: containerdSocket, Args: []string{
			"--config=" + etc + "kubelet.yaml", "--kubeconfig=" + etc + "kubelet.conf",
			"--hostname-override=" + m.Name, "--node-ip=" + m.Address.String(),
		}},
		{Name: "kube-proxy", Path: programRoot + "kubernetes/kube-proxy", Args: []string{
			"--kubeconfig=" + etc + "kube-proxy.conf", "--proxy-mode=nftables", "--hostname-override=" + m.Name,
			"--cluster-cidr=" + podCIDR.String(),
			"--conntrack-max-per-core=0", // a limit of the whole kernel
			"--oom-score-adj=0",
		}},
		{Name: "labnetpol", Path: programRoot + groupOurs + "/labnetpol", Args: []string{
			"--kubeconfig=" + etc + "netpol.conf", "--node=" + m.Name,
		}},
	}
}

// containerdConfig is for containerd 1.6 and later.
func containerdConfig(snapshotter string) []byte {
	return fmt.Appendf(nil, `version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  # Where CAP_SYS_RESOURCE is missing no score below the caller's can be set.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = %q
    conf_dir = %q
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = %q
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
`, PauseImage, cniBinDir, cniConfDir, snapshotter)
}

// snapshotterFor is what works on the file system of dir: an overlay does not lie on
// another overlay.
func snapshotterFor(dir string) (string, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return "", fmt.Errorf("file system of %s: %w", dir, err)
	}
	if stat.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return "native", nil
	}
	return "overlayfs", nil
}

// kubeletConfig is the KubeletConfiguration of a node; JSON is YAML.
func kubeletConfig() ([]byte, error) {
	type object = map[string]any
	return json.MarshalIndent(object{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"authentication": object{
			"anonymous": object{"enabled": false},
			"webhook":   object{"enabled": true},
			"x509":      object{"clientCAFile": "/etc/kubernetes/ca.crt"},
		},
		"authorization":            object{"mode": "Webhook"},
		"containerRuntimeEndpoint": "unix://" + containerdSocket,
		"clusterDNS":               []string{dnsAddress.String()}, "clusterDomain": "cluster.local",
		"cgroupDriver": "cgroupfs", "failCgroupV1": false, "failSwapOn": false, "enforceNodeAllocatable": []string{},
		// The disk is the host's: how full it is says nothing about the lab.
		"evictionHard":                object{"memory.available": "1Mi", "nodefs.available": "0%", "imagefs.available": "0%"},
		"imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
		"oomScoreAdj": 0,
		"kubeAPIQPS":  100, "kubeAPIBurst": 200, "registryPullQPS": 0, "serializeImagePulls": false,
		"nodeStatusUpdateFrequency": "4s", "maxPods": 200,
		// How long a changed ConfigMap takes into a pod that runs; else a minute.
		"syncFrequency": "10s",
	}, "", "  ")
}

// conflist is the chain of the cluster's own network: a veth per pod that is routed,
// so that traffic between pods of one node too meets the node's rules.
func conflist(m machineRecord) ([]byte, error) {
	type object = map[string]any
	return json.MarshalIndent(object{
		"cniVersion": "1.0.0", "name": "lab",
		"plugins": []object{{
			"type": "ptp", "ipMasq": false, "mtu": 1500,
			"ipam": object{
				"type": "host-local", "ranges": [][]object{{{"subnet": m.PodCIDR.String()}}},
				"routes": []object{{"dst": "0.0.0.0/0"}},
			},
		}},
	}, "", "  ")
}

// copyPlugins puts the reference plugins where agents may put theirs beside them.
func (b *builder) copyPlugins(to string) error {
	for _, name := range []string{"ptp", "bridge", "loopback", "host-local"} {
		if err := copyFile(b.programs.path(groupOurs, name), filepath.Join(to, name)); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// indent shows a program's output inside an error.
func indent(out []byte) string {
	return "  " + string(bytes.ReplaceAll(bytes.TrimSpace(out), []byte("\n"), []byte("\n  ")))
}

// RewriteNetworkConfig writes the node's own network configuration as it was at first,
// as a tool does that knows nothing of plugins which others have added.
func (n Node) RewriteNetworkConfig() error {
	raw, err := conflist(machineRecord{Name: n.Name, PodCIDR: n.PodCIDR})
	if err != nil {
		return err
	}
	path := filepath.Join(n.Dir, cniConfDir, conflistFile)
	if err := os.WriteFile(path+".new", raw, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
