package main

import (
	"io/fs"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/ztunnel"
)

// worldOf is a world with these variables and files, and eight cores.
func worldOf(env, files map[string]string) world {
	if env == nil {
		env = map[string]string{}
	}
	return world{env: maps.Clone(env), cores: 8, file: func(path string) ([]byte, error) {
		if text, ok := files[path]; ok {
			return []byte(text), nil
		}
		return nil, fs.ErrNotExist
	}}
}

// mustLoad loads settings that have nothing wrong.
func mustLoad(t *testing.T, w world) (ztunnel.Config, options) {
	t.Helper()
	cfg, opt, err := load(w)
	if err != nil {
		t.Fatal(err)
	}
	return cfg, opt
}

func TestDefaults(t *testing.T) {
	cfg, opt := mustLoad(t, worldOf(nil, nil))
	if want := "https://localhost:15012"; cfg.XDS.Address != want || cfg.CA.Address != want {
		t.Errorf("control plane at %q and %q, want %q", cfg.XDS.Address, cfg.CA.Address, want)
	}
	if cfg.Node.ClusterID != "Kubernetes" || cfg.Node.TrustDomain != "cluster.local" || cfg.Capture.Mark != 1337 {
		t.Errorf("defaults are %+v, %+v", cfg.Node, cfg.Capture)
	}
	if cfg.Tunnel.MaxStreams != 100 || cfg.Tunnel.FrameSize != 1<<20 || cfg.Tunnel.EncryptLocal {
		t.Errorf("tunnel defaults are %+v", cfg.Tunnel)
	}
	if cfg.Drain != 5*time.Second || cfg.CA.SecretTTL != 24*time.Hour {
		t.Errorf("drain %v and TTL %v, want 5s and 24h", cfg.Drain, cfg.CA.SecretTTL)
	}
	if opt.logLevel != "info" || opt.logJSON || opt.threads != 2 || len(opt.warnings) > 0 {
		t.Errorf("options are %+v", opt)
	}
}

// The environment of a DaemonSet of an existing installation, as its chart
// writes it.
func TestExistingDaemonSet(t *testing.T) {
	cfg, opt := mustLoad(t, worldOf(map[string]string{
		"CA_ADDRESS": "istiod.istio-system.svc:15012", "XDS_ADDRESS": "istiod.istio-system.svc:15012",
		"RUST_LOG": "info", "RUST_BACKTRACE": "1", "ISTIO_META_CLUSTER_ID": "east", "INPOD_ENABLED": "true",
		"TERMINATION_GRACE_PERIOD_SECONDS": "30", "POD_NAME": "ztunnel-x", "POD_NAMESPACE": "istio-system",
		"NODE_NAME": "n1", "INSTANCE_IP": "10.0.0.9", "SERVICE_ACCOUNT": "ztunnel", "ISTIO_META_ENABLE_HBONE": "true",
		"KUBERNETES_SERVICE_HOST": "10.96.0.1", "ZTUNNEL_CPU_LIMIT": "4",
	}, map[string]string{defaultToken: "token"}))
	if want := "https://istiod.istio-system.svc:15012"; cfg.XDS.Address != want || cfg.CA.Address != want {
		t.Errorf("control plane at %q and %q, want %q", cfg.XDS.Address, cfg.CA.Address, want)
	}
	if cfg.XDS.Token != defaultToken || cfg.Node.ClusterID != "east" || cfg.Node.Name != "n1" {
		t.Errorf("token %q, node %+v", cfg.XDS.Token, cfg.Node)
	}
	if cfg.Drain != 25*time.Second || len(opt.warnings) != 0 {
		t.Errorf("drain %v, warnings %q; want 25s and none", cfg.Drain, opt.warnings)
	}
}

func TestTerminationDeadline(t *testing.T) {
	tests := []struct {
		name string
		env  map[string]string
		want time.Duration
	}{
		{name: "nothing set: 5s", want: 5 * time.Second},
		{name: "grace of 30s: less 5s", env: map[string]string{"TERMINATION_GRACE_PERIOD_SECONDS": "30"}, want: 25 * time.Second},
		{name: "grace of 11s: less 5s", env: map[string]string{"TERMINATION_GRACE_PERIOD_SECONDS": "11"}, want: 6 * time.Second},
		{name: "grace of 10s: less 1s", env: map[string]string{"TERMINATION_GRACE_PERIOD_SECONDS": "10"}, want: 9 * time.Second},
		{name: "grace of 1s: 1s", env: map[string]string{"TERMINATION_GRACE_PERIOD_SECONDS": "1"}, want: time.Second},
		{
			name: "the deadline has priority",
			env:  map[string]string{"TERMINATION_GRACE_PERIOD_SECONDS": "30", "CONNECTION_TERMINATION_DEADLINE": "2m"},
			want: 2 * time.Minute,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if cfg, _ := mustLoad(t, worldOf(tt.env, nil)); cfg.Drain != tt.want {
				t.Errorf("drain = %v, want %v", cfg.Drain, tt.want)
			}
		})
	}
}

func TestWorkerThreads(t *testing.T) {
	tests := []struct {
		name string
		env  map[string]string
		want int
	}{
		{name: "default: a quarter of the cores", want: 2},
		{name: "a number", env: map[string]string{"ZTUNNEL_WORKER_THREADS": "3"}, want: 3},
		{name: "zero: all cores", env: map[string]string{"ZTUNNEL_WORKER_THREADS": "0"}, want: 8},
		{name: "a percentage", env: map[string]string{"ZTUNNEL_WORKER_THREADS": "50%"}, want: 4},
		{name: "a small percentage: at least one", env: map[string]string{"ZTUNNEL_WORKER_THREADS": "1%"}, want: 1},
		{name: "a percentage of the limit", env: map[string]string{"ZTUNNEL_WORKER_THREADS": "50%", "ZTUNNEL_CPU_LIMIT": "4"}, want: 2},
		{name: "at least the request", env: map[string]string{"ZTUNNEL_RESOURCE_CPU_REQUEST": "3500m"}, want: 4},
		{name: "at most the limit", env: map[string]string{"ZTUNNEL_RESOURCE_CPU_LIMIT": "1"}, want: 1},
		{name: "concurrency of the proxy configuration", env: map[string]string{"PROXY_CONFIG": "concurrency: 5"}, want: 5},
		{name: "concurrency zero: all cores", env: map[string]string{"PROXY_CONFIG": "concurrency: 0"}, want: 8},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, opt := mustLoad(t, worldOf(tt.env, nil)); opt.threads != tt.want {
				t.Errorf("threads = %d, want %d", opt.threads, tt.want)
			}
		})
	}
}

// The mesh file, then PROXY_CONFIG over it, then a variable over both.
func TestProxyConfigMergeOrder(t *testing.T) {
	files := map[string]string{meshConfigFile: "defaultConfig: {discoveryAddress: 'mesh:1', statsPort: 1, proxyMetadata: {NODE_NAME: mesh, NETWORK: mesh}}"}
	env := map[string]string{"PROXY_CONFIG": "{discoveryAddress: 'proxy:2', proxyMetadata: {NETWORK: proxy}}"}
	cfg, _ := mustLoad(t, worldOf(env, files))
	if cfg.XDS.Address != "https://proxy:2" || cfg.Listen.Stats != ":1" || cfg.Node.Name != "mesh" || cfg.Node.Network != "proxy" {
		t.Errorf("merged to %+v, %+v, %+v", cfg.XDS, cfg.Listen, cfg.Node)
	}
	env["XDS_ADDRESS"], env["NETWORK"] = "env:3", "env"
	cfg, _ = mustLoad(t, worldOf(env, files))
	if cfg.XDS.Address != "https://env:3" || cfg.CA.Address != "https://proxy:2" || cfg.Node.Network != "env" {
		t.Errorf("with variables merged to %+v, %+v, %+v", cfg.XDS, cfg.CA, cfg.Node)
	}
}

func TestHeaderEnvParsing(t *testing.T) {
	cfg, _ := mustLoad(t, worldOf(map[string]string{
		"XDS_HEADER_HEADER_FOO": "foo", "XDS_HEADER_header-bar": "bar", "CA_HEADER_X": "only the CA",
	}, nil))
	want := map[string]string{"header_foo": "foo", "header-bar": "bar"}
	if !maps.Equal(cfg.XDS.Headers, want) || cfg.CA.Headers["x"] != "only the CA" || len(cfg.CA.Headers) != 1 {
		t.Errorf("headers are %v and %v, want %v", cfg.XDS.Headers, cfg.CA.Headers, want)
	}
	for _, bad := range []string{"XDS_HEADER_", "XDS_HEADER_A B", "XDS_HEADER_GRPC-TIMEOUT"} {
		if _, _, err := load(worldOf(map[string]string{bad: "x"}, nil)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	for _, bad := range []string{"two\r\nlines: x", "\x00", "é"} {
		if _, _, err := load(worldOf(map[string]string{"CA_HEADER_X": bad}, nil)); err == nil || !strings.Contains(err.Error(), "CA_HEADER_X") {
			t.Errorf("value %q: %v, want an error that names the variable", bad, err)
		}
	}
}

// A bad value gets an error that names the variable; all of them at once.
func TestBadValues(t *testing.T) {
	bad := map[string]string{
		"PACKET_MARK": "0", "SECRET_TTL": "1 day", "INPOD_PORT_REUSE": "perhaps", "LOG_FORMAT": "xml",
		"HTTP2_FRAME_SIZE": "1", "ZTUNNEL_WORKER_THREADS": "many", "PROXY_MODE": "sidecar", "ENABLE_ORIG_SRC": "sometimes", "AMBIT_LOCAL_PATH": "yes",
		"ZTUNNEL_RESOURCE_CPU_LIMIT": "NaN", "PROXY_CONFIG": "{", "KEEPALIVE_TIME": "-5s",
	}
	_, _, err := load(worldOf(bad, nil))
	if err == nil {
		t.Fatal("all of them were taken")
	}
	for name := range bad {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("no word about %s in: %v", name, err)
		}
	}
}

// One workload, no mark of ours unless it is asked for, and an error for what is
// not one workload.
func TestDedicated(t *testing.T) {
	tests := []struct {
		name string
		env  map[string]string
		want ztunnel.Workload
		mark uint32
		bad  bool
	}{
		{name: "shared", want: ztunnel.Workload{}, mark: 1337},
		{
			name: "dedicated", env: map[string]string{"PROXY_MODE": "dedicated", "PROXY_WORKLOAD_INFO": "shop/web-1/web"},
			want: ztunnel.Workload{Namespace: "shop", Name: "web-1", ServiceAccount: "web"},
		},
		{
			name: "dedicated with a mark", want: ztunnel.Workload{Namespace: "shop", Name: "web-1", ServiceAccount: "web"}, mark: 7,
			env: map[string]string{"PROXY_MODE": "Dedicated", "PROXY_WORKLOAD_INFO": "shop/web-1/web", "PACKET_MARK": "7"},
		},
		{name: "no workload", env: map[string]string{"PROXY_MODE": "dedicated"}, bad: true},
		{name: "two parts", env: map[string]string{"PROXY_MODE": "dedicated", "PROXY_WORKLOAD_INFO": "shop/web-1"}, bad: true},
		{name: "four parts", env: map[string]string{"PROXY_MODE": "dedicated", "PROXY_WORKLOAD_INFO": "shop/web-1/web/x"}, bad: true},
		{name: "an empty part", env: map[string]string{"PROXY_MODE": "dedicated", "PROXY_WORKLOAD_INFO": "shop//web"}, bad: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg, _, err := load(worldOf(tt.env, nil))
			if tt.bad {
				if err == nil || !strings.Contains(err.Error(), "PROXY_WORKLOAD_INFO") {
					t.Errorf("error %v, want one about PROXY_WORKLOAD_INFO", err)
				}
				return
			}
			if err != nil || cfg.Dedicated != tt.want || cfg.Capture.Mark != tt.mark {
				t.Errorf("workload %+v, mark %d, error %v; want %+v and %d", cfg.Dedicated, cfg.Capture.Mark, err, tt.want, tt.mark)
			}
		})
	}
}

func TestOriginalSource(t *testing.T) {
	for value, want := range map[string]ztunnel.Source{
		"": ztunnel.SourceClient, "true": ztunnel.SourceAlways, "false": ztunnel.SourceNever,
	} {
		if cfg, _ := mustLoad(t, worldOf(map[string]string{"ENABLE_ORIG_SRC": value}, nil)); cfg.Capture.Source != want {
			t.Errorf("ENABLE_ORIG_SRC=%q is %v, want %v", value, cfg.Capture.Source, want)
		}
	}
}

// What is recognised and has no effect is said.
func TestWarnings(t *testing.T) {
	_, opt := mustLoad(t, worldOf(map[string]string{"CRL_PATH": "/crl", "FAKE_CA": "true", "TLS12_ENABLED": ""}, nil))
	if text := strings.Join(opt.warnings, "\n"); len(opt.warnings) != 2 || !strings.Contains(text, "CRL_PATH=/crl") || !strings.Contains(text, "FAKE_CA") {
		t.Errorf("warnings: %q, want those of CRL_PATH and FAKE_CA", opt.warnings)
	}
}

// What of the lists of an existing ztunnel has no place here is named at start,
// with what to do instead.
func TestWarningsNameWhatToDoInstead(t *testing.T) {
	tests := []struct{ name, variable, hint string }{
		{"local client", "LOCAL_XDS_PATH", "istiod-lite --config-dir"},
		{"on-demand fetch", "XDS_ON_DEMAND", "the whole picture is always fetched"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, opt := mustLoad(t, worldOf(map[string]string{tt.variable: "true"}, nil))
			if len(opt.warnings) != 1 || !strings.Contains(opt.warnings[0], tt.variable) || !strings.Contains(opt.warnings[0], tt.hint) {
				t.Errorf("warnings: %q, want one about %s with %q", opt.warnings, tt.variable, tt.hint)
			}
		})
	}
}

// A token never shows in the settings of config_dump.
func TestTokenIsNotShown(t *testing.T) {
	cfg, _ := mustLoad(t, worldOf(map[string]string{"AUTH_TOKEN": "hush"}, nil))
	for k, v := range cfg.Settings {
		if strings.Contains(v, "hush") {
			t.Errorf("%s shows the token", k)
		}
	}
	if cfg.XDS.Token != "hush" {
		t.Errorf("token = %q", cfg.XDS.Token)
	}
}

func TestFlagsOverwriteVariables(t *testing.T) {
	env := map[string]string{"NODE_NAME": "env", "NETWORK": "env"}
	if err := parseFlags([]string{"--node-name=flag", "--ambit-local-path", "off", "--ambit-own-records=off"}, env); err != nil {
		t.Fatal(err)
	}
	cfg, _ := mustLoad(t, worldOf(env, nil))
	if cfg.Node.Name != "flag" || cfg.Node.Network != "env" || !cfg.Tunnel.EncryptLocal || !cfg.Tunnel.StdRecords {
		t.Errorf("node %+v, tunnel %+v", cfg.Node, cfg.Tunnel)
	}
	for _, args := range [][]string{{"--no-such-flag"}, {"word"}} {
		if parseFlags(args, env) == nil {
			t.Errorf("%q were taken", args)
		}
	}
	if err := parseFlags([]string{"proxy", "ztunnel"}, env); err != nil {
		t.Errorf("the arguments of an existing DaemonSet: %v", err)
	}
}

// Whatever the variables hold, load does not panic, and what it takes is within
// bounds.
func FuzzLoad(f *testing.F) {
	f.Add("SECRET_TTL", "1h", "PROXY_CONFIG", "concurrency: 3")
	f.Add("ZTUNNEL_WORKER_THREADS", "1e9%", "ZTUNNEL_CPU_LIMIT", "99999999999")
	f.Add("XDS_HEADER_X-Team", "mesh", "CA_HEADER_", "x")
	f.Add("XDS_HEADER_a\nb", "c\r\nd: e", "CA_HEADER_GRPC-TIMEOUT", "1S")
	f.Fuzz(func(t *testing.T, k1, v1, k2, v2 string) {
		cfg, opt, err := load(worldOf(map[string]string{k1: v1, k2: v2}, nil))
		if err == nil && (opt.threads < 1 || cfg.Drain <= 0 || cfg.Capture.Mark == 0 && cfg.Dedicated.IsZero()) {
			t.Errorf("%s=%q %s=%q: threads %d, drain %v, mark %d", k1, v1, k2, v2, opt.threads, cfg.Drain, cfg.Capture.Mark)
		}
		for _, headers := range []map[string]string{cfg.XDS.Headers, cfg.CA.Headers} {
			for name, value := range headers {
				if name == "" || strings.ToLower(name) != name || strings.HasPrefix(name, "grpc-") ||
					!strings.HasSuffix(name, "-bin") && strings.ContainsAny(value, "\r\n\x00") {
					t.Errorf("%s=%q %s=%q: header %q: %q", k1, v1, k2, v2, name, value)
				}
			}
		}
	})
}
