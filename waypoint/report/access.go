package report

import (
	"cmp"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/ambit-mesh/ambit/internal/telemetry"
)

// write writes the line of a record.
func (r *Reporter) write(rec *Record, took time.Duration) {
	level := zap.InfoLevel
	if rec.Flags != "" || rec.Status >= 500 {
		level = zap.WarnLevel
	}
	what := "request complete"
	if rec.Protocol == TCP {
		what = "connection complete"
	}
	if e := r.log.Check(level, what); e != nil {
		e.Write(zap.Inline(&line{rec, took}))
	}
}

// line is a record as a line of the log.
type line struct {
	rec  *Record
	took time.Duration
}

// MarshalLogObject writes the fields in their order.
func (l *line) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	rec := l.rec
	text := func(key, value string) {
		if value != "" {
			enc.AddString(key, value)
		}
	}
	peer(text, "src", &rec.Source)
	text("dst.service", rec.Service.Host)
	peer(text, "dst", &rec.Destination)
	text("dst.asked", rec.Asked)
	text("protocol", string(rec.Protocol))
	if rec.Method != "" {
		text("method", rec.Method)
		text("host", rec.Host)
		text("path", rec.Path)
		text("version", rec.Version)
	}
	if rec.Protocol != TCP {
		enc.AddInt("status", rec.Status)
	}
	text("grpc_status", rec.GRPCStatus)
	text("route", rec.Route)
	text("policy", rec.Policy)
	text("decision", rec.Reason)
	for _, n := range rec.Noted {
		text("noted", n)
	}
	text("flags", rec.Flags)
	text("details", rec.Details)
	if rec.Upstream.IsValid() {
		text("upstream", rec.Upstream.String())
	}
	if rec.Tries > 1 {
		enc.AddInt("tries", rec.Tries)
	}
	enc.AddUint64("bytes_received", rec.Received)
	enc.AddUint64("bytes_sent", rec.Sent)
	enc.AddDuration("duration", l.took)
	if rec.Waited > 0 {
		enc.AddDuration("upstream_duration", rec.Waited)
	}
	text("request_id", rec.RequestID)
	text("trace_id", rec.TraceID)
	return nil
}

// peer writes one end.
func peer(text func(key, value string), end string, p *telemetry.Peer) {
	if p.Addr.IsValid() {
		text(end+".addr", p.Addr.String())
	}
	text(end+".workload", cmp.Or(p.Workload.Name, p.Workload.WorkloadName)) // callers say the latter
	text(end+".namespace", p.Workload.Namespace)
	text(end+".identity", p.Identity.String())
}
