package main

import (
	"fmt"
	"net/netip"

	"github.com/ambit-mesh/ambit/cni"
	"github.com/ambit-mesh/ambit/cni/agent"
	"github.com/ambit-mesh/ambit/internal/program"
	"github.com/spf13/cobra"
)

// flags are what the command line says.
type flags struct {
	program.Program
	cfg              cni.Config
	dns              string
	probeV4, probeV6 string
}

// newFlags says nothing yet.
func newFlags() *flags {
	return &flags{Program: program.Program{Name: "ambit-cni-agent", Version: version}}
}

const longHelp = `ambit-cni-agent takes the pods of one node into the mesh.

The CNI plugin ambit-cni asks it, through --socket, for each pod that starts. The
agent looks the pod up in the manifests of --config-dir (Namespace and Pod; other
kinds are left to others), and if it belongs to the mesh, redirects its traffic
and hands its network namespace to the ztunnel that is connected to --zds-socket.
Only then does the pod start. A pod belongs to the mesh when it, or its namespace,
has the label istio.io/dataplane-mode=ambient; the value none on the pod keeps it
out. Changed labels take effect on running pods.

When the agent ends, pods stay in the mesh; the next one finds them by --state-file.

Both sockets lie in directories that only root can enter. What the agent knows:

  curl --unix-socket /var/run/istio-cni/pluginevent.sock http://agent/pods

Needs root (CAP_SYS_ADMIN and CAP_NET_ADMIN).
Exit codes: 0 asked to stop, 1 failed while running, 2 wrong flags.`

const example = `  ambit-cni-agent --config-dir mesh/ --node node-1

  # can pods be added now?
  curl -s 127.0.0.1:15014/readyz`

// command declares the flags.
func (f *flags) command() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "ambit-cni-agent --config-dir DIR",
		Short:         "takes the pods of one node into the mesh",
		Long:          longHelp,
		Example:       example,
		Args:          cobra.NoArgs,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return f.serve(cmd.Context()) },
	}
	cmd.SetVersionTemplate("ambit-cni-agent {{.Version}}\n")
	p := cmd.Flags()
	p.SortFlags = false
	p.StringVar(&f.cfg.ConfigDir, "config-dir", "", "`DIR` of the manifests (required)")
	p.StringVar(&f.cfg.Socket, "socket", "/var/run/istio-cni/pluginevent.sock", "`PATH` where the plugin asks: cni_agent_run_dir of its configuration, and pluginevent.sock")
	p.StringVar(&f.cfg.ZDSSocket, "zds-socket", "/var/run/ztunnel/ztunnel.sock", "`PATH` where ztunnel connects: its INPOD_UDS")
	p.StringVar(&f.cfg.Agent.Node, "node", "", "`NAME` of this node; pods of others are refused (default: nobody checks)")
	p.StringVar(&f.cfg.Agent.StateFile, "state-file", "", "`FILE` that remembers the pods (default: state.json beside --socket)")
	p.StringSliceVar(&f.cfg.Agent.ExcludeNamespaces, "exclude-namespaces", []string{"kube-system"}, "`NAMES` of namespaces that are never in the mesh")
	p.StringVar(&f.dns, "dns-capture", string(agent.DNSNever), "whose DNS questions go to ztunnel, `WHICH`: never, off (pods that ask for it by annotation) or on (all but those that refuse)")
	p.StringVar(&f.probeV4, "probe-v4", "", "`ADDRESS` that host rules give to kubelet probes, which then pass by ztunnel, such as 169.254.7.127 (default: no such rules)")
	p.StringVar(&f.probeV6, "probe-v6", "", "`ADDRESS`, the same for IPv6")
	p.DurationVar(&f.cfg.Agent.RepairEvery, "repair-every", 0, "`TIME` between comparisons of all pods' rules (default 30s)")
	p.StringVar(&f.cfg.StatusAddr, "status-addr", "127.0.0.1:15014", "`ADDRESS` for people: /healthz, /readyz, /metrics; not authenticated, so keep it on loopback; empty for none")
	f.Flags(p, "agent, source")
	if err := cmd.MarkFlagRequired("config-dir"); err != nil {
		panic(err) // the flag is declared above
	}
	return cmd
}

// config is what the flags say, checked as far as flags can be.
func (f *flags) config() (cni.Config, error) {
	cfg := f.cfg
	cfg.Agent.DNS = agent.DNSCapture(f.dns)
	for _, probe := range []struct {
		flag, text string
		into       *netip.Addr
		v4         bool
	}{{"--probe-v4", f.probeV4, &cfg.Agent.ProbeV4, true}, {"--probe-v6", f.probeV6, &cfg.Agent.ProbeV6, false}} {
		if probe.text == "" {
			continue
		}
		addr, err := netip.ParseAddr(probe.text)
		if err != nil || addr.Is4() != probe.v4 {
			return cni.Config{}, fmt.Errorf("%s %q: want an address of its family", probe.flag, probe.text)
		}
		*probe.into = addr
	}
	return cfg, nil
}
