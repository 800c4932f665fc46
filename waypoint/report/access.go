package report

import (
	"cmp"
	"sync"
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

// texts are what the text of one field is put together in. Encoders keep a copy.
var texts = sync.Pool{New: func() any { return new([]byte) }}

// MarshalLogObject writes the fields in their order.
func (l *line) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	rec := l.rec
	scratch := texts.Get().(*[]byte)
	defer texts.Put(scratch)
	text := func(key, value string) {
		if value != "" {
			enc.AddString(key, value)
		}
	}
	peer(enc, scratch, &sourceKeys, &rec.Source)
	text("dst.service", rec.Service.Host)
	peer(enc, scratch, &destinationKeys, &rec.Destination)
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
		*scratch = rec.Upstream.AppendTo((*scratch)[:0])
		enc.AddByteString("upstream", *scratch)
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

// peerKeys are the names of the fields of one end.
type peerKeys struct{ addr, workload, namespace, identity string }

// The two ends.
var (
	sourceKeys      = peerKeys{"src.addr", "src.workload", "src.namespace", "src.identity"}
	destinationKeys = peerKeys{"dst.addr", "dst.workload", "dst.namespace", "dst.identity"}
)

// peer writes one end. There is a line for each request, so that no text is made for it.
func peer(enc zapcore.ObjectEncoder, scratch *[]byte, key *peerKeys, p *telemetry.Peer) {
	if p.Addr.IsValid() {
		*scratch = p.Addr.AppendTo((*scratch)[:0])
		enc.AddByteString(key.addr, *scratch)
	}
	if name := cmp.Or(p.Workload.Name, p.Workload.WorkloadName); name != "" { // callers say the latter
		enc.AddString(key.workload, name)
	}
	if p.Workload.Namespace != "" {
		enc.AddString(key.namespace, p.Workload.Namespace)
	}
	if !p.Identity.IsZero() {
		*scratch = p.Identity.Append((*scratch)[:0])
		enc.AddByteString(key.identity, *scratch)
	}
}
