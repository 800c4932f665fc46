package about

import (
	"net/netip"

	"github.com/ambit-mesh/ambit/internal/hbone"
	"github.com/ambit-mesh/ambit/internal/tracing"
	"github.com/ambit-mesh/ambit/internal/workload"
)

// Caller is what the header of a CONNECT says of who asks. Nothing in it is
// proven.
type Caller struct {
	Baggage   Baggage
	Forwarded Forwarded
	Trace     tracing.Context // zero when there is none
	Network   string          // the sender's, when the request crossed networks
}

// RequestHeader is what we send with a CONNECT: who asks (baggage), for which
// client (forwarded), meaning which service (may be nil), and the place in a trace
// by which what both ends tell can be joined.
func RequestHeader(source *workload.Workload, client netip.AddrPort, service *workload.Service, trace tracing.Context) hbone.Header {
	f := Forwarded{For: client}
	if service != nil {
		f.Host = service.Hostname
	}
	return hbone.Header{
		{Name: HeaderBaggage, Value: BaggageOf(source).String()},
		{Name: HeaderForwarded, Value: f.String()},
		{Name: tracing.Header, Value: trace.String()},
	}
}

// ResponseHeader is what we send with the 200: who was reached.
func ResponseHeader(destination *workload.Workload) hbone.Header {
	return hbone.Header{{Name: HeaderBaggage, Value: BaggageOf(destination).String()}}
}

// ParseCaller reads the header of a CONNECT. What cannot be read is left out.
func ParseCaller(h hbone.Header) Caller {
	c := Caller{
		Baggage:   ParseBaggage(h.Values(HeaderBaggage)...),
		Forwarded: ParseForwarded(h.Get(HeaderForwarded)),
		Network:   h.Get(HeaderNetwork),
	}
	if t, err := tracing.ParseContext(h.Get(tracing.Header)); err == nil {
		c.Trace = t
	}
	return c
}
