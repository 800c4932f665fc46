package telemetry

import (
	"time"

	"go.uber.org/zap/buffer"
	"go.uber.org/zap/zapcore"
)

// timeLayout is RFC 3339 in UTC with microseconds.
const timeLayout = "2006-01-02T15:04:05.000000Z"

// newJSONEncoder writes one object per line: level, time, scope, message, and
// the fields beside them.
func newJSONEncoder() zapcore.Encoder {
	return zapcore.NewJSONEncoder(zapcore.EncoderConfig{
		LevelKey: "level", TimeKey: "time", NameKey: "scope", MessageKey: "message",
		EncodeLevel: func(l zapcore.Level, out zapcore.PrimitiveArrayEncoder) { out.AppendString(levelName(l)) },
		EncodeTime: func(t time.Time, out zapcore.PrimitiveArrayEncoder) {
			if direct, ok := out.(interface{ AppendTimeLayout(time.Time, string) }); ok {
				direct.AppendTimeLayout(t.UTC(), timeLayout) // into the line, without a text of its own
				return
			}
			out.AppendString(t.UTC().Format(timeLayout))
		},
		EncodeDuration: func(d time.Duration, out zapcore.PrimitiveArrayEncoder) { out.AppendString(d.String()) },
	})
}

// plainEncoder writes time, level, scope, message and fields with tabs between
// them, and the fields as key=value with spaces between them. Texts are quoted,
// numbers are not.
type plainEncoder struct {
	fieldWriter
	pool buffer.Pool
}

// newPlainEncoder makes an encoder without fields.
func newPlainEncoder() zapcore.Encoder {
	pool := buffer.NewPool()
	return &plainEncoder{fieldWriter: fieldWriter{buf: pool.Get()}, pool: pool}
}

// Clone returns an encoder that starts with the same fields.
func (e *plainEncoder) Clone() zapcore.Encoder {
	clone := &plainEncoder{fieldWriter: fieldWriter{buf: e.pool.Get(), space: e.space}, pool: e.pool}
	clone.buf.Write(e.buf.Bytes()) // a buffer takes all
	return clone
}

// EncodeEntry returns the line of one entry.
func (e *plainEncoder) EncodeEntry(entry zapcore.Entry, fields []zapcore.Field) (*buffer.Buffer, error) {
	line := e.pool.Get()
	line.AppendTime(entry.Time.UTC(), timeLayout)
	line.AppendByte('\t')
	line.AppendString(levelName(entry.Level))
	if entry.LoggerName != "" {
		line.AppendByte('\t')
		line.AppendString(entry.LoggerName)
	}
	line.AppendByte('\t')
	appendMessage(line, entry.Message)
	w := fieldWriter{buf: line, space: true, first: '\t'}
	if e.buf.Len() > 0 {
		line.AppendByte('\t')
		line.Write(e.buf.Bytes()) // a buffer takes all
		w.first = ' '
	}
	for _, f := range fields {
		f.AddTo(&w)
	}
	line.AppendByte('\n')
	return line, nil
}

// appendMessage keeps a line one line, whatever the message.
func appendMessage(line *buffer.Buffer, message string) {
	for i := 0; i < len(message); i++ {
		if message[i] < ' ' || message[i] == 0x7f {
			line.AppendByte(' ')
			continue
		}
		line.AppendByte(message[i])
	}
}
