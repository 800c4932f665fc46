package main

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ambit-mesh/ambit/internal/buildinfo"
	"github.com/ambit-mesh/ambit/internal/program"
	"github.com/ambit-mesh/ambit/internal/tracing"
	"github.com/ambit-mesh/ambit/waypoint"
)

// Where things are in a pod when nothing says otherwise, as in the ambient
// ecosystem.
const (
	controlPlane = "https://istiod.istio-system.svc:15012"
	rootCA       = "/var/run/secrets/istio/root-cert.pem"
	token        = "/var/run/secrets/tokens/istio-token"
)

// flags are what the command line and the environment say.
type flags struct {
	program.Program
	cfg     waypoint.Config
	also    string // addresses of key servers
	environ []string
}

// newFlags says nothing yet.
func newFlags() *flags {
	return &flags{Program: program.Program{Name: "waypoint", Version: version}, environ: os.Environ()}
}

const longHelp = `waypoint is the HTTP proxy of a namespace or a service.

What is bound to its Gateway (label istio.io/use-waypoint) is reached through it: it
takes tunnels on --listen, knows the caller by the certificate of the tunnel, applies
routes and policies to each request, and sends it to an endpoint through a tunnel of
its own. Each flag can be given by the environment variable in its description.
AMBIT_MONITOR_AWAKE=off lets the runtime's monitor thread go to deep sleep (less idle
CPU, slower wake-ups); AMBIT_PACE_PROCESSORS=off uses all processors at any load, not
only as many as are kept busy.

Spans of requests in sampled traces go to an OpenTelemetry collector (gRPC) when
OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT names one, as
http(s)://host:port; OTEL_TRACES_SAMPLER_ARG is the share of traces that begin here
which is sampled (default 0.01), OTEL_EXPORTER_OTLP_CERTIFICATE a file of roots.

Exit codes: 0 asked to stop, 1 failed while running, 2 wrong flags or files.`

// command declares the flags.
func (f *flags) command() *cobra.Command {
	cmd := &cobra.Command{
		Use: "waypoint --gateway NAME --pod-namespace NAMESPACE", Short: "the HTTP proxy of a namespace or a service", Long: longHelp,
		Args: cobra.NoArgs, Version: buildinfo.Line("waypoint", version),
		SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.complete(os.LookupEnv); err != nil {
				return err
			}
			return f.serve(cmd.Context())
		},
	}
	cmd.SetVersionTemplate("{{.Version}}\n")
	p := cmd.Flags()
	p.SortFlags = false
	n := &f.cfg.Node
	for _, v := range []struct {
		into                 *string
		name, env, def, help string
	}{
		{&f.cfg.Gateway.Name, "gateway", "GATEWAY_NAME", "", "`NAME` of the Gateway that is served"},
		{&n.PodNamespace, "pod-namespace", "POD_NAMESPACE", "", "`NAMESPACE` of the Gateway and of this pod"},
		{&n.PodName, "pod-name", "POD_NAME", "", "`NAME` of this pod"},
		{&n.ServiceAccount, "service-account", "SERVICE_ACCOUNT", "", "`NAME` of our service account (default: that of the Gateway)"},
		{&n.InstanceIP, "instance-ip", "INSTANCE_IP", "", "`ADDRESS` of this pod"},
		{&n.NodeName, "node", "NODE_NAME", "", "`NAME` of the node"},
		{&n.ClusterID, "cluster-id", "CLUSTER_ID", "Kubernetes", "`ID` of the cluster"},
		{&n.ClusterDomain, "cluster-domain", "CLUSTER_DOMAIN", "cluster.local", "`DOMAIN` of services"},
		{&n.TrustDomain, "trust-domain", "TRUST_DOMAIN", "cluster.local", "`DOMAIN` of identities"},
		{&n.Network, "network", "NETWORK", "", "`ID` of our network"},
		{&f.cfg.XDS.Address, "xds-address", "XDS_ADDRESS", controlPlane, "`URL` of the control plane"},
		{&f.cfg.XDS.RootCA, "xds-root-ca", "XDS_ROOT_CA", rootCA, "`FILE` of its roots"},
		{&f.cfg.XDS.Token, "token", "AUTH_TOKEN", token, "`FILE` of the token that proves who we are"},
		{&f.cfg.CA.Address, "ca-address", "CA_ADDRESS", "", "`URL` of the CA (default: that of the control plane)"},
		{&f.cfg.CA.RootCA, "ca-root-ca", "CA_ROOT_CA", "", "`FILE` of its roots (default: those of the control plane)"},
		{&f.also, "key-servers-also", "KEY_SERVERS_ALSO", "", "`ADDRESSES` (prefixes, with commas between them) from which keys of token issuers may be fetched although they are of loopback, of the link or of a metadata service"},
		{&f.cfg.KeyServers.Roots, "key-server-roots", "KEY_SERVER_ROOTS", "", "`FILE` of certificates that vouch for servers of such keys (default: those of the system, or where it has none those that Mozilla trusts)"},
		{&f.cfg.Listen, "listen", "LISTEN", ":15008", "`ADDRESS` for tunnels"},
		{&f.cfg.Stats, "stats-addr", "STATS_ADDR", ":15020", "`ADDRESS` for metrics, or off"},
		{&f.cfg.Readiness, "readiness-addr", "READINESS_ADDR", ":15021", "`ADDRESS` for the readiness probe, or off"},
	} {
		fromEnvironment(p, v.into, v.name, v.env, v.def, v.help)
	}
	p.BoolVar(&f.cfg.CA.OfNode, "node-token", os.Getenv("AMBIT_NODE_TOKEN") == "true", "the token is that of the node, not of our service account (AMBIT_NODE_TOKEN)")
	p.DurationVar(&f.cfg.Drain, "drain", 5*time.Second, "`TIME` that requests may take after we were asked to stop")
	f.Flags(p, "access, xds, hbone")
	return cmd
}

// fromEnvironment declares a flag whose default is a variable of the environment.
func fromEnvironment(p *pflag.FlagSet, into *string, name, env, def, help string) {
	if value, ok := os.LookupEnv(env); ok {
		def = value
	}
	p.StringVar(into, name, def, fmt.Sprintf("%s (%s)", help, env))
}

// complete fills what follows from the rest, and from variables that have no flag.
func (f *flags) complete(lookup func(string) (string, bool)) (err error) {
	f.cfg.Version = version
	f.cfg.Gateway.Namespace = f.cfg.Node.PodNamespace
	xds, ca := &f.cfg.XDS, &f.cfg.CA
	if ca.Address == "" {
		ca.Address = xds.Address
	}
	if ca.RootCA == "" {
		ca.RootCA = xds.RootCA
	}
	ca.Token = xds.Token
	for _, u := range []*waypoint.Upstream{xds, ca} {
		if !strings.Contains(u.Address, "://") {
			u.Address = "https://" + u.Address
		}
	}
	for text := range strings.SplitSeq(f.also, ",") {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return fmt.Errorf("--key-servers-also: %w", err)
		}
		f.cfg.KeyServers.Also = append(f.cfg.KeyServers.Also, p)
	}
	f.cfg.Tracing, err = tracing.FromEnvironment(lookup, f.cfg.Gateway.Name+"."+f.cfg.Gateway.Namespace)
	return err
}
