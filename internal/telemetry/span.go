package telemetry

import (
	"time"

	"github.com/ambit-mesh/ambit/internal/tracing"
)

// span is a record that is closed as a span of its trace. Names of facts are those of
// OpenTelemetry's conventions where it has one.
func (r *Record) span(end time.Time, flag Flag, err error) tracing.Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := &r.conn
	s := tracing.Span{Link: c.Trace, Name: c.Direction.String(), Kind: tracing.Client, Start: r.opened, End: end}
	if c.Direction == Inbound {
		s.Kind = tracing.Server
	}
	if err != nil {
		s.Error = err.Error()
	}
	text := func(key, value string) { s.Attrs = append(s.Attrs, tracing.Attr{Key: key, Text: value}) }
	text("network.transport", "tcp")
	text("ambit.hop", c.Hop.String())
	text("ambit.source.identity", c.Source.Identity.String())
	text("ambit.source.workload", c.Source.Workload.Name)
	text("ambit.source.namespace", c.Source.Workload.Namespace)
	text("ambit.destination.identity", c.Destination.Identity.String())
	text("ambit.destination.workload", c.Destination.Workload.Name)
	text("ambit.destination.namespace", c.Destination.Workload.Namespace)
	text("ambit.service", c.Service.Host)
	text("ambit.authority", c.Authority)
	text("ambit.policy", c.Policy)
	if flag != 0 {
		text("ambit.response_flags", flag.String())
	}
	if c.ActualDst.IsValid() {
		text("network.peer.address", c.ActualDst.Addr().String())
		s.Attrs = append(s.Attrs, tracing.Attr{Key: "network.peer.port", Number: int64(c.ActualDst.Port())})
	}
	s.Attrs = append(s.Attrs,
		tracing.Attr{Key: "ambit.bytes_sent", Number: int64(r.bytes.Sent.Load())},
		tracing.Attr{Key: "ambit.bytes_received", Number: int64(r.bytes.Received.Load())})
	return s
}
