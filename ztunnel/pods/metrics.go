package pods

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ambit-mesh/ambit/internal/telemetry"
)

// metrics are those of the list of pods.
type metrics struct {
	*telemetry.PodMetrics
	short prometheus.Counter
}

// newMetrics registers the metrics with reg.
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	pods, err := telemetry.NewPodMetrics(reg)
	m := &metrics{
		PodMetrics: pods,
		short: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ambit_accept_short_total",
			Help: "Times that new connections had to wait because descriptors or memory had run out (unstable).",
		}),
	}
	return m, errors.Join(err, reg.Register(m.short))
}
