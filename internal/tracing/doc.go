// Package tracing tells an OpenTelemetry collector what happened: spans of
// connections and requests that belong to traces which somebody samples.
//
// # The path of a span
//
// A [Context] names a trace and a span of it; it travels as the header
// traceparent, in a CONNECT and in a request. Who begins something makes a
// [Link] with [Exporter.Root] or [Exporter.Child], sends its Context on, and
// gives a [Span] to [Exporter.Add] at its end, if the link is sampled.
// [Exporter.Run] sends spans in batches over OTLP.
//
//	context.go  trace and span ids, and how they travel
//	span.go     what a span says, and its form on the wire
//	exporter.go the queue, the batches and the collector
//	settings.go what the environment says
//
// # What it costs
//
// Without a collector there is no Exporter: a nil one is ready for use, samples
// nothing and takes nothing. With one, what is not sampled costs an id. Spans
// are dropped, and counted, when the collector is slower than they come: nothing
// waits for it.
//
// # Why no SDK
//
// OpenTelemetry's own SDK and exporter would bring a dozen modules and several
// megabytes of them, resident in every node proxy, for what is one message of a
// dozen fields: the fields are written here as its .proto files number them, and
// the tests read them with the types that are generated from those.
package tracing
