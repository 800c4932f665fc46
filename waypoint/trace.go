package waypoint

import (
	"github.com/ambit-mesh/ambit/internal/hbone"
	"github.com/ambit-mesh/ambit/internal/tracing"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

// traceOf is the place in a trace that the client's node proxy has told; it is only
// looked at when somebody wants spans.
func (w *Waypoint) traceOf(in *hbone.Incoming) tracing.Context {
	if w.spans == nil {
		return tracing.Context{}
	}
	c, _ := tracing.ParseContext(in.Header.Get(tracing.Header)) // what is no context is none
	return c
}

// joinTrace finds the request's place in a trace: below the span that the
// application names, else below that of the tunnel's stream, which the client's node
// proxy began; where neither says anything, a trace begins here. Of an application's
// trace that is not sampled nothing is recorded: whoever began it has decided.
func (f *flight) joinTrace() {
	if text := f.req.Fields.Get(tracing.Header); text != "" {
		named, err := tracing.ParseContext(text)
		if err == nil {
			f.rec.TraceID = named.TraceID()
			if f.rec.Trace = f.w.spans.Child(named); f.rec.Trace.Sampled() && f.c.trace.Sampled() {
				f.rec.Also = f.c.trace
			}
			return
		}
	}
	if f.w.spans == nil {
		return
	}
	if f.rec.Trace = f.w.spans.Child(f.c.trace); !f.rec.Trace.Sampled() && f.c.trace.IsZero() {
		f.rec.Trace = f.w.spans.Root()
	}
	if f.rec.Trace.Sampled() {
		f.rec.TraceID = f.rec.Trace.TraceID()
	}
}

// sendTrace names our span to the application as its parent. What is not sampled is
// sent on as it came.
func (f *flight) sendTrace() {
	if !f.rec.Trace.Sampled() {
		return
	}
	// Policies are asked again about what the client has sent.
	f.req.Fields = append(message.Fields(nil), f.req.Fields...)
	f.req.Fields.Set(tracing.Header, f.rec.Trace.String())
}
