package telemetry

import (
	"cmp"

	"github.com/prometheus/client_golang/prometheus"
)

// labelNames are the labels of every connection metric, in the order of
// labelValues. Existing dashboards know these names.
var labelNames = []string{
	"reporter",
	"source_workload", "source_canonical_service", "source_canonical_revision", "source_workload_namespace",
	"source_principal", "source_app", "source_version", "source_cluster",
	"destination_service", "destination_service_namespace", "destination_service_name",
	"destination_workload", "destination_canonical_service", "destination_canonical_revision",
	"destination_workload_namespace", "destination_principal", "destination_app", "destination_version",
	"destination_cluster",
	"request_protocol", "response_flags", "connection_security_policy",
	"source_region", "source_zone", "destination_region", "destination_zone",
}

// flagLabel is where response_flags stands in labelNames.
const flagLabel = 21

// The connection metrics, and our own about them.
var (
	openedDesc = prometheus.NewDesc("istio_tcp_connections_opened_total",
		"The total number of TCP connections opened.", labelNames, nil)
	closedDesc = prometheus.NewDesc("istio_tcp_connections_closed_total",
		"The total number of TCP connections closed.", labelNames, nil)
	receivedDesc = prometheus.NewDesc("istio_tcp_received_bytes_total",
		"The total number of bytes received from clients, that is towards servers.", labelNames, nil)
	sentDesc = prometheus.NewDesc("istio_tcp_sent_bytes_total",
		"The total number of bytes sent to clients, that is from servers.", labelNames, nil)
	failedDesc = prometheus.NewDesc("istio_tcp_connections_failed_total",
		"The total number of TCP connections that failed before they carried bytes (unstable).", labelNames, nil)
	socketsDesc = prometheus.NewDesc("istio_tcp_sockets_open",
		"The number of TCP sockets of the data plane that are open now (unstable).", []string{"reporter"}, nil)
	evictedDesc = prometheus.NewDesc("ambit_metric_series_evicted_total",
		"Sets of connection labels that were dropped to make room; their counters begin at zero when they come back (unstable).", nil, nil)
	spilledDesc = prometheus.NewDesc("ambit_metric_series_overflow_total",
		"Connections that were counted with unknown labels because the bound on series was reached (unstable).", nil, nil)
)

// collector shows the series of a Records to a registry.
type collector struct{ records *Records }

var _ prometheus.Collector = (*collector)(nil)

// Describe sends what Collect may send.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		openedDesc, closedDesc, receivedDesc, sentDesc, failedDesc, socketsDesc, evictedDesc, spilledDesc,
	} {
		out <- d
	}
}

// Collect first moves what the living connections have carried since the last
// time into their series, then sends all series.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	for i := range c.records.live {
		c.records.live[i].collect()
	}
	t := c.records.series
	for d := range t.sockets {
		out <- prometheus.MustNewConstMetric(socketsDesc, prometheus.GaugeValue,
			float64(t.sockets[d].Load()), Direction(d).Reporter())
	}
	out <- prometheus.MustNewConstMetric(evictedDesc, prometheus.CounterValue, float64(t.evicted.Load()))
	out <- prometheus.MustNewConstMetric(spilledDesc, prometheus.CounterValue, float64(t.spilled.Load()))
	for _, s := range t.list() {
		s.collect(out)
	}
}

// collect sends the metrics of one series.
func (s *series) collect(out chan<- prometheus.Metric) {
	values := s.key.labelValues()
	send := func(d *prometheus.Desc, v uint64) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), values...)
	}
	values[flagLabel] = FlagNone.String()
	send(openedDesc, s.opened.Load())
	send(receivedDesc, s.sent.Load())
	send(sentDesc, s.received.Load())
	for flag := range flagCount {
		n := s.closed[flag].Load()
		if n == 0 {
			continue
		}
		values[flagLabel] = flag.String()
		send(closedDesc, n)
		if flag != FlagNone {
			send(failedDesc, n)
		}
	}
}

// labelValues returns the values of labelNames; response_flags is left to the
// caller.
func (k *seriesKey) labelValues() []string {
	known := func(s string) string { return cmp.Or(s, unknown) }
	security := unknown
	if k.secured {
		security = "mutual_tls"
	}
	src, dst := &k.source, &k.destination
	return []string{
		k.direction.Reporter(),
		known(src.WorkloadName), known(src.CanonicalService), known(src.CanonicalRevision), known(src.Namespace),
		known(k.sourceID.String()), known(src.CanonicalService), known(src.CanonicalRevision), known(src.Cluster),
		known(k.service.Host), known(k.service.Namespace), known(k.service.Name),
		known(dst.WorkloadName), known(dst.CanonicalService), known(dst.CanonicalRevision),
		known(dst.Namespace), known(k.destID.String()), known(dst.CanonicalService), known(dst.CanonicalRevision),
		known(dst.Cluster),
		"tcp", "", security,
		known(src.Region), known(src.Zone), known(dst.Region), known(dst.Zone),
	}
}
