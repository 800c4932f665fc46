package about

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"

	"github.com/ambit-mesh/ambit/internal/hbone"
	"github.com/ambit-mesh/ambit/internal/workload"
	"github.com/ambit-mesh/ambit/ztunnel/route"
)

// Caller is what the header of a CONNECT says of who asks. Nothing in it is
// proven.
type Caller struct {
	Baggage   route.Baggage
	Forwarded route.Forwarded
	Trace     route.Traceparent // zero when there is none
	Network   string            // the sender's, when the request crossed networks
}

// RequestHeader is what we send with a CONNECT: who asks (baggage), for which
// client (forwarded), meaning which service (may be nil), and an id by which
// the log lines of both ends can be joined.
func RequestHeader(source *workload.Workload, client netip.AddrPort, service *workload.Service) hbone.Header {
	f := route.Forwarded{For: client}
	if service != nil {
		f.Host = service.Hostname
	}
	return hbone.Header{
		{Name: route.HeaderBaggage, Value: route.BaggageOf(source).String()},
		{Name: route.HeaderForwarded, Value: f.String()},
		{Name: route.HeaderTraceparent, Value: newTraceparent().String()},
	}
}

// ResponseHeader is what we send with the 200: who was reached.
func ResponseHeader(destination *workload.Workload) hbone.Header {
	return hbone.Header{{Name: route.HeaderBaggage, Value: route.BaggageOf(destination).String()}}
}

// ParseCaller reads the header of a CONNECT. What cannot be read is left out.
func ParseCaller(h hbone.Header) Caller {
	c := Caller{
		Baggage:   route.ParseBaggage(h.Values(route.HeaderBaggage)...),
		Forwarded: route.ParseForwarded(h.Get(route.HeaderForwarded)),
		Network:   h.Get(route.HeaderNetwork),
	}
	if t, err := route.ParseTraceparent(h.Get(route.HeaderTraceparent)); err == nil {
		c.Trace = t
	}
	return c
}

// newTraceparent makes an id for one connection. It is no secret, so the fast
// random source will do; the lowest bit is set because zero is not an id.
func newTraceparent() (t route.Traceparent) {
	binary.BigEndian.PutUint64(t.Trace[:8], rand.Uint64())
	binary.BigEndian.PutUint64(t.Trace[8:], rand.Uint64()|1)
	binary.BigEndian.PutUint64(t.Span[:], rand.Uint64()|1)
	return t
}
