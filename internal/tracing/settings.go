package tracing

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// Names of the variables. Source: OpenTelemetry, environment variable specification
// and protocol exporter.
const (
	EnvEndpoint    = "OTEL_EXPORTER_OTLP_ENDPOINT"
	EnvTraces      = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
	EnvProtocol    = "OTEL_EXPORTER_OTLP_PROTOCOL"
	EnvCertificate = "OTEL_EXPORTER_OTLP_CERTIFICATE"
	EnvSampler     = "OTEL_TRACES_SAMPLER"
	EnvSamplerArg  = "OTEL_TRACES_SAMPLER_ARG"
	EnvService     = "OTEL_SERVICE_NAME"
	EnvDisabled    = "OTEL_SDK_DISABLED"
)

// defaultShare is how many of the traces that begin here are sampled when nobody
// says: what the ambient ecosystem does, 1 %.
const defaultShare = 0.01

// FromEnvironment reads a Config from the variables by which every program with
// OpenTelemetry is told; lookup is os.LookupEnv. Without an endpoint it is the zero
// Config: no spans. service is who we are when nobody says.
func FromEnvironment(lookup func(string) (string, bool), service string) (Config, error) {
	get := func(name string) string {
		v, _ := lookup(name)
		return strings.TrimSpace(v)
	}
	c := Config{
		Endpoint: cmp.Or(get(EnvTraces), get(EnvEndpoint)), RootCA: get(EnvCertificate), Share: defaultShare,
		Resource: []Attr{{Key: "service.name", Text: cmp.Or(get(EnvService), service)}},
	}
	if c.Endpoint == "" || strings.EqualFold(get(EnvDisabled), "true") {
		return Config{}, nil
	}
	if p := get(EnvProtocol); p != "" && p != "grpc" {
		return Config{}, fmt.Errorf("%s is %q: only grpc is spoken", EnvProtocol, p)
	}
	switch s := get(EnvSampler); s {
	case "", "parentbased_traceidratio":
		if arg := get(EnvSamplerArg); arg != "" {
			share, err := strconv.ParseFloat(arg, 64)
			if err != nil || !(share >= 0 && share <= 1) {
				return Config{}, fmt.Errorf("%s is %q, want 0 to 1", EnvSamplerArg, arg)
			}
			c.Share = share
		}
	case "parentbased_always_on":
		c.Share = 1
	case "parentbased_always_off":
		c.Share = 0
	default:
		return Config{}, fmt.Errorf("%s is %q, want parentbased_traceidratio, parentbased_always_on or parentbased_always_off", EnvSampler, s)
	}
	return c, nil
}
