package main

import (
	"strings"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/ztunnel"
)

// What a DaemonSet in a cluster sets, and what it leaves to us.
func TestInACluster(t *testing.T) {
	env := map[string]string{
		"KUBERNETES_SERVICE_HOST": "10.96.0.1",
		"NODE_NAME":               "worker-1", "POD_NAME": "ztunnel-x", "POD_NAMESPACE": "istio-system",
		"INSTANCE_IP": "10.244.1.7", "SERVICE_ACCOUNT": "ztunnel", "CLUSTER_ID": "east",
		"TERMINATION_GRACE_PERIOD_SECONDS": "30",
	}
	cfg, opt := mustLoad(t, worldOf(env, map[string]string{defaultToken: "token"}))
	if cfg.XDS.Address != "https://istiod.istio-system.svc:15012" || cfg.CA.Address != cfg.XDS.Address {
		t.Errorf("control plane %q, CA %q", cfg.XDS.Address, cfg.CA.Address)
	}
	if cfg.XDS.Token != defaultToken || cfg.CA.RootCA != defaultRootCA {
		t.Errorf("token %q, roots %q", cfg.XDS.Token, cfg.CA.RootCA)
	}
	want := ztunnel.Node{
		Name: "worker-1", PodName: "ztunnel-x", PodNamespace: "istio-system", InstanceIP: "10.244.1.7",
		ServiceAccount: "ztunnel", ClusterID: "east", ClusterDomain: "cluster.local", TrustDomain: "cluster.local",
	}
	if cfg.Node != want || cfg.Drain != 25*time.Second {
		t.Errorf("node %+v, drain %v", cfg.Node, cfg.Drain)
	}
	if cfg.Capture.ZDSSocket != "/var/run/ztunnel/ztunnel.sock" || cfg.Capture.OwnerSocket != "/var/run/ztunnel/sockets.sock" {
		t.Errorf("sockets of the agent %q, %q", cfg.Capture.ZDSSocket, cfg.Capture.OwnerSocket)
	}
	if cfg.Listen.Admin != "localhost:15000" {
		t.Errorf("the administration listens on %s", cfg.Listen.Admin)
	}
	if len(opt.warnings) > 0 {
		t.Errorf("warnings: %q", opt.warnings)
	}
}

func TestDNSSettings(t *testing.T) {
	for _, tt := range []struct {
		name string
		env  map[string]string
		want ztunnel.DNS
	}{
		{"default", nil, ztunnel.DNS{Port: 15053}},
		{"off", map[string]string{"ISTIO_META_DNS_CAPTURE": "false"}, ztunnel.DNS{Off: true, Port: 15053}},
		{"off by the proxy's metadata", map[string]string{"PROXY_CONFIG": `{proxyMetadata: {ISTIO_META_DNS_CAPTURE: "false"}}`}, ztunnel.DNS{Off: true, Port: 15053}},
		{"another port", map[string]string{"ISTIO_META_DNS_PROXY_ADDR": "127.0.0.1:5353"}, ztunnel.DNS{Port: 5353}},
		{"preferred namespace", map[string]string{"PREFERED_SERVICE_NAMESPACE": "ours"}, ztunnel.DNS{Port: 15053, PreferredNamespace: "ours"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if cfg, _ := mustLoad(t, worldOf(tt.env, nil)); cfg.DNS != tt.want {
				t.Errorf("%+v, want %+v", cfg.DNS, tt.want)
			}
		})
	}
	for _, addr := range []string{"15053", "localhost:0", "localhost:x", "10.0.0.1:15053"} {
		_, _, err := load(worldOf(map[string]string{"ISTIO_META_DNS_PROXY_ADDR": addr}, nil))
		if err == nil || !strings.Contains(err.Error(), "ISTIO_META_DNS_PROXY_ADDR") {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

func TestOwnerSocketOff(t *testing.T) {
	if cfg, _ := mustLoad(t, worldOf(map[string]string{"AMBIT_SOCKET_OWNER": "off"}, nil)); cfg.Capture.OwnerSocket != "" {
		t.Errorf("OwnerSocket = %q", cfg.Capture.OwnerSocket)
	}
}

func TestUserTimeout(t *testing.T) {
	if cfg, _ := mustLoad(t, worldOf(map[string]string{"USER_TIMEOUT_ENABLED": "true"}, nil)); !cfg.Capture.KeepAlive.UserTimeout {
		t.Error("USER_TIMEOUT_ENABLED has no effect")
	}
}

func TestThreadsWithinTheCgroup(t *testing.T) {
	w := worldOf(nil, nil)
	w.cores, w.quota = 64, 4
	if _, opt := mustLoad(t, w); opt.threads != 4 {
		t.Errorf("threads = %d of 64 cores with 4 to use, want 4", opt.threads)
	}
	w.env["ZTUNNEL_WORKER_THREADS"] = "8"
	if _, opt := mustLoad(t, w); opt.threads != 8 {
		t.Errorf("threads = %d, want the 8 that were asked for", opt.threads)
	}
}
