package telemetry

import (
	"cmp"
	"errors"
	"net/netip"
	"strconv"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Messages of the access log. Existing tools search for these texts.
const (
	messageOpened   = "connection opened"
	messageComplete = "connection complete"
	messageRefused  = "connection failed"
)

// logOpened writes the line of a new connection, at debug.
func (r *Record) logOpened() {
	if ce := r.records.log.Check(zapcore.DebugLevel, messageOpened); ce != nil {
		e := r.entry()
		ce.Write(zap.Inline(&accessLine{entry: &e}))
	}
}

// logClosed sees to the access log line of a connection that has ended.
func (r *Record) logClosed(end time.Time, err error) {
	if !r.records.log.Core().Enabled(closedLevel(err)) {
		return
	}
	if !r.records.endings.put(ending{record: r, at: end, err: err}) {
		r.writeClosed(end, err)
	}
}

// closedLevel is info for a good end, error for any other.
func closedLevel(err error) zapcore.Level {
	if err != nil {
		return zapcore.ErrorLevel
	}
	return zapcore.InfoLevel
}

// writeClosed writes the access log line of a connection that has ended at end.
func (r *Record) writeClosed(end time.Time, err error) {
	if ce := r.records.log.Check(closedLevel(err), messageComplete); ce != nil {
		ce.Time = end
		e := r.entry()
		e.Closed = end
		ce.Write(zap.Inline(&accessLine{entry: &e, err: err}))
	}
}

// logRefused writes the line of an early refusal.
func (r *Records) logRefused(d Direction, src, dst netip.AddrPort, err error) {
	if ce := r.log.Check(zapcore.WarnLevel, messageRefused); ce != nil {
		ce.Write(zap.Inline(&refusedLine{direction: d, src: src, dst: dst, err: err}))
	}
}

// accessLine is the fields of one connection. Names and order are fixed by
// those who parse the log; what is ours stands after them.
type accessLine struct {
	entry *Entry
	err   error
}

// MarshalLogObject adds the fields.
func (l *accessLine) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	c := &l.entry.Conn
	addPeer(enc, "src", &c.Source, nil)
	addPeer(enc, "dst", &c.Destination, func() {
		if c.Authority != "" {
			addBare(enc, "dst.hbone_addr", c.Authority)
		}
		addText(enc, "dst.service", c.Service.Host)
	})
	enc.AddString("direction", c.Direction.String())
	if !l.entry.Closed.IsZero() {
		sent, received := l.entry.BytesSent, l.entry.BytesReceived
		if c.Direction == Inbound {
			sent, received = received, sent // as the captured pod sees it
		}
		enc.AddUint64("bytes_sent", sent)
		enc.AddUint64("bytes_recv", received)
		enc.AddString("duration", millis(l.entry.Closed.Sub(l.entry.Opened)))
	}
	addError(enc, l.err)
	addText(enc, "policy", c.Policy)
	addVerdict(enc, l.err)
	enc.AddString("hop", c.Hop.String())
	return nil
}

// addPeer adds the fields of one end. middle adds what stands after its address.
func addPeer(enc zapcore.ObjectEncoder, prefix string, p *Peer, middle func()) {
	addAddr(enc, prefix+".addr", p.Addr)
	if middle != nil {
		middle()
	}
	addText(enc, prefix+".workload", cmp.Or(p.Workload.Name, p.Workload.CanonicalService))
	addText(enc, prefix+".namespace", p.Workload.Namespace)
	if !p.Identity.IsZero() {
		enc.AddString(prefix+".identity", p.Identity.String())
	}
	addText(enc, prefix+".cluster", p.Workload.Cluster)
}

// refusedLine is the fields of an early refusal.
type refusedLine struct {
	direction Direction
	src, dst  netip.AddrPort
	err       error
}

// MarshalLogObject adds the fields.
func (l *refusedLine) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	addAddr(enc, "src.addr", l.src)
	addAddr(enc, "dst.addr", l.dst)
	enc.AddString("direction", l.direction.String())
	addError(enc, l.err)
	addVerdict(enc, l.err)
	return nil
}

// addError adds why the connection ended, unless it ended well.
func addError(enc zapcore.ObjectEncoder, err error) {
	if err != nil {
		enc.AddString("error", err.Error())
	}
}

// addVerdict adds at which stage and by whose fault the connection ended.
func addVerdict(enc zapcore.ObjectEncoder, err error) {
	if err == nil {
		return
	}
	var stage Stage
	var fault Fault
	if e, ok := errors.AsType[*Error](err); ok {
		stage, fault = e.Stage, e.Fault
	}
	enc.AddString("stage", stage.String())
	enc.AddString("fault", fault.String())
}

// addText adds text unless it is empty.
func addText(enc zapcore.ObjectEncoder, key, text string) {
	if text != "" {
		enc.AddString(key, text)
	}
}

// addAddr adds addr unless it is none.
func addAddr(enc zapcore.ObjectEncoder, key string, addr netip.AddrPort) {
	if addr.IsValid() {
		addBare(enc, key, addr.String())
	}
}

// addBare adds a text that has no quotes in the plain layout. It must hold no
// blank: it is an address, or an authority that was parsed.
func addBare(enc zapcore.ObjectEncoder, key, text string) {
	if w, ok := enc.(*fieldWriter); ok {
		w.bare(key, text)
		return
	}
	enc.AddString(key, text)
}

// millis is d in whole milliseconds, with the unit.
func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) + "ms" }
