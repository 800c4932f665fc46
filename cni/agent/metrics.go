package agent

import (
	"errors"

	"github.com/ambit-mesh/ambit/cni/event"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what an agent counts. What it can be asked is not counted twice:
// the gauges ask it.
type metrics struct {
	requests *prometheus.CounterVec
	took     *prometheus.HistogramVec
	repaired prometheus.Counter
}

// newMetrics registers the metrics of a.
func newMetrics(reg prometheus.Registerer, a *Agent) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ambit_cni_requests_total", Help: "Requests of the CNI plugin, by request and result.",
		}, []string{"request", "result"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "ambit_cni_request_seconds", Help: "How long requests of the CNI plugin took: what the mesh adds to the start of a pod.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}, []string{"request"}),
		repaired: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ambit_cni_rules_repaired_total", Help: "Times that the rules of a pod were not as written.",
		}),
	}
	errs := []error{reg.Register(m.requests), reg.Register(m.took), reg.Register(m.repaired)}
	errs = append(errs, reg.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "ambit_cni_ztunnel_connected", Help: "1 while a ztunnel is connected and has its snapshot.",
	}, func() float64 {
		if a.ztunnel.Connected() {
			return 1
		}
		return 0
	})))
	for _, g := range []struct {
		name, help string
		value      func() int
	}{
		{"ambit_pods_expected", "Pods of this node that belong to the mesh.", a.countExpected},
		{"ambit_pods_enrolled", "Pods of this node that are in the mesh: rules read back, listeners there, a connection through them taken.", func() int { return a.count(event.Enrolled) }},
		{"ambit_pods_fenced", "Pods of this node that belong to the mesh, cannot be taken in, and are cut off.", a.countFenced},
	} {
		errs = append(errs, reg.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: g.name, Help: g.help}, func() float64 { return float64(g.value()) })))
	}
	for _, state := range []event.State{event.Enrolled, event.Pending, event.Releasing, event.Outside, event.Failed, event.Fenced} {
		errs = append(errs, reg.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "ambit_cni_pods", Help: "Pods that the agent knows, by state.", ConstLabels: prometheus.Labels{"state": string(state)},
		}, func() float64 { return float64(a.count(state)) })))
	}
	return m, errors.Join(errs...)
}

// count returns how many pods are in a state.
func (a *Agent) count(state event.State) (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, at := range a.attachments {
		if at.stateLocked() == state {
			n++
		}
	}
	return n
}

// countExpected returns how many pods belong to the mesh.
func (a *Agent) countExpected() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	wanted := len(a.strays)
	for _, at := range a.attachments {
		if at.wanted {
			wanted++
		}
	}
	return wanted
}

// countFenced returns how many pods are fenced.
func (a *Agent) countFenced() int {
	n := a.count(event.Fenced)
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.strays {
		if s.fence.up() {
			n++
		}
	}
	return n
}
