package telemetry

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// XDSMetrics count the conversation with the control plane.
type XDSMetrics struct {
	terminations *prometheus.CounterVec
	messages     *prometheus.CounterVec
	bytes        *prometheus.CounterVec
}

// Termination says how a stream to the control plane ended.
type Termination uint8

const (
	// ConnectionError means that no stream came about.
	ConnectionError Termination = iota
	// StreamError means that the control plane ended the stream with an error.
	StreamError
	// Reconnect means that the control plane asked for a new stream.
	Reconnect
	// Complete means that the stream ended without error.
	Complete
)

// String returns the label value.
func (t Termination) String() string {
	switch t {
	case ConnectionError:
		return "ConnectionError"
	case Reconnect:
		return "Reconnect"
	case Complete:
		return "Complete"
	default:
		return "Error"
	}
}

// NewXDSMetrics registers the metrics with reg.
func NewXDSMetrics(reg prometheus.Registerer) (*XDSMetrics, error) {
	m := &XDSMetrics{
		terminations: counterVec("istio_xds_connection_terminations_total",
			"The total number of completed connections to the xDS server (unstable).", "reason"),
		messages: counterVec("istio_xds_message_total",
			"The total number of messages received from the xDS server (unstable).", "url"),
		bytes: counterVec("istio_xds_message_bytes_total",
			"The total number of bytes received from the xDS server (unstable).", "url"),
	}
	for t := range Complete + 1 {
		m.terminations.WithLabelValues(t.String())
	}
	return m, register(reg, m.terminations, m.messages, m.bytes)
}

// Terminated counts the end of a stream.
func (m *XDSMetrics) Terminated(t Termination) { m.terminations.WithLabelValues(t.String()).Inc() }

// Received counts a message of size bytes about resources of type typeURL,
// which must be one that we subscribe to.
func (m *XDSMetrics) Received(typeURL string, size int) {
	m.messages.WithLabelValues(typeURL).Inc()
	m.bytes.WithLabelValues(typeURL).Add(float64(size))
}

// PodMetrics count the pods that the agent has handed over.
type PodMetrics struct {
	Active  prometheus.Gauge   // pods that are served
	Pending prometheus.Gauge   // pods that could not be started and are tried again
	Started prometheus.Counter // pods whose service has begun
	Stopped prometheus.Counter // pods whose service has ended
}

// NewPodMetrics registers the metrics with reg.
func NewPodMetrics(reg prometheus.Registerer) (*PodMetrics, error) {
	m := &PodMetrics{
		Active: prometheus.NewGauge(prometheus.GaugeOpts{Name: "workload_manager_active_proxy_count",
			Help: "The total number of pods that are served now (unstable)."}),
		Pending: prometheus.NewGauge(prometheus.GaugeOpts{Name: "workload_manager_pending_proxy_count",
			Help: "The total number of pods that could not be started and are tried again (unstable)."}),
		Started: counter("workload_manager_proxies_started_total",
			"The total number of pods whose service has begun (unstable)."),
		Stopped: counter("workload_manager_proxies_stopped_total",
			"The total number of pods whose service has ended (unstable)."),
	}
	return m, register(reg, m.Active, m.Pending, m.Started, m.Stopped)
}

// ProxyMetrics count what a proxy refuses or does besides connections.
type ProxyMetrics struct {
	limits  *prometheus.CounterVec
	missing prometheus.Counter
	cut     *prometheus.CounterVec
}

// NewProxyMetrics registers the metrics with reg.
func NewProxyMetrics(reg prometheus.Registerer) (*ProxyMetrics, error) {
	m := &ProxyMetrics{
		limits: counterVec("ambit_hbone_limit_hits_total",
			"How often a peer ran into a limit of the tunnel transport, by the limit's name (unstable).", "limit"),
		missing: counter("ambit_policy_missing_refusals_total",
			"Connections refused because a policy that applies has not arrived (unstable)."),
		cut: counterVec("ambit_connections_cut_total",
			"Living connections that were ended by this proxy, by the stage that asked for it (unstable).", "stage"),
	}
	return m, register(reg, m.limits, m.missing, m.cut)
}

// LimitHit counts that a peer ran into the limit called name, which must be a
// name out of our own code.
func (m *ProxyMetrics) LimitHit(name string) { m.limits.WithLabelValues(name).Inc() }

// PolicyMissing counts a refusal for want of a policy that is named.
func (m *ProxyMetrics) PolicyMissing() { m.missing.Inc() }

// Cut counts a living connection that was ended at stage: policy, identity,
// drain.
func (m *ProxyMetrics) Cut(stage Stage) { m.cut.WithLabelValues(stage.String()).Inc() }

// counter makes a counter.
func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
}

// counterVec makes a counter with labels.
func counterVec(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

// register registers all of cs.
func register(reg prometheus.Registerer, cs ...prometheus.Collector) error {
	var errs []error
	for _, c := range cs {
		errs = append(errs, reg.Register(c))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	return nil
}
