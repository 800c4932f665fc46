package main

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/internal/tracing"
	"github.com/ambit-mesh/ambit/ztunnel"
)

// Where things are when nothing says otherwise, as in the ambient ecosystem.
const (
	inClusterControlPlane = "https://istiod.istio-system.svc:15012"
	localControlPlane     = "https://localhost:15012"
	defaultRootCA         = "./var/run/secrets/istio/root-cert.pem"
	defaultToken          = "./var/run/secrets/tokens/istio-token"
	meshConfigFile        = "./etc/istio/config/mesh"
)

// world is what the settings are read from. Tests make their own.
type world struct {
	env   map[string]string                 // variables; a flag overwrites its variable
	file  func(path string) ([]byte, error) // os.ReadFile
	cores int                               // runtime.NumCPU
	quota int                               // those that the cgroup lets us use: runtime.GOMAXPROCS at start
}

// options are the settings that act on the process rather than on the proxy.
type options struct {
	logLevel string
	logJSON  bool
	threads  int  // GOMAXPROCS, at most
	pace     bool // no more than are kept busy
	awake    bool
	warnings []string // settings that are set and have no effect
}

// proxyConfig is the part of an existing installation's ProxyConfig that we
// understand.
type proxyConfig struct {
	DiscoveryAddress string            `json:"discoveryAddress"`
	ProxyAdminPort   int               `json:"proxyAdminPort"`
	StatsPort        int               `json:"statsPort"`
	Concurrency      *int              `json:"concurrency"`
	ProxyMetadata    map[string]string `json:"proxyMetadata"`
}

// reader takes settings out of a world and remembers every complaint, so that
// a person sees all of them at once.
type reader struct {
	world
	seen map[string]string // effective values, for config_dump
	errs []error
}

// load turns the settings of w into a Config.
func load(w world) (ztunnel.Config, options, error) {
	r := &reader{world: w, seen: map[string]string{}}
	pc := r.proxyConfig()
	for k, v := range pc.ProxyMetadata {
		if _, set := r.env[k]; !set {
			r.env[k] = v
		}
	}
	dedicated := r.dedicated()
	cfg := ztunnel.Config{
		Node:      r.node(),
		Dedicated: dedicated,
		Capture:   r.capture(dedicated),
		Tunnel:    r.tunnel(),
		DNS:       r.dns(),
		Drain:     r.drain(),
		Listen:    r.listen(pc),
	}
	cfg.XDS, cfg.CA = r.upstreams(pc)
	cfg.Tracing = r.tracing()
	opt := options{
		logLevel: r.text("RUST_LOG", "info"),
		logJSON:  r.oneOf("LOG_FORMAT", "plain", "json") == "json",
		threads:  r.threads(pc),
		pace:     r.onOff("AMBIT_PACE_PROCESSORS", true),
		awake:    r.onOff("AMBIT_MONITOR_AWAKE", true),
		warnings: r.warnings(),
	}
	cfg.Settings = r.seen
	return cfg, opt, errors.Join(r.errs...)
}

// tracing reads where spans go.
func (r *reader) tracing() tracing.Config {
	cfg, err := tracing.FromEnvironment(func(name string) (string, bool) {
		v := r.text(name, "")
		return v, v != ""
	}, "ztunnel")
	if err != nil {
		r.errs = append(r.errs, err)
	}
	if node := r.env["NODE_NAME"]; cfg.Endpoint != "" && node != "" {
		cfg.Resource = append(cfg.Resource, tracing.Attr{Key: "k8s.node.name", Text: node})
	}
	return cfg
}

// proxyConfig reads the mesh file, then lays PROXY_CONFIG over it.
func (r *reader) proxyConfig() proxyConfig {
	var mesh struct {
		DefaultConfig proxyConfig `json:"defaultConfig"`
	}
	if text, err := r.file(meshConfigFile); err == nil {
		if err := yaml.Unmarshal(text, &mesh); err != nil {
			r.errs = append(r.errs, fmt.Errorf("%s: %w", meshConfigFile, err))
		}
	}
	pc := mesh.DefaultConfig
	if text := r.env["PROXY_CONFIG"]; text != "" {
		if err := yaml.Unmarshal([]byte(text), &pc); err != nil {
			r.errs = append(r.errs, fmt.Errorf("PROXY_CONFIG: %w", err))
		}
	}
	return pc
}

func (r *reader) node() ztunnel.Node {
	return ztunnel.Node{
		Name:           r.text("NODE_NAME", ""),
		PodName:        r.text("POD_NAME", ""),
		PodNamespace:   r.text("POD_NAMESPACE", ""),
		ServiceAccount: r.text("SERVICE_ACCOUNT", ""),
		InstanceIP:     r.text("INSTANCE_IP", ""),
		ClusterID:      cmp.Or(r.text("ISTIO_META_CLUSTER_ID", ""), r.text("CLUSTER_ID", "Kubernetes")),
		ClusterDomain:  r.text("CLUSTER_DOMAIN", "cluster.local"),
		TrustDomain:    r.text("TRUST_DOMAIN", "cluster.local"),
		Network:        r.text("NETWORK", ""),
	}
}

// upstreams reads where the control plane and the CA are.
func (r *reader) upstreams(pc proxyConfig) (xds, ca ztunnel.Upstream) {
	def := localControlPlane
	if r.env["KUBERNETES_SERVICE_HOST"] != "" {
		def = inClusterControlPlane
	}
	def = withScheme(cmp.Or(pc.DiscoveryAddress, def))
	token := r.text("AUTH_TOKEN", "")
	if _, err := r.file(defaultToken); token == "" && err == nil {
		token = defaultToken
	}
	xds = ztunnel.Upstream{
		Address:    withScheme(r.text("XDS_ADDRESS", def)),
		RootCA:     r.text("XDS_ROOT_CA", defaultRootCA),
		ServerName: r.text("ALT_XDS_HOSTNAME", ""),
		Token:      token,
		Headers:    r.headers("XDS_HEADER_"),
	}
	ca = ztunnel.Upstream{
		Address:    withScheme(r.text("CA_ADDRESS", def)),
		RootCA:     r.text("CA_ROOT_CA", defaultRootCA),
		ServerName: r.text("ALT_CA_HOSTNAME", ""),
		Token:      token,
		Headers:    r.headers("CA_HEADER_"),
		SecretTTL:  r.duration("SECRET_TTL", 24*time.Hour),
	}
	delete(r.seen, "AUTH_TOKEN") // may hold the token itself
	return xds, ca
}

// withScheme adds https:// where a scheme is missing.
func withScheme(address string) string {
	if address == "" || strings.Contains(address, "://") {
		return address
	}
	return "https://" + address
}

// headers collects PREFIX<name>=value. Names become lower case, as gRPC
// metadata is.
func (r *reader) headers(prefix string) map[string]string {
	var out map[string]string
	for k, v := range r.env {
		name, ok := strings.CutPrefix(k, prefix)
		if !ok {
			continue
		}
		name = strings.ToLower(name)
		if !validMetadataKey(name) {
			r.errs = append(r.errs, fmt.Errorf("%s: %q is not a name of gRPC metadata", k, name))
			continue
		}
		if !validMetadataValue(name, v) {
			r.errs = append(r.errs, fmt.Errorf("%s: %q: gRPC metadata is printable ASCII, unless its name ends in -bin", k, v))
			continue
		}
		if out == nil {
			out = map[string]string{}
		}
		out[name] = v
	}
	return out
}

// validMetadataKey reports whether gRPC takes name as a metadata key.
// Source: gRPC over HTTP/2, Custom-Metadata.
func validMetadataKey(name string) bool {
	if name == "" || strings.HasPrefix(name, "grpc-") {
		return false
	}
	for _, c := range name {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.') {
			return false
		}
	}
	return true
}

// validMetadataValue reports whether gRPC takes value under that name.
// Source: gRPC over HTTP/2, Custom-Metadata.
func validMetadataValue(name, value string) bool {
	if strings.HasSuffix(name, "-bin") {
		return true // sent as base64
	}
	for _, c := range []byte(value) {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

// dedicated reads which workload we serve alone; the zero one in shared mode.
func (r *reader) dedicated() ztunnel.Workload {
	const form = "want namespace/name/service-account"
	text := r.text("PROXY_WORKLOAD_INFO", "")
	if r.oneOf("PROXY_MODE", "shared", "dedicated") == "shared" {
		return ztunnel.Workload{}
	}
	parts := strings.Split(text, "/")
	if len(parts) != 3 || slices.Contains(parts, "") {
		r.errs = append(r.errs, fmt.Errorf("PROXY_WORKLOAD_INFO is %q in dedicated mode, %s", text, form))
		return ztunnel.Workload{}
	}
	return ztunnel.Workload{Namespace: parts[0], Name: parts[1], ServiceAccount: parts[2]}
}

// source reads which address applications see of their clients.
func (r *reader) source() ztunnel.Source {
	switch {
	case r.env["ENABLE_ORIG_SRC"] == "":
		return ztunnel.SourceClient
	case r.boolean("ENABLE_ORIG_SRC", true):
		return ztunnel.SourceAlways
	default:
		return ztunnel.SourceNever
	}
}

func (r *reader) capture(dedicated ztunnel.Workload) ztunnel.Capture {
	def := int64(ztunnel.DefaultMark)
	if !dedicated.IsZero() {
		def = 0 // the rules around a workload of its own may know us otherwise
	}
	owners := r.text("AMBIT_SOCKET_OWNER", "/var/run/ztunnel/sockets.sock")
	if strings.EqualFold(owners, "off") {
		owners = ""
	}
	mark := r.integer("PACKET_MARK", def, 1, math.MaxUint32)
	return ztunnel.Capture{
		ZDSSocket:   cmp.Or(r.text("INPOD_UDS", ""), r.text("ZTUNNEL_UDS_ADDRESS", "/var/run/ztunnel/ztunnel.sock")),
		OwnerSocket: owners,
		Mark:        uint32(mark),
		Source:      r.source(),
		Exclusive:   !r.boolean("INPOD_PORT_REUSE", true),
		IPv4Only:    !r.boolean("IPV6_ENABLED", true),
		KeepAlive: ztunnel.KeepAlive{
			Off:         !r.boolean("KEEPALIVE_ENABLED", true),
			Idle:        r.duration("KEEPALIVE_TIME", 180*time.Second),
			Interval:    r.duration("KEEPALIVE_INTERVAL", 180*time.Second),
			Probes:      int(r.integer("KEEPALIVE_RETRIES", 9, 1, 127)),
			UserTimeout: r.boolean("USER_TIMEOUT_ENABLED", false),
		},
		AppTunnelByAddress: !r.boolean("LOCALHOST_APP_TUNNEL", true),
	}
}

func (r *reader) tunnel() ztunnel.Tunnel {
	return ztunnel.Tunnel{
		MaxStreams:           int(r.integer("POOL_MAX_STREAMS_PER_CONNECTION", 100, 1, 1<<20)),
		UnusedRelease:        r.duration("POOL_UNUSED_RELEASE_TIMEOUT", 300*time.Second),
		ProveAfter:           r.duration("AMBIT_PROVE_AFTER", 30*time.Second),
		StreamWindow:         int(r.integer("HTTP2_STREAM_WINDOW_SIZE", 4<<20, 65535, math.MaxInt32)),
		ConnectionWindow:     int(r.integer("HTTP2_CONNECTION_WINDOW_SIZE", 16<<20, 65535, math.MaxInt32)),
		FrameSize:            int(r.integer("HTTP2_FRAME_SIZE", 1<<20, 1<<14, 1<<24-1)),
		EncryptLocal:         !r.onOff("AMBIT_LOCAL_PATH", true),
		StdRecords:           !r.onOff("AMBIT_OWN_RECORDS", true),
		WithoutResponseHints: !r.boolean("ENABLE_RESPONSE_BAGGAGE", true),
	}
}

// dns reads how pods' DNS questions are answered.
func (r *reader) dns() ztunnel.DNS {
	d := ztunnel.DNS{
		Off:                !r.boolean("ISTIO_META_DNS_CAPTURE", true),
		PreferredNamespace: r.text("PREFERED_SERVICE_NAMESPACE", ""),
	}
	text := r.text("ISTIO_META_DNS_PROXY_ADDR", "localhost:15053")
	host, portText, err := net.SplitHostPort(text)
	port, perr := strconv.ParseUint(portText, 10, 16)
	if err != nil || perr != nil || port == 0 || (host != "localhost" && host != "127.0.0.1") {
		r.errs = append(r.errs, fmt.Errorf("ISTIO_META_DNS_PROXY_ADDR is %q, want localhost and a port: it is opened inside each pod", text))
		return d
	}
	d.Port = uint16(port)
	return d
}

// drain reads how long connections may go on when we are asked to end.
func (r *reader) drain() time.Duration {
	if d := r.duration("CONNECTION_TERMINATION_DEADLINE", 0); d > 0 {
		return d
	}
	if grace := r.integer("TERMINATION_GRACE_PERIOD_SECONDS", 0, 0, 1<<20); grace > 0 {
		return ztunnel.DrainFromGrace(time.Duration(grace) * time.Second)
	}
	return ztunnel.DefaultDrain
}

func (r *reader) listen(pc proxyConfig) ztunnel.Listen {
	admin, stats := "localhost:15000", ":15020"
	if pc.ProxyAdminPort != 0 {
		admin = "localhost:" + strconv.Itoa(pc.ProxyAdminPort)
	}
	if pc.StatsPort != 0 {
		stats = ":" + strconv.Itoa(pc.StatsPort)
	}
	return ztunnel.Listen{
		Admin:     r.text("ADMIN_ADDR", admin),
		Stats:     r.text("STATS_ADDR", stats),
		Readiness: r.text("READINESS_ADDR", ":15021"),
	}
}

// warnings names what is set and has no effect.
func (r *reader) warnings() []string {
	var out []string
	for _, s := range settings {
		if v, set := r.env[s.env]; set && v != "" && s.state == ignored {
			out = append(out, fmt.Sprintf("%s=%s has no effect: %s", s.env, v, s.help))
		}
	}
	if v := r.env["PROXY_WORKLOAD_INFO"]; v != "" && !strings.EqualFold(r.env["PROXY_MODE"], "dedicated") {
		out = append(out, fmt.Sprintf("PROXY_WORKLOAD_INFO=%s has no effect: PROXY_MODE is not dedicated", v))
	}
	return out
}

// osWorld is the world of this process.
func osWorld(environ []string, cores, quota int) world {
	env := make(map[string]string, len(environ))
	for _, kv := range environ {
		if k, v, ok := strings.Cut(kv, "="); ok {
			env[k] = v
		}
	}
	return world{env: env, file: os.ReadFile, cores: cores, quota: quota}
}
