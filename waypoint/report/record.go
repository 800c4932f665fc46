package report

import (
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/ambit-mesh/ambit/internal/telemetry"
	"github.com/ambit-mesh/ambit/internal/tracing"
)

// Protocol is what was carried, as metrics call it.
type Protocol string

// The protocols.
const (
	HTTP Protocol = "http"
	GRPC Protocol = "grpc"
	TCP  Protocol = "tcp"
)

// Record is what is known of one request, or of one connection that is not HTTP.
// One goroutine fills it.
type Record struct {
	Start    time.Time
	Protocol Protocol
	// Source and Destination are the client and the endpoint, as far as they are
	// known; identities are proven ones.
	Source, Destination telemetry.Peer
	Service             telemetry.Service
	// Asked is the authority of the tunnel.
	Asked string

	Method, Host, Path, Version string
	RequestID, TraceID          string
	// Trace is the request's place in a trace, and Also that of the tunnel when the
	// application named another one.
	Trace      tracing.Link
	Also       tracing.Context
	Route      string
	Policy     string // that decided
	Reason     string // in the policy's words
	Noted      []string
	Status     int
	GRPCStatus string
	// Flags are short names of what went wrong, as the ecosystem uses them; empty
	// when nothing did.
	Flags    string
	Details  string // why, for people
	Upstream netip.AddrPort
	Tries    int
	Received uint64 // bytes of the request's body
	Sent     uint64 // bytes of the answer's body
	// RequestMessages and ResponseMessages are counted of gRPC only.
	RequestMessages, ResponseMessages uint64
	// Waited is how long the endpoint took to answer.
	Waited time.Duration
}

// Reporter takes records. Any goroutine may use it.
type Reporter struct {
	log     *zap.Logger
	metrics *metrics
	spans   *tracing.Exporter // may be nil
}

// New makes a reporter that registers its metrics with reg. spans, which may be nil,
// gets what is in a sampled trace.
func New(log *zap.Logger, reg prometheus.Registerer, spans *tracing.Exporter) (*Reporter, error) {
	m, err := newMetrics(reg)
	if err != nil {
		return nil, err
	}
	return &Reporter{log: log.Named("access"), metrics: m, spans: spans}, nil
}

// Close counts and logs a record that is complete.
func (r *Reporter) Close(rec *Record) {
	took := time.Since(rec.Start)
	s := r.metrics.of(rec)
	if rec.Protocol == TCP {
		s.closed.Inc()
		s.received.Add(float64(rec.Received))
		s.sent.Add(float64(rec.Sent))
	} else {
		s.requests.Inc()
		s.duration.Observe(float64(took) / float64(time.Millisecond))
		s.requestBytes.Observe(float64(rec.Received))
		s.responseBytes.Observe(float64(rec.Sent))
		if rec.Protocol == GRPC {
			s.requestMessages.Add(float64(rec.RequestMessages))
			s.responseMessages.Add(float64(rec.ResponseMessages))
		}
	}
	r.write(rec, took)
	if rec.Trace.Sampled() {
		r.spans.Add(rec.span(took))
	}
}

// Opened counts the beginning of a connection that is not HTTP.
func (r *Reporter) Opened(rec *Record) { r.metrics.of(rec).opened.Inc() }
