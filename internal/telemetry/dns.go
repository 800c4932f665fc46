package telemetry

import (
	"cmp"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// DNSMetrics count the questions that pods ask a resolver.
type DNSMetrics struct {
	requests  *prometheus.CounterVec
	forwarded *prometheus.CounterVec
	failures  *prometheus.CounterVec
	duration  *prometheus.HistogramVec
}

// DNSLabels say what was asked, how, and by whom.
type DNSLabels struct {
	Kind     string // of the record, in lower case
	Protocol string // udp or tcp
	Service  string // canonical name of the asker
	Revision string // canonical revision of the asker
}

// dnsBounds are the buckets of the time that upstream takes, in seconds. The
// ambient ecosystem's.
var dnsBounds = []float64{0.0005, 0.001, 0.01, 0.1, 1, 5}

// NewDNSMetrics registers the metrics with reg.
func NewDNSMetrics(reg prometheus.Registerer) (*DNSMetrics, error) {
	labels := []string{"request_query_type", "request_protocol", "source_canonical_service", "source_canonical_revision"}
	m := &DNSMetrics{
		requests:  counterVec("istio_dns_requests_total", "Total number of DNS requests (unstable).", labels...),
		forwarded: counterVec("istio_dns_upstream_requests_total", "Total number of DNS requests forwarded to upstream (unstable).", labels...),
		failures:  counterVec("istio_dns_upstream_failures_total", "Total number of DNS requests that failed to forward upstream (unstable).", labels...),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "istio_dns_upstream_request_duration_seconds",
			Help:    "Time that upstream takes to answer DNS requests (unstable).",
			Buckets: dnsBounds,
		}, labels),
	}
	return m, register(reg, m.requests, m.forwarded, m.failures, m.duration)
}

// values are the labels in the order of the metrics.
func (l DNSLabels) values() []string {
	return []string{
		cmp.Or(cleanLabel(l.Kind), unknown), cmp.Or(cleanLabel(l.Protocol), unknown),
		cmp.Or(cleanLabel(l.Service), unknown), cmp.Or(cleanLabel(l.Revision), unknown),
	}
}

// Asked counts a question.
func (m *DNSMetrics) Asked(l DNSLabels) { m.requests.WithLabelValues(l.values()...).Inc() }

// Forwarded counts a question that went on to upstream, or should have; err is
// why it has no answer.
func (m *DNSMetrics) Forwarded(l DNSLabels, took time.Duration, err error) {
	v := l.values()
	m.forwarded.WithLabelValues(v...).Inc()
	m.duration.WithLabelValues(v...).Observe(took.Seconds())
	if err != nil {
		m.failures.WithLabelValues(v...).Inc()
	}
}
