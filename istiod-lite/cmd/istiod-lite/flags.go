package main

import (
	"crypto/fips140"
	"runtime"

	"github.com/spf13/cobra"

	istiodlite "github.com/ambit-mesh/ambit/istiod-lite"
)

// flags are what the command line says.
type flags struct {
	cfg       istiodlite.Config
	logLevel  string
	logFormat string
}

const longHelp = `istiod-lite is the control plane of an ambit mesh.

It reads ordinary Kubernetes manifests from a directory (Namespace, Node,
ServiceAccount, Pod, Service, EndpointSlice, AuthorizationPolicy,
PeerAuthentication, WorkloadEntry, ServiceEntry; *.yaml, *.yml, *.json) and reads
them again when they change. A file with a mistake is refused as a whole: the log
and /status say file, line and reason, and what that file said before stays in
force. Write files beside the directory and move them in. While a file that may
hold policies is refused at the start, when nobody knows what it said before,
nothing is served: proxies keep what they have.

Proxies connect to --listen, over TLS, for workloads, services and policies (delta
xDS) and for certificates. They prove who they are with a token of --node-tokens,
and get certificates only for pods that run on their node. They trust the root in
<ca-dir>/root-cert.pem, which is made when the directory is empty.

/status at --status-addr says what stands, what was refused and why, what policies
are not enforced as written, and who is connected; ?format=text for reading.

Exit codes: 0 asked to stop, 1 failed while running, 2 wrong flags or files.`

const example = `  # a mesh on one machine
  istiod-lite --config-dir mesh/ --ca-dir ca/ --node-tokens tokens --dns-name 10.0.0.1

  # what is wrong with my manifests?
  curl -s '127.0.0.1:15014/status?format=text'`

// command declares the flags.
func (f *flags) command() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "istiod-lite --config-dir DIR --ca-dir DIR --node-tokens FILE",
		Short:         "the control plane of an ambit mesh",
		Long:          longHelp,
		Example:       example,
		Args:          cobra.NoArgs,
		Version:       versionText(),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.cfg.Version = versionText()
			return f.serve(cmd.Context())
		},
	}
	cmd.SetVersionTemplate("istiod-lite {{.Version}}\n")
	p := cmd.Flags()
	p.SortFlags = false
	p.StringVar(&f.cfg.ConfigDir, "config-dir", "", "`DIR` of the manifests (required)")
	p.StringVar(&f.cfg.CADir, "ca-dir", "", "`DIR` of the CA's key and certificates; a root is made when it is empty (required)")
	p.StringVar(&f.cfg.NodeTokens, "node-tokens", "", "`FILE` with lines \"token node-name\", readable by its owner only (required)")
	p.StringVar(&f.cfg.Listen, "listen", ":15012", "`ADDRESS` for proxies: delta xDS and certificates, over TLS")
	p.StringVar(&f.cfg.StatusAddr, "status-addr", "127.0.0.1:15014", "`ADDRESS` for people: /healthz, /readyz, /metrics, and /status for callers on loopback; not authenticated, so keep it on loopback")
	p.StringArrayVar(&f.cfg.DNSNames, "dns-name", nil, "`NAME` or IP address of the serving certificate; may be given several times (default istiod.<root-namespace>.svc; localhost is always in it)")
	p.StringVar(&f.cfg.Model.TrustDomain, "trust-domain", "cluster.local", "`NAME` in which all identities stand")
	p.StringVar(&f.cfg.Model.ClusterID, "cluster-id", "Kubernetes", "`NAME` of the cluster, part of workload names")
	p.StringVar(&f.cfg.Model.ClusterDomain, "cluster-domain", "cluster.local", "`DOMAIN` of the services' host names")
	p.StringVar(&f.cfg.Model.RootNamespace, "root-namespace", "istio-system", "`NAMESPACE` whose policies hold for the whole mesh")
	p.StringVar(&f.cfg.Model.Network, "network", "", "`NAME` of the network of all workloads")
	p.BoolVar(&f.cfg.Model.DryRun, "dry-run-policies", false, "send policies annotated istio.io/dry-run to proxies, which must know them: older ones enforce them")
	p.StringVar(&f.logLevel, "log-level", "info", "`SPEC`: debug, info, warn or error, for all or by scope: info,xds=debug (scopes: xds, files, ca)")
	p.StringVar(&f.logFormat, "log-format", "json", "`FORMAT`: json or plain")
	for _, name := range []string{"config-dir", "ca-dir", "node-tokens"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // the flag is declared above
		}
	}
	return cmd
}

// versionText is version, compiler and, when it is so, that cryptography runs in
// FIPS 140-3 mode.
func versionText() string {
	text := version + " (" + runtime.Version() + ")"
	if fips140.Enabled() {
		text += " FIPS 140-3 mode"
	}
	return text
}
