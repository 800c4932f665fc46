package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/internal/buildinfo"
	"github.com/ambit-mesh/ambit/internal/program"
	istiodlite "github.com/ambit-mesh/ambit/istiod-lite"
)

// flags are what the command line says.
type flags struct {
	program.Program
	cfg       istiodlite.Config
	cluster   istiodlite.Cluster
	kube      bool
	agent     string
	waypoints string
}

// newFlags says nothing yet.
func newFlags() *flags {
	return &flags{Program: program.Program{Name: "istiod-lite", Version: version}}
}

const longHelp = `istiod-lite is the control plane of an ambit mesh.

With --kube it reads the API server of the cluster that it runs in (with
--kubeconfig that of another), authenticates proxies by the tokens of their service
accounts, keeps the root in the Secret cacerts or istio-ca-secret of its namespace,
and writes what the mesh needs: the root in every namespace, conditions, addresses of
ServiceEntries, and the waypoints of Gateways of the classes ambit-waypoint and
istio-waypoint (--waypoint-settings). Of several replicas one writes; all serve.

With --config-dir it reads ordinary Kubernetes manifests from a directory (Namespace,
Node, ServiceAccount, Pod, Service, EndpointSlice, AuthorizationPolicy,
PeerAuthentication, RequestAuthentication, WorkloadEntry, ServiceEntry, the
ConfigMap istio of the root namespace; *.yaml, *.yml, *.json) and reads
them again when they change. A file with a mistake is refused as a whole: the log
and /status say file, line and reason, and what that file said before stays in
force. Write files beside the directory and move them in. While a file that may
hold policies is refused at the start, when nobody knows what it said before,
nothing is served: proxies keep what they have.

Proxies connect to --listen, over TLS, for workloads, services and policies (delta
xDS) and for certificates. They prove who they are by their service account's token,
or by one of --node-tokens, and get certificates only for pods that run on their
node. They trust the root in the ConfigMap istio-ca-root-cert, or in
<ca-dir>/root-cert.pem, which is made when the directory is empty.

/status at --status-addr says what stands, what was refused and why, what policies
are not enforced as written, and who is connected; ?format=text for reading.

Exit codes: 0 asked to stop, 1 failed while running, 2 wrong flags or files.`

const example = `  # a mesh on one machine
  istiod-lite --config-dir mesh/ --ca-dir ca/ --node-tokens tokens --dns-name 10.0.0.1

  # the mesh of a cluster, from outside of it
  istiod-lite --kubeconfig ~/.kube/config --namespace istio-system

  # what is wrong with my manifests?
  curl -s '127.0.0.1:15014/status?format=text'`

// command declares the flags.
func (f *flags) command() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "istiod-lite --kube | --config-dir DIR --ca-dir DIR --node-tokens FILE",
		Short:         "the control plane of an ambit mesh",
		Long:          longHelp,
		Example:       example,
		Args:          cobra.NoArgs,
		Version:       buildinfo.Line("istiod-lite", version),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.cfg.Version = buildinfo.Version(version)
			if err := f.complete(); err != nil {
				return err
			}
			return f.serve(cmd.Context())
		},
	}
	cmd.SetVersionTemplate("{{.Version}}\n")
	p := cmd.Flags()
	p.SortFlags = false
	p.StringVar(&f.cfg.ConfigDir, "config-dir", "", "`DIR` of the manifests (required without --kube)")
	p.StringVar(&f.cfg.CADir, "ca-dir", "", "`DIR` of the CA's key and certificates; a root is made when it is empty (required without --kube)")
	p.StringVar(&f.cfg.NodeTokens, "node-tokens", "", "`FILE` with lines \"token node-name\", readable by its owner only (required without --kube)")
	p.BoolVar(&f.kube, "kube", false, "read and write the cluster that this process runs in, instead of a directory")
	p.StringVar(&f.cluster.Kubeconfig, "kubeconfig", "", "the same with the cluster of a `FILE`")
	p.StringVar(&f.cluster.Namespace, "namespace", os.Getenv("POD_NAMESPACE"), "`NAMESPACE` of the installation, whose Secret holds the root (default $POD_NAMESPACE, else that of the pod)")
	p.StringVar(&f.cluster.Identity, "identity", os.Getenv("POD_NAME"), "`NAME` of this replica in elections (default $POD_NAME, else the host's)")
	p.StringSliceVar(&f.cluster.NodeAccounts, "node-accounts", nil, "`NAMESPACE/NAME` of the service accounts whose pods ask for certificates of their node's pods (default ztunnel of the namespace)")
	p.StringVar(&f.cluster.Taint, "taint", "cni.istio.io/not-ready", "`KEY` of the taint that is taken from nodes whose CNI agent is Ready; empty: none is")
	p.StringVar(&f.agent, "agent-selector", "k8s-app=ambit-cni-node", "`LABEL=VALUE` of the pods of that agent")
	p.StringVar(&f.waypoints, "waypoint-settings", "", "`JSON` that says what waypoints are made with: image, pullPolicy, replicas, maxReplicas, cpuUtilization, drainSeconds, resources and more; empty: no waypoints are made")
	p.StringVar(&f.cluster.Discovery, "discovery", "", "`URL` at which waypoints find this control plane (default https://istiod.NAMESPACE.svc:15012)")
	p.StringVar(&f.cfg.Listen, "listen", ":15012", "`ADDRESS` for proxies: delta xDS and certificates, over TLS")
	p.StringVar(&f.cfg.StatusAddr, "status-addr", "", "`ADDRESS` for people: /healthz, /readyz, /metrics, and /status for callers on loopback; not authenticated (default 127.0.0.1:15014, with --kube :15014)")
	p.StringArrayVar(&f.cfg.DNSNames, "dns-name", nil, "`NAME` or IP address of the serving certificate; may be given several times (default istiod.<root-namespace>.svc; localhost is always in it)")
	p.StringVar(&f.cfg.Model.TrustDomain, "trust-domain", "cluster.local", "`NAME` in which all identities stand")
	p.StringVar(&f.cfg.Model.ClusterID, "cluster-id", "Kubernetes", "`NAME` of the cluster, part of workload names")
	p.StringVar(&f.cfg.Model.ClusterDomain, "cluster-domain", "cluster.local", "`DOMAIN` of the services' host names")
	p.StringVar(&f.cfg.Model.RootNamespace, "root-namespace", "", "`NAMESPACE` whose policies hold for the whole mesh (default istio-system, with --kube that of the installation)")
	p.StringVar(&f.cfg.Model.Network, "network", "", "`NAME` of the network of all workloads")
	p.BoolVar(&f.cfg.Model.DryRun, "dry-run-policies", false, "send policies annotated istio.io/dry-run to proxies, which must know them: older ones enforce them")
	f.Flags(p, "xds, files, kube, keeper, ca")
	return cmd
}

// complete checks what flags say together.
func (f *flags) complete() error {
	if !f.kube && f.cluster.Kubeconfig == "" {
		for _, required := range []struct{ flag, value string }{
			{"--config-dir", f.cfg.ConfigDir}, {"--ca-dir", f.cfg.CADir}, {"--node-tokens", f.cfg.NodeTokens},
		} {
			if required.value == "" {
				return fmt.Errorf("%s is missing: say where manifests, key and tokens are, or --kube", required.flag)
			}
		}
		return nil
	}
	if f.cfg.ConfigDir != "" || f.cfg.CADir != "" || f.cfg.NodeTokens != "" {
		return errors.New("--config-dir, --ca-dir and --node-tokens do not go with --kube and --kubeconfig")
	}
	var ok bool
	if f.cluster.AgentLabel, f.cluster.AgentValue, ok = strings.Cut(f.agent, "="); !ok {
		return fmt.Errorf("--agent-selector: %q is not LABEL=VALUE", f.agent)
	}
	if f.waypoints != "" {
		settings, err := istiodlite.ParseWaypoints(f.waypoints)
		if err != nil {
			return fmt.Errorf("--waypoint-settings: %w", err)
		}
		f.cluster.Waypoints = settings
	}
	f.cfg.Cluster = &f.cluster
	return nil
}
