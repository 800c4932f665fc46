package ca

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// outcome is why a request was refused, as a label.
type outcome string

const (
	notAuthenticated outcome = "not_authenticated"
	notAuthorized    outcome = "not_authorized"
	malformed        outcome = "malformed"
	signFailed       outcome = "sign_failed"
)

// Metrics count what a [Service] does.
//
//	citadel_server_csr_count                          requests
//	citadel_server_success_cert_issuance_count        certificates issued
//	citadel_server_refused_count{reason}              requests refused
//	citadel_server_root_cert_expiry_timestamp         when the chain of the issuer ends, in seconds since 1970
type Metrics struct {
	requests, issued prometheus.Counter
	refused          *prometheus.CounterVec
}

// NewMetrics registers the metrics with reg. The expiry is that of a.
func NewMetrics(reg prometheus.Registerer, a *Authority) *Metrics {
	f := promauto.With(reg)
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "citadel_server_root_cert_expiry_timestamp",
		Help: "When the first certificate that the issued ones rest on ends, in seconds since 1970.",
	}, func() float64 { return float64(a.ring.Load().notAfter.Unix()) })
	return &Metrics{
		requests: f.NewCounter(prometheus.CounterOpts{
			Name: "citadel_server_csr_count",
			Help: "Certificate requests received.",
		}),
		issued: f.NewCounter(prometheus.CounterOpts{
			Name: "citadel_server_success_cert_issuance_count",
			Help: "Certificates issued.",
		}),
		refused: f.NewCounterVec(prometheus.CounterOpts{
			Name: "citadel_server_refused_count",
			Help: "Certificate requests refused, by reason.",
		}, []string{"reason"}),
	}
}
