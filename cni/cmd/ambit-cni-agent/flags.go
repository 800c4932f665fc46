package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/ambit-mesh/ambit/cni"
	"github.com/ambit-mesh/ambit/cni/agent"
	"github.com/ambit-mesh/ambit/cni/event"
	"github.com/ambit-mesh/ambit/cni/install"
	"github.com/ambit-mesh/ambit/internal/buildinfo"
	"github.com/ambit-mesh/ambit/internal/program"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// flags are what the command line says.
type flags struct {
	program.Program
	cfg              cni.Config
	cluster          cni.Cluster
	kube             bool
	install          install.Config
	mode, hostRoot   string
	dns              string
	probes           string
	probeV4, probeV6 string
}

// newFlags says nothing yet.
func newFlags() *flags {
	return &flags{Program: program.Program{Name: "ambit-cni-agent", Version: version}}
}

const longHelp = `ambit-cni-agent takes the pods of one node into the mesh.

The CNI plugin ambit-cni asks it, through --socket, for each pod that starts. The
agent looks the pod up, and if it belongs to the mesh, redirects its traffic and
hands its network namespace to the ztunnel that is connected to --zds-socket. Only
then does the pod start. A pod belongs to the mesh when it, or its namespace, has
the label istio.io/dataplane-mode=ambient; the value none on the pod keeps it out.
Changed labels take effect on running pods.

With --kube pods come from the cluster. Pods that ran before the agent came are
found by the word of the container runtime. With --config-dir pods come from
manifests in a directory (Namespace and Pod; other kinds are left to others).

With --install-conf-dir the agent puts the plugin where the container runtime
looks, and keeps it there:
  own      a file of its own that sorts before all others, a copy of the node's
           network with ambit-cni at its end; who writes the original again does no
           harm. The default.
  chained  ambit-cni at the end of the node's own file; for tools that suffer no
           other file beside theirs.

A pod that belongs to the mesh and cannot be taken in is fenced: nothing passes to
or from it, and an Event on it says why. The label
ambit.dev/on-enrolment-failure=open on its namespace lets it run outside instead.

Probes of the kubelet reach pods whatever policies say: ztunnel asks at
--sockets-socket whose socket has called, and the agent looks on the node. It also
hands ztunnel the kubelet's cgroup, and a socket by which the kernel tells who is in
it, so that probes pass while the agent is away. For a ztunnel that cannot ask,
--probe-mode=snat gives them a source address that the pods' rules let pass; a
NetworkPolicy may drop it.

When the agent ends, pods stay in the mesh; the next one finds them by --state-file.
Only when its --daemonset is gone does it release them and take the plugin away;
ambit-cni-agent leave deletes that, and waits until all have done so.

The sockets lie in directories that only root can enter. What the agent knows:

  curl --unix-socket /var/run/ambit-cni/pluginevent.sock http://agent/pods

Needs root: CAP_SYS_ADMIN to enter pods' network namespaces, CAP_NET_ADMIN for their
rules, CAP_SYS_PTRACE to reach the runtime's paths and to see what the kubelet has
open.
Exit codes: 0 asked to stop, 1 failed while running, 2 wrong flags.`

const example = `  ambit-cni-agent --kube --node "$NODE_NAME" --install-bin-dir /host/opt/cni/bin --install-conf-dir /host/etc/cni/net.d

  ambit-cni-agent --config-dir mesh/ --node node-1

  # can pods be added now?
  curl -s 127.0.0.1:15014/readyz`

// command declares the flags.
func (f *flags) command() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "ambit-cni-agent --kube|--config-dir DIR",
		Short:         "takes the pods of one node into the mesh",
		Long:          longHelp,
		Example:       example,
		Args:          cobra.NoArgs,
		Version:       buildinfo.Line("ambit-cni-agent", version),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return f.serve(cmd.Context()) },
	}
	cmd.SetVersionTemplate("{{.Version}}\n")
	cmd.CompletionOptions.DisableDefaultCmd = true
	cmd.AddCommand(leaveCommand())
	p := cmd.Flags()
	p.SortFlags = false
	f.podFlags(p)
	f.installFlags(p)
	p.StringVar(&f.cfg.StatusAddr, "status-addr", "127.0.0.1:15014", "`ADDRESS` for people: /healthz, /readyz, /metrics; not authenticated; empty for none")
	p.StringVar(&f.cfg.ReadyAddr, "ready-addr", "", "`ADDRESS` for the kubelet: /healthz, /readyz (default: none)")
	f.Flags(p, "agent, source, install, report, sockets")
	return cmd
}

// podFlags are those about pods, and where they come from.
func (f *flags) podFlags(p *pflag.FlagSet) {
	p.BoolVar(&f.kube, "kube", false, "pods come from the cluster that the agent runs in")
	p.StringVar(&f.cluster.Kubeconfig, "kubeconfig", "", "`FILE` that names another cluster; means --kube")
	p.StringVar(&f.cfg.ConfigDir, "config-dir", "", "`DIR` of manifests from which pods come instead")
	p.StringVar(&f.cfg.Socket, "socket", filepath.Join(event.RunDir, event.Socket), "`PATH` where the plugin asks: cni_agent_run_dir of its configuration, and pluginevent.sock")
	p.StringVar(&f.cfg.ZDSSocket, "zds-socket", "/var/run/ztunnel/ztunnel.sock", "`PATH` where ztunnel connects: its INPOD_UDS")
	p.StringVar(&f.cfg.OwnerSocket, "sockets-socket", "", "`PATH` where ztunnel asks whose socket has called, as /var/run/ztunnel/sockets.sock (default: nowhere)")
	p.StringVar(&f.cfg.Agent.Node, "node", os.Getenv("NODE_NAME"), "`NAME` of this node; pods of others are refused (default: NODE_NAME, or else nobody checks)")
	p.StringVar(&f.cfg.Agent.StateFile, "state-file", "", "`FILE` that remembers the pods (default: state.json beside --socket)")
	p.StringSliceVar(&f.cfg.Agent.ExcludeNamespaces, "exclude-namespaces", []string{"kube-system"}, "`NAMES` of namespaces that are never in the mesh")
	p.StringVar(&f.dns, "dns-capture", string(agent.DNSNever), "whose DNS questions go to ztunnel, `WHICH`: never, off (pods that ask for it by annotation) or on (all but those that refuse)")
	p.StringVar(&f.probes, "probe-mode", probeSockets, "how probes of the kubelet pass, `HOW`: sockets (ztunnel asks at --sockets-socket) or snat (for a ztunnel that cannot ask)")
	p.BoolVar(&f.cfg.Owner.AnySocket, "probe-from-node", false, "take every process of the node for the kubelet, where it cannot be told")
	p.StringVar(&f.cfg.Owner.Cgroups, "cgroup-root", "", "`DIR` of the node's cgroup v2, by which the kubelet's sockets are known (default: below --host-root, /sys/fs/cgroup)")
	p.StringVar(&f.probeV4, "probe-v4", "169.254.7.127", "`ADDRESS` that --probe-mode=snat gives to probes")
	p.StringVar(&f.probeV6, "probe-v6", "fd16:9254:7127:1337:ffff:ffff:ffff:ffff", "`ADDRESS`, the same for IPv6")
	p.DurationVar(&f.cfg.Agent.RepairEvery, "repair-every", 0, "`TIME` between comparisons of all pods with what they should be (default 30s)")
	p.DurationVar(&f.cfg.Agent.FenceAfter, "fence-after", 0, "`TIME` that a running pod may take to come into the mesh before it is fenced (default 10s)")
	p.DurationVar(&f.cfg.Agent.ReleaseLinger, "release-linger", 0, "`TIME` that ztunnel goes on serving a pod that is let go, for peers that have not heard of it (default 5s)")
	p.StringVar(&f.hostRoot, "host-root", "", "`DIR` below which the node's files are, as /proc/1/root in a container that sees the node's processes (default: our own)")
	p.StringSliceVar(&f.cluster.RuntimeSockets, "cri-socket", nil, "`PATHS` on the node where the container runtime listens (default: the usual ones)")
}

// installFlags are those about the plugin's place.
func (f *flags) installFlags(p *pflag.FlagSet) {
	p.StringVar(&f.install.ConfDir, "install-conf-dir", "", "`DIR` where the container runtime reads network configurations; put the plugin there (default: somebody else does)")
	p.StringVar(&f.install.BinDir, "install-bin-dir", "/opt/cni/bin", "`DIR` where it looks for plugins")
	p.StringVar(&f.install.Program, "plugin", "", "`FILE` of the plugin's program (default: ambit-cni beside this one)")
	p.StringVar(&f.mode, "conf-mode", string(install.Own), "how the plugin gets into the list, `HOW`: own or chained")
	p.StringVar(&f.cluster.DaemonSet, "daemonset", "", "`NAME` of the DaemonSet that the agent belongs to; when it ends with that gone, the mesh leaves the node (default: never)")
	p.StringVar(&f.cluster.Namespace, "namespace", os.Getenv("POD_NAMESPACE"), "`NAME` of the namespace that the agent belongs to (default: POD_NAMESPACE)")
}

// How probes of the kubelet pass.
const (
	probeSockets = "sockets"
	probeSNAT    = "snat"
)

// config is what the flags say, checked as far as flags can be.
func (f *flags) config() (cni.Config, error) {
	cfg := f.cfg
	cfg.Agent.DNS = agent.DNSCapture(f.dns)
	cfg.Agent.HostRoot = agent.HostRoot(f.hostRoot)
	cfg.Owner.Root = f.hostRoot
	if f.kube = f.kube || f.cluster.Kubeconfig != ""; f.kube == (cfg.ConfigDir != "") {
		return cni.Config{}, errors.New("want one of --kube and --config-dir: from where do pods come?")
	}
	if f.kube {
		cfg.Cluster = &f.cluster
	}
	switch f.probes {
	case probeSockets:
	case probeSNAT:
		cfg.Agent.ForeignProxy = true
		if err := f.probeAddresses(&cfg.Agent); err != nil {
			return cni.Config{}, err
		}
	default:
		return cni.Config{}, fmt.Errorf("--probe-mode %q: want %s or %s", f.probes, probeSockets, probeSNAT)
	}
	if f.install.ConfDir != "" {
		i := f.install
		i.Mode, i.RunDir, i.PodNamespace = install.Mode(f.mode), filepath.Dir(cfg.Socket), f.cluster.Namespace
		i.ExcludeNamespaces = cfg.Agent.ExcludeNamespaces
		if i.Program == "" {
			self, err := os.Executable()
			if err != nil {
				return cni.Config{}, fmt.Errorf("%w; name the plugin with --plugin", err)
			}
			i.Program = filepath.Join(filepath.Dir(self), install.PluginType)
		}
		cfg.Install = &i
	}
	return cfg, nil
}

// probeAddresses reads the addresses of probes.
func (f *flags) probeAddresses(cfg *agent.Config) error {
	for _, probe := range []struct {
		flag, text string
		into       *netip.Addr
		v4         bool
	}{{"--probe-v4", f.probeV4, &cfg.ProbeV4, true}, {"--probe-v6", f.probeV6, &cfg.ProbeV6, false}} {
		addr, err := netip.ParseAddr(probe.text)
		if err != nil || addr.Is4() != probe.v4 {
			return fmt.Errorf("%s %q: want an address of its family", probe.flag, probe.text)
		}
		*probe.into = addr
	}
	return nil
}
