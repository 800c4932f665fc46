package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/ambit-mesh/ambit/internal/tracing"
)

// setting is one thing that can be set, by an environment variable or by the
// flag that is named after it.
type setting struct {
	env   string // name of the variable
	def   string // default, as text for people
	help  string
	state support
}

// support says what becomes of a setting. Its zero value means that it works.
type support uint8

const (
	works   support = iota
	ignored         // recognised; has no effect here; said at start when it is set
)

// flag is the name of the command line flag: NODE_NAME is --node-name.
func (s setting) flag() string { return strings.ToLower(strings.ReplaceAll(s.env, "_", "-")) }

// settings lists the variables that a DaemonSet of an existing ambient
// installation may carry, and our own.
var settings = []setting{
	{env: "PROXY_MODE", def: "shared", help: "dedicated: serve only the workload in whose network namespace we run"},
	{env: "PROXY_WORKLOAD_INFO", help: "that workload: namespace/name/service-account"},
	{env: "INPOD_UDS", def: "/var/run/ztunnel/ztunnel.sock", help: "socket of the CNI agent, which hands over pods"},
	{env: "ZTUNNEL_UDS_ADDRESS", help: "older name of INPOD_UDS"},
	{env: "INPOD_PORT_REUSE", def: "true", help: "share the pods' ports with another ztunnel, for upgrades"},
	{env: "PACKET_MARK", def: "1337, none if dedicated", help: "mark on every socket in a pod, by which the rules know us"},
	{env: "NETWORK", help: "network this node is in"},
	{env: "NODE_NAME", help: "name of this node"},
	{env: "CLUSTER_ID", def: "Kubernetes", help: "cluster this node is in"},
	{env: "ISTIO_META_CLUSTER_ID", help: "the same; has priority"},
	{env: "CLUSTER_DOMAIN", def: "cluster.local", help: "DNS domain of the cluster"},
	{env: "TRUST_DOMAIN", def: "cluster.local", help: "trust domain of pods the control plane does not know yet"},
	{env: "POD_NAME", help: "name of our own pod, sent to the control plane"},
	{env: "POD_NAMESPACE", help: "namespace of our own pod, sent to the control plane"},
	{env: "SERVICE_ACCOUNT", help: "service account of our own pod; with both others the mesh reaches our metrics by port 15008"},
	{env: "INSTANCE_IP", help: "address of our own pod, sent to the control plane"},
	{env: "XDS_ADDRESS", def: "https://istiod.istio-system.svc:15012 in a cluster, else https://localhost:15012", help: "where to learn of workloads and policies"},
	{env: "CA_ADDRESS", def: "as XDS_ADDRESS", help: "where certificates are signed"},
	{env: "XDS_ROOT_CA", def: "./var/run/secrets/istio/root-cert.pem", help: "whom to trust there: a path, SYSTEM, or PEM text"},
	{env: "CA_ROOT_CA", def: "./var/run/secrets/istio/root-cert.pem", help: "whom to trust there: a path, SYSTEM, or PEM text"},
	{env: "ALT_XDS_HOSTNAME", help: "name to expect in the control plane's certificate"},
	{env: "ALT_CA_HOSTNAME", help: "name to expect in the CA's certificate"},
	{env: "AUTH_TOKEN", def: "./var/run/secrets/tokens/istio-token if it exists", help: "a path, or the token itself"},
	{env: "SECRET_TTL", def: "86400s", help: "life time to ask for in certificates"},
	{env: "POOL_MAX_STREAMS_PER_CONNECTION", def: "100", help: "streams on one tunnel connection"},
	{env: "POOL_UNUSED_RELEASE_TIMEOUT", def: "300s", help: "keep an unused tunnel connection so long"},
	{env: "HTTP2_STREAM_WINDOW_SIZE", def: "4194304", help: "bytes a peer may send ahead on one stream"},
	{env: "HTTP2_CONNECTION_WINDOW_SIZE", def: "16777216", help: "bytes a peer may send ahead on one connection"},
	{env: "HTTP2_FRAME_SIZE", def: "1048576", help: "largest frame we take, in bytes"},
	{env: "CONNECTION_TERMINATION_DEADLINE", help: "let connections go on so long when we are asked to end"},
	{env: "TERMINATION_GRACE_PERIOD_SECONDS", help: "the same, less 5 s, in seconds, when the other is not set"},
	{env: "KEEPALIVE_ENABLED", def: "true", help: "TCP keep-alive on the sockets of applications"},
	{env: "KEEPALIVE_TIME", def: "180s", help: "idle time before the first probe"},
	{env: "KEEPALIVE_INTERVAL", def: "180s", help: "time between probes"},
	{env: "KEEPALIVE_RETRIES", def: "9", help: "probes without an answer before giving up"},
	{env: "USER_TIMEOUT_ENABLED", def: "false", help: "give up too when what was sent stays unacknowledged for as long as all probes take"},
	{env: "ENABLE_ORIG_SRC", help: "false: applications see the pod itself as their client, which needs no privilege; true: no start without the privilege to show them the client"},
	{env: "IPV6_ENABLED", def: "true", help: "listen on IPv6 too"},
	{env: "LOCALHOST_APP_TUNNEL", def: "true", help: "reach applications that read the PROXY header over loopback"},
	{env: "ENABLE_RESPONSE_BAGGAGE", def: "true", help: "tell callers about the destination"},
	{env: "ISTIO_META_DNS_CAPTURE", def: "true", help: "false: do not answer pods' DNS questions; switch their capture off in the CNI agent too"},
	{env: "ISTIO_META_DNS_PROXY_ADDR", def: "localhost:15053", help: "where in each pod its DNS questions are sent"},
	{env: "PREFERED_SERVICE_NAMESPACE", help: "whose service counts when a name has several, none of the client's namespace and none of Kubernetes"},
	{env: "ZTUNNEL_WORKER_THREADS", help: "n, n% of the cores, or 0 for all of them"},
	{env: "ZTUNNEL_CPU_LIMIT", help: "count so many cores instead of those of the machine"},
	{env: "ZTUNNEL_RESOURCE_CPU_LIMIT", help: "no more workers than this many cores"},
	{env: "ZTUNNEL_RESOURCE_CPU_REQUEST", help: "at least as many workers as this many cores"},
	{env: "PROXY_CONFIG", help: "YAML: discoveryAddress, proxyAdminPort, statsPort, concurrency, proxyMetadata"},
	{env: "RUST_LOG", def: "info", help: "log levels: info or info,access=debug"},
	{env: "LOG_FORMAT", def: "plain", help: "plain or json"},
	{env: "ADMIN_ADDR", def: "localhost:15000", help: "administration; keep it on loopback"},
	{env: "STATS_ADDR", def: ":15020", help: "Prometheus metrics"},
	{env: "READINESS_ADDR", def: ":15021", help: "readiness"},
	{env: tracing.EnvEndpoint, help: "http(s)://host:port of an OpenTelemetry collector (gRPC): connections in sampled traces become spans; without it there are none"},
	{env: tracing.EnvTraces, help: "the same, for traces only; has priority"},
	{env: tracing.EnvProtocol, def: "grpc", help: "grpc is the only one"},
	{env: tracing.EnvCertificate, def: "those of the system", help: "file of the roots to trust there"},
	{env: tracing.EnvSampler, def: "parentbased_traceidratio", help: "or parentbased_always_on, parentbased_always_off: of traces that begin here"},
	{env: tracing.EnvSamplerArg, def: "0.01", help: "share of the traces that begin here which is sampled, 0 to 1"},
	{env: tracing.EnvService, def: "ztunnel", help: "what we call ourselves there"},
	{env: tracing.EnvDisabled, def: "false", help: "true: no spans, whatever else is said"},
	{env: "AMBIT_SOCKET_OWNER", def: "/var/run/ztunnel/sockets.sock", help: "where the CNI agent says whether a plaintext caller is the kubelet; off: policy alone decides about probes"},
	{env: "AMBIT_LOCAL_PATH", def: "on", help: "off: encrypt between two pods of this node too"},
	{env: "AMBIT_OWN_RECORDS", def: "on", help: "off: crypto/tls does the records of tunnels, as in FIPS mode (slower)"},
	{env: "AMBIT_PROVE_AFTER", def: "30s", help: "how long connections may begin on a tunnel that stands before another is made to see whether a NetworkPolicy still lets it"},
	{env: "AMBIT_PACE_PROCESSORS", def: "on", help: "off: use all worker threads at any load, not only as many as are kept busy"},
	{env: "AMBIT_MONITOR_AWAKE", def: "on", help: "off: let the runtime's monitor thread go to deep sleep (less idle CPU, slower wake-ups)"},

	{env: "ENABLE_PROXY", state: ignored, help: "a process for DNS alone"},
	{env: "XDS_ON_DEMAND", state: ignored, help: "the whole picture is always fetched"},
	{env: "LOCAL_XDS", state: ignored, help: "start istiod-lite --config-dir instead"},
	{env: "LOCAL_XDS_PATH", state: ignored, help: "start istiod-lite --config-dir instead"},
	{env: "FAKE_CA", state: ignored, help: "certificates always come from the CA"},
	{env: "CRL_PATH", state: ignored, help: "revocation lists are not read: a revoked certificate is taken until it expires"},
	{env: "TLS12_ENABLED", state: ignored, help: "TLS 1.3 only"},
	{env: "COMPLIANCE_POLICY", state: ignored, help: "X25519MLKEM768 is preferred, not demanded"},
	{env: "UNSTABLE_ENABLE_SOCKS5", state: ignored, help: "no SOCKS5 proxy"},
	{env: "AUTHZ_POLICY_INFO_LOGGING", state: ignored, help: "the deciding rule is in each access log line"},
}

// printSettings writes the table of settings for --help.
func printSettings(w io.Writer) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "FLAG\tVARIABLE\tDEFAULT\tMEANING")
	for _, s := range settings {
		if s.state == works {
			fmt.Fprintf(tw, "--%s\t%s\t%s\t%s\n", s.flag(), s.env, s.def, s.help)
		}
	}
	fmt.Fprintln(tw, "\nRecognised, without effect (said at start when set):\t\t\t")
	for _, s := range settings {
		if s.state == ignored {
			fmt.Fprintf(tw, "--%s\t%s\t\t%s\n", s.flag(), s.env, s.help)
		}
	}
	fmt.Fprintln(tw, "\nXDS_HEADER_<name> and CA_HEADER_<name> add gRPC metadata.\t\t\t")
	tw.Flush()
}
