package ca

import (
	"time"

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
//	citadel_server_root_cert_expiry_timestamp         when the chain of the issuer ends, in seconds since 1970; 0: there is none
//	ambit_ca_warning                                  1 when that is in less than 60 days
//	ambit_ca_refused                                  1 when newer files cannot be used
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
	}, func() float64 {
		if ring := a.ring.Load(); ring != nil {
			return float64(ring.notAfter.Unix())
		}
		return 0
	})
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "ambit_ca_warning",
		Help: "1 when the certificate that signs, or what it rests on, ends in less than 60 days, or is no more.",
	}, func() float64 {
		if ring := a.ring.Load(); ring == nil || ring.warning(time.Now()) != "" {
			return 1
		}
		return 0
	})
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "ambit_ca_refused",
		Help: "1 when the CA files that are there now cannot be used and older ones are in force.",
	}, func() float64 {
		if a.Status().LastError != "" {
			return 1
		}
		return 0
	})
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
