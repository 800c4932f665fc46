package straightpath

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// series is one line of a scrape.
type series struct {
	labels map[string]string
	value  string
}

var (
	seriesLine = regexp.MustCompile(`^([a-z_]+)(?:\{(.*)\})? (\S+)`)
	labelPair  = regexp.MustCompile(`([a-z_]+)="((?:[^"\\]|\\.)*)"`)
)

// scrapeAll reads all metrics of p: the series and the help texts by name.
func (p *proxy) scrapeAll(t *testing.T) (all map[string][]series, help map[string]string) {
	t.Helper()
	all, help = map[string][]series{}, map[string]string{}
	for line := range strings.Lines(p.get(t, "stats", "/stats/prometheus")) {
		if text, ok := strings.CutPrefix(line, "# HELP "); ok {
			name, text, _ := strings.Cut(text, " ")
			help[name] = text
			continue
		}
		m := seriesLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		s := series{labels: map[string]string{}, value: m[3]}
		for _, l := range labelPair.FindAllStringSubmatch(m[2], -1) {
			s.labels[l[1]] = l[2]
		}
		all[m[1]] = append(all[m[1]], s)
	}
	return all, help
}

// connectionLabels are those of every metric of connections, with the values of
// a connection from the pod client to the pod server through a tunnel.
func connectionLabels(reporter, flags string) map[string]string {
	return map[string]string{
		"reporter":        reporter,
		"source_workload": "client", "source_workload_namespace": "shop", "source_principal": "spiffe://cluster.local/ns/shop/sa/client",
		"source_app": "client", "source_version": "latest", "source_cluster": "Kubernetes",
		"source_canonical_service": "client", "source_canonical_revision": "latest",
		"source_region": "unknown", "source_zone": "unknown",
		"destination_workload": "server", "destination_workload_namespace": "shop", "destination_principal": "spiffe://cluster.local/ns/shop/sa/server",
		"destination_app": "server", "destination_version": "latest", "destination_cluster": "Kubernetes",
		"destination_canonical_service": "server", "destination_canonical_revision": "latest",
		"destination_region": "unknown", "destination_zone": "unknown",
		"destination_service": "server.shop.svc.cluster.local", "destination_service_name": "server", "destination_service_namespace": "shop",
		"request_protocol": "tcp", "response_flags": flags, "connection_security_policy": "mutual_tls",
	}
}

// TCP connection metrics and TCP byte metrics, with their label values, of both
// reporters.
func TestTCPMetricsWithLabelValues(t *testing.T) {
	m := newMesh(t)
	n1, n2 := m.node("n1"), m.node("n2")
	client, server := m.enrolled(n1, "client"), m.enrolled(n2, "server")
	server.echo(80)
	vip := m.service("server", 80, "80", 1)
	c := client.connect(vip)
	c.wantEcho("to the server and back")
	c.Close()
	up, down := len("to the server and back"), len(c.hello)+1+len("to the server and back")
	for reporter, p := range map[string]*proxy{"source": n1.z, "destination": n2.z} {
		labels := connectionLabels(reporter, "-")
		for name, want := range map[string]int{
			"istio_tcp_connections_opened_total": 1, "istio_tcp_connections_closed_total": 1,
			"istio_tcp_received_bytes_total": up, "istio_tcp_sent_bytes_total": down,
		} {
			eventually(t, reporter+" "+name, func() error {
				all, _ := p.scrapeAll(t)
				if len(all[name]) != 1 {
					return fmt.Errorf("%d series, want one", len(all[name]))
				}
				got := all[name][0]
				if got.value != fmt.Sprint(want) || !maps.Equal(got.labels, labels) {
					return fmt.Errorf("it is %s with\n%v, want %d with\n%v", got.value, got.labels, want, labels)
				}
				return nil
			})
		}
	}
}

// All documented metrics exist in a running proxy, with their labels, and those
// without a promise say so.
func TestDocumentedMetrics(t *testing.T) {
	connection := slices.Sorted(maps.Keys(connectionLabels("", "")))
	m := newMesh(t)
	n1 := m.node("n1")
	client, server := m.enrolled(n1, "client"), m.enrolled(n1, "server")
	server.echo(80)
	client.connect(server.addr(80)).wantEcho("one that works")
	client.wantRefused(server.addr(81)) // one that fails
	m.stopControlPlane()                // and one of the control plane that ends
	m.startControlPlane(m.address)
	tests := []struct {
		name     string
		labels   []string
		unstable bool
	}{
		{"istio_tcp_connections_opened_total", connection, false},
		{"istio_tcp_connections_closed_total", connection, false},
		{"istio_tcp_received_bytes_total", connection, false},
		{"istio_tcp_sent_bytes_total", connection, false},
		{"istio_tcp_connections_failed_total", connection, true},
		{"istio_tcp_sockets_open", []string{"reporter"}, true},
		{"istio_xds_connection_terminations_total", []string{"reason"}, true},
		{"istio_xds_message_total", []string{"url"}, true},
		{"istio_xds_message_bytes_total", []string{"url"}, true},
		{"istio_build", []string{"component", "tag"}, false},
		{"workload_manager_active_proxy_count", nil, true},
		{"workload_manager_pending_proxy_count", nil, true},
		{"workload_manager_proxies_started_total", nil, true},
		{"workload_manager_proxies_stopped_total", nil, true},
		{"ambit_accept_short_total", nil, true},
		{"ambit_policy_missing_refusals_total", nil, true},
		{"process_open_fds", nil, false},
		{"process_max_fds", nil, false},
		{"go_goroutines", nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var help string
			eventually(t, tt.name+" is shown", func() error {
				all, helps := n1.z.scrapeAll(t)
				if len(all[tt.name]) == 0 {
					return fmt.Errorf("no series")
				}
				help = helps[tt.name]
				if got := slices.Sorted(maps.Keys(all[tt.name][0].labels)); !slices.Equal(got, tt.labels) {
					return fmt.Errorf("labels %q, want %q", got, tt.labels)
				}
				return nil
			})
			if help == "" || strings.Contains(help, "(unstable)") != tt.unstable {
				t.Errorf("help is %q, want it marked unstable: %v", help, tt.unstable)
			}
		})
	}
}
