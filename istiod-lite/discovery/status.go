package discovery

import (
	"cmp"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// ClientStatus is one client, for people.
type ClientStatus struct {
	ID     string `json:"id"` // what it calls itself
	Caller string `json:"caller"`
	Node   string `json:"node,omitempty"`
	// Waypoint is the service of the waypoint that it is of, to which it is bounded.
	Waypoint string       `json:"waypoint,omitempty"`
	Peer     string       `json:"peer"`
	Since    time.Time    `json:"since"`
	Types    []TypeStatus `json:"types"`

	serial uint64
}

// TypeStatus is what a client got of one type and what it said to that.
type TypeStatus struct {
	Type      string     `json:"type"`
	Wildcard  bool       `json:"wildcard"`
	Names     int        `json:"names,omitempty"` // asked for by name
	Waiting   int        `json:"waiting"`         // names whose state it has not seen
	Responses int        `json:"responses"`
	Resources int        `json:"resources"` // sent, repetitions counted
	Removed   int        `json:"removed"`
	Sent      string     `json:"sent,omitempty"`     // newest nonce sent
	Accepted  string     `json:"accepted,omitempty"` // newest nonce accepted
	Acked     int        `json:"acked"`
	Nacked    int        `json:"nacked"`
	Rejected  *Rejection `json:"rejected,omitempty"` // newest
}

// Rejection is a client's refusal of resources.
type Rejection struct {
	Nonce   string    `json:"nonce"`
	Message string    `json:"message"`
	At      time.Time `json:"at"`
}

// Status is the state of the server, for people.
type Status struct {
	Ready          bool           `json:"ready"`
	Addresses      int            `json:"addresses"`
	Authorizations int            `json:"authorizations"`
	Clients        []ClientStatus `json:"clients"`
}

// Status is what stands now. Clients are in the order in which they came.
func (s *Server) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	result := Status{
		Ready:          s.started,
		Addresses:      len(s.picture.byName[model.TypeAddress]),
		Authorizations: len(s.picture.byName[model.TypeAuthorization]),
		Clients:        []ClientStatus{},
	}
	for st := range s.open {
		c := ClientStatus{ID: st.id, Caller: st.caller.Name, Node: st.node, Waypoint: st.waypoint, Peer: st.peer, Since: st.since, serial: st.serial}
		for _, sub := range st.types {
			t := sub.status
			t.Wildcard, t.Names, t.Waiting = sub.wildcard, len(sub.names), len(sub.pending)
			c.Types = append(c.Types, t)
		}
		slices.SortFunc(c.Types, func(a, b TypeStatus) int { return cmp.Compare(a.Type, b.Type) })
		result.Clients = append(result.Clients, c)
	}
	slices.SortFunc(result.Clients, func(a, b ClientStatus) int { return cmp.Compare(a.serial, b.serial) })
	return result
}

// metrics are those of one server.
type metrics struct {
	streams   prometheus.Gauge
	refused   prometheus.Counter
	responses *prometheus.CounterVec
	resources *prometheus.CounterVec
	nacks     *prometheus.CounterVec
	lag       prometheus.Histogram
}

// newMetrics registers the metrics with reg.
func newMetrics(reg prometheus.Registerer) metrics {
	f := promauto.With(reg)
	return metrics{
		streams: f.NewGauge(prometheus.GaugeOpts{
			Name: "ambit_xds_streams", Help: "Clients connected now.",
		}),
		refused: f.NewCounter(prometheus.CounterOpts{
			Name: "ambit_xds_refused_total", Help: "Streams of clients that could not prove who they are.",
		}),
		responses: f.NewCounterVec(prometheus.CounterOpts{
			Name: "ambit_xds_responses_total", Help: "Responses sent, by type.",
		}, []string{"type"}),
		resources: f.NewCounterVec(prometheus.CounterOpts{
			Name: "ambit_xds_resources_total", Help: "Resources and removals sent, by type.",
		}, []string{"type"}),
		nacks: f.NewCounterVec(prometheus.CounterOpts{
			Name: "ambit_xds_nacks_total", Help: "Responses that clients rejected, by type.",
		}, []string{"type"}),
		lag: f.NewHistogram(prometheus.HistogramOpts{
			Name: "ambit_xds_lag_seconds", Help: "Time from a change to its being sent.",
			Buckets: []float64{.001, .005, .01, .025, .05, .1, .25, 1, 5, 30},
		}),
	}
}
