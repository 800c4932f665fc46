package telemetry

import (
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// NewRegistry makes the registry of one process: what it is (istio_build), and
// the Go runtime's and the process' own metrics.
func NewRegistry(component, version string) (*prometheus.Registry, error) {
	reg := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "istio_build",
		Help:        "What runs here; always 1.",
		ConstLabels: prometheus.Labels{"component": component, "tag": version},
	})
	build.Set(1)
	for _, c := range []prometheus.Collector{
		build,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register process metrics: %w", err)
		}
	}
	return reg, nil
}

// Handler serves what reg holds as OpenMetrics or Prometheus text, compressed
// where the client takes it.
func Handler(reg *prometheus.Registry) http.Handler {
	return promhttp.InstrumentMetricHandler(reg, promhttp.HandlerFor(reg, promhttp.HandlerOpts{
		EnableOpenMetrics:   true,
		MaxRequestsInFlight: maxScrapes,
		Registry:            reg,
	}))
}

// maxScrapes is how many scrapes are answered at a time. Each one holds all
// series in memory; one Prometheus and one person are enough.
const maxScrapes = 4
