package report

import (
	"cmp"
	"time"

	"github.com/ambit-mesh/ambit/internal/tracing"
)

// span is a record that is complete as a span of its trace. Names of facts are those
// of OpenTelemetry's conventions where it has one.
func (rec *Record) span(took time.Duration) tracing.Span {
	s := tracing.Span{
		Link: rec.Trace, Also: rec.Also, Kind: tracing.Server, Start: rec.Start, End: rec.Start.Add(took),
		Name: cmp.Or(rec.Method, "connection"),
	}
	if rec.Route != "" {
		s.Name += " " + rec.Route
	}
	if rec.Status >= 500 || rec.Flags != "" {
		s.Error = cmp.Or(rec.Details, rec.Flags, "server error")
	}
	text := func(key, value string) { s.Attrs = append(s.Attrs, tracing.Attr{Key: key, Text: value}) }
	number := func(key string, value int64) { s.Attrs = append(s.Attrs, tracing.Attr{Key: key, Number: value}) }
	if rec.Protocol != TCP {
		text("http.request.method", rec.Method)
		text("server.address", rec.Host)
		text("url.path", rec.Path)
		text("network.protocol.name", rec.Version)
		number("http.response.status_code", int64(rec.Status))
		text("rpc.grpc.status_code", rec.GRPCStatus)
	}
	text("ambit.source.identity", rec.Source.Identity.String())
	text("ambit.source.workload", rec.Source.Workload.Name)
	text("ambit.source.namespace", rec.Source.Workload.Namespace)
	text("ambit.destination.identity", rec.Destination.Identity.String())
	text("ambit.destination.workload", rec.Destination.Workload.Name)
	text("ambit.destination.namespace", rec.Destination.Workload.Namespace)
	text("ambit.service", rec.Service.Host)
	text("ambit.route", rec.Route)
	text("ambit.policy", rec.Policy)
	text("ambit.decision", rec.Reason)
	text("ambit.response_flags", rec.Flags)
	text("ambit.request_id", rec.RequestID)
	if rec.Upstream.IsValid() {
		text("network.peer.address", rec.Upstream.Addr().String())
		number("network.peer.port", int64(rec.Upstream.Port()))
	}
	number("ambit.tries", int64(rec.Tries))
	number("http.request.body.size", int64(rec.Received))
	number("http.response.body.size", int64(rec.Sent))
	return s
}
