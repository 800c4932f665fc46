package telemetry

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/ambit-mesh/ambit/internal/tracing"
)

// lostLine is how often the log says that spans are lost.
const lostLine = 30 * time.Second

// NewSpans makes the exporter of a process, with its metrics and its place in the
// log; nil when cfg names no collector.
func NewSpans(cfg tracing.Config, log *zap.Logger, reg prometheus.Registerer) (*tracing.Exporter, error) {
	log = log.Named("spans")
	var said atomic.Int64 // when, in nanoseconds
	cfg.Failed = func(err error) {
		now := time.Now().UnixNano()
		if last := said.Load(); now-last > int64(lostLine) && said.CompareAndSwap(last, now) {
			log.Warn("spans are lost; does the collector run, and can we reach it?", zap.Error(err))
		}
	}
	e, err := tracing.NewExporter(cfg)
	if e == nil || err != nil {
		return nil, err
	}
	log.Info("spans of sampled traces are exported", zap.String("collector", cfg.Endpoint), zap.Float64("share", cfg.Share))
	count := func(name, help string, of func() uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(of()) })
	}
	return e, register(reg,
		count("ambit_spans_exported_total", "Spans that the collector has taken (unstable).", e.Sent),
		count("ambit_spans_dropped_total", "Spans that the collector did not get (unstable).", e.Dropped))
}
