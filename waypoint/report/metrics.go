package report

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/telemetry"
)

// labels are those of the ecosystem's request metrics, in its spelling.
var labels = []string{
	"reporter", "source_workload", "source_canonical_service", "source_canonical_revision", "source_workload_namespace", "source_principal",
	"source_app", "source_version", "source_cluster", "destination_service", "destination_service_namespace", "destination_service_name",
	"destination_workload", "destination_canonical_service", "destination_canonical_revision", "destination_workload_namespace",
	"destination_principal", "destination_app", "destination_version", "destination_cluster", "request_protocol", "response_code",
	"grpc_response_status", "response_flags", "connection_security_policy",
}

// Buckets of the histograms, as the ecosystem has them: milliseconds and bytes.
var (
	durations = []float64{0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 600000, 1800000, 3600000}
	sizes     = []float64{1, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000}
)

// maxSeries is how many sets of labels are kept. Those beyond are counted
// together: a client must not make a process grow. Our choice.
const maxSeries = 20000

// key is the labels of a record.
type key struct {
	source, destination telemetry.Workload
	sourceID, destID    identity.ID
	service             telemetry.Service
	protocol            Protocol
	status              int
	grpc, flags         string
}

// series are the counts of one set of labels; those that its protocol has not are nil.
type series struct {
	requests                              prometheus.Counter
	duration, requestBytes, responseBytes prometheus.Observer
	requestMessages, responseMessages     prometheus.Counter
	opened, closed, received, sent        prometheus.Counter
}

// metrics are those of one process.
type metrics struct {
	requests                              *prometheus.CounterVec
	duration, requestBytes, responseBytes *prometheus.HistogramVec
	requestMessages, responseMessages     *prometheus.CounterVec
	opened, closed, received, sent        *prometheus.CounterVec

	mu  sync.RWMutex
	all map[key]*series
}

// newMetrics registers them.
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, buckets []float64) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	}
	m := &metrics{
		requests:         counter("istio_requests_total", "Requests served."),
		duration:         histogram("istio_request_duration_milliseconds", "From the first byte of a request to the last of its answer.", durations),
		requestBytes:     histogram("istio_request_bytes", "Bytes of request bodies.", sizes),
		responseBytes:    histogram("istio_response_bytes", "Bytes of the bodies of answers.", sizes),
		requestMessages:  counter("istio_request_messages_total", "Messages of gRPC from clients."),
		responseMessages: counter("istio_response_messages_total", "Messages of gRPC to clients."),
		opened:           counter("istio_tcp_connections_opened_total", "Connections that are not HTTP, opened."),
		closed:           counter("istio_tcp_connections_closed_total", "Connections that are not HTTP, closed."),
		received:         counter("istio_tcp_received_bytes_total", "Bytes from clients on connections that are not HTTP."),
		sent:             counter("istio_tcp_sent_bytes_total", "Bytes to clients on connections that are not HTTP."),
		all:              map[key]*series{},
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.requests, m.duration, m.requestBytes, m.responseBytes, m.requestMessages, m.responseMessages, m.opened, m.closed, m.received, m.sent} {
		errs = append(errs, reg.Register(c))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return m, nil
}

// of is the series of a record.
func (m *metrics) of(rec *Record) *series {
	k := key{
		source: rec.Source.Workload, destination: rec.Destination.Workload, sourceID: rec.Source.Identity, destID: rec.Destination.Identity,
		service: rec.Service, protocol: rec.Protocol, status: rec.Status, grpc: grpcLabel(rec.GRPCStatus), flags: rec.Flags,
	}
	k.source.Name, k.destination.Name = "", ""
	m.mu.RLock()
	s := m.all[k]
	m.mu.RUnlock()
	if s != nil {
		return s
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if s = m.all[k]; s != nil {
		return s
	}
	if len(m.all) >= maxSeries {
		k = key{protocol: rec.Protocol, flags: "OVERFLOW"}
		if s = m.all[k]; s != nil {
			return s
		}
	}
	s = m.resolve(k.protocol, k.values())
	m.all[k] = s
	return s
}

// resolve finds the series of a set of label values: those that a protocol has, so
// that nobody finds a counter of connections with a status.
func (m *metrics) resolve(p Protocol, values []string) *series {
	if p == TCP {
		return &series{
			opened: m.opened.WithLabelValues(values...), closed: m.closed.WithLabelValues(values...),
			received: m.received.WithLabelValues(values...), sent: m.sent.WithLabelValues(values...),
		}
	}
	s := &series{
		requests: m.requests.WithLabelValues(values...), duration: m.duration.WithLabelValues(values...),
		requestBytes: m.requestBytes.WithLabelValues(values...), responseBytes: m.responseBytes.WithLabelValues(values...),
	}
	if p == GRPC {
		s.requestMessages, s.responseMessages = m.requestMessages.WithLabelValues(values...), m.responseMessages.WithLabelValues(values...)
	}
	return s
}

// grpcLabel keeps what is a status of gRPC, which an application chooses.
func grpcLabel(text string) string {
	if text == "" {
		return "" // an error would cost memory
	}
	if n, err := strconv.Atoi(text); err != nil || n < 0 || n > 16 {
		return ""
	}
	return text
}

// values are the label values, in the order of labels.
func (k *key) values() []string {
	security, code := "mutual_tls", strconv.Itoa(k.status)
	if k.sourceID.IsZero() {
		security = ""
	}
	if k.status == 0 {
		code = "0"
	}
	all := []string{
		"waypoint", k.source.WorkloadName, k.source.CanonicalService, k.source.CanonicalRevision, k.source.Namespace, k.sourceID.String(),
		k.source.CanonicalService, k.source.CanonicalRevision, k.source.Cluster, k.service.Host, k.service.Namespace, k.service.Name,
		k.destination.WorkloadName, k.destination.CanonicalService, k.destination.CanonicalRevision, k.destination.Namespace,
		k.destID.String(), k.destination.CanonicalService, k.destination.CanonicalRevision, k.destination.Cluster, string(k.protocol), code,
		k.grpc, cmp.Or(k.flags, "-"), security,
	}
	for i, v := range all {
		switch {
		case v == "" && labels[i] != "grpc_response_status":
			all[i] = "unknown"
		case len(v) > 253 || !utf8.ValidString(v):
			all[i] = "invalid"
		}
	}
	return all
}
