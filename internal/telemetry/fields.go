package telemetry

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"go.uber.org/zap/buffer"
	"go.uber.org/zap/zapcore"
)

// fieldWriter appends fields as key=value. One goroutine uses it.
type fieldWriter struct {
	buf    *buffer.Buffer
	space  bool   // something stands before the next field
	first  byte   // what separates the first field from it, unless zero
	prefix string // of keys, from OpenNamespace
}

var _ zapcore.ObjectEncoder = (*fieldWriter)(nil)

// key appends what stands before a value.
func (w *fieldWriter) key(key string) {
	switch {
	case w.first != 0:
		w.buf.AppendByte(w.first)
		w.first = 0
	case w.space:
		w.buf.AppendByte(' ')
	}
	w.space = true
	w.buf.AppendString(w.prefix)
	w.buf.AppendString(key)
	w.buf.AppendByte('=')
}

// bare appends a text without quotes: an address.
func (w *fieldWriter) bare(key, text string) {
	w.key(key)
	w.buf.AppendString(text)
}

// quoted appends a text in quotes, with control characters escaped.
func (w *fieldWriter) quoted(key, text string) {
	w.key(key)
	// Quoting in the middle of the buffer would need access to its bytes; most
	// texts need no escape and then cost no memory.
	if strconv.CanBackquote(text) && !needsEscape(text) {
		w.buf.AppendByte('"')
		w.buf.AppendString(text)
		w.buf.AppendByte('"')
		return
	}
	w.buf.AppendString(strconv.Quote(text))
}

// needsEscape tells whether a printable text cannot stand in quotes as it is.
func needsEscape(text string) bool {
	for i := 0; i < len(text); i++ {
		if text[i] == '"' || text[i] == '\\' || text[i] == '\t' || text[i] >= 0x80 {
			return true
		}
	}
	return false
}

// AddString appends a text in quotes.
func (w *fieldWriter) AddString(key, v string) { w.quoted(key, v) }

// AddByteString appends a text in quotes.
func (w *fieldWriter) AddByteString(key string, v []byte) { w.quoted(key, string(v)) }

// AddBinary appends bytes as base64.
func (w *fieldWriter) AddBinary(key string, v []byte) {
	w.bare(key, base64.StdEncoding.EncodeToString(v))
}

// AddBool appends true or false.
func (w *fieldWriter) AddBool(key string, v bool) { w.key(key); w.buf.AppendBool(v) }

// AddInt64 appends a number.
func (w *fieldWriter) AddInt64(key string, v int64) { w.key(key); w.buf.AppendInt(v) }

// AddUint64 appends a number.
func (w *fieldWriter) AddUint64(key string, v uint64) { w.key(key); w.buf.AppendUint(v) }

// AddFloat64 appends a number.
func (w *fieldWriter) AddFloat64(key string, v float64) { w.key(key); w.buf.AppendFloat(v, 64) }

// AddFloat32 appends a number.
func (w *fieldWriter) AddFloat32(key string, v float32) {
	w.key(key)
	w.buf.AppendFloat(float64(v), 32)
}

// AddDuration appends a duration with its unit, in quotes.
func (w *fieldWriter) AddDuration(key string, v time.Duration) { w.quoted(key, v.String()) }

// AddTime appends a time in UTC.
func (w *fieldWriter) AddTime(key string, v time.Time) { w.bare(key, v.UTC().Format(timeLayout)) }

// AddInt appends a number.
func (w *fieldWriter) AddInt(key string, v int) { w.AddInt64(key, int64(v)) }

// AddInt32 appends a number.
func (w *fieldWriter) AddInt32(key string, v int32) { w.AddInt64(key, int64(v)) }

// AddInt16 appends a number.
func (w *fieldWriter) AddInt16(key string, v int16) { w.AddInt64(key, int64(v)) }

// AddInt8 appends a number.
func (w *fieldWriter) AddInt8(key string, v int8) { w.AddInt64(key, int64(v)) }

// AddUint appends a number.
func (w *fieldWriter) AddUint(key string, v uint) { w.AddUint64(key, uint64(v)) }

// AddUint32 appends a number.
func (w *fieldWriter) AddUint32(key string, v uint32) { w.AddUint64(key, uint64(v)) }

// AddUint16 appends a number.
func (w *fieldWriter) AddUint16(key string, v uint16) { w.AddUint64(key, uint64(v)) }

// AddUint8 appends a number.
func (w *fieldWriter) AddUint8(key string, v uint8) { w.AddUint64(key, uint64(v)) }

// AddUintptr appends a number.
func (w *fieldWriter) AddUintptr(key string, v uintptr) { w.AddUint64(key, uint64(v)) }

// AddComplex128 appends a number.
func (w *fieldWriter) AddComplex128(key string, v complex128) {
	w.bare(key, strconv.FormatComplex(v, 'g', -1, 128))
}

// AddComplex64 appends a number.
func (w *fieldWriter) AddComplex64(key string, v complex64) { w.AddComplex128(key, complex128(v)) }

// OpenNamespace puts a prefix before the keys that follow.
func (w *fieldWriter) OpenNamespace(key string) { w.prefix += key + "." }

// AddReflected appends any value as JSON.
func (w *fieldWriter) AddReflected(key string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("log field %s: %w", key, err)
	}
	w.bare(key, string(text))
	return nil
}

// AddArray appends a list as JSON.
func (w *fieldWriter) AddArray(key string, v zapcore.ArrayMarshaler) error {
	m := zapcore.NewMapObjectEncoder()
	if err := m.AddArray(key, v); err != nil {
		return fmt.Errorf("log field %s: %w", key, err)
	}
	return w.AddReflected(key, m.Fields[key])
}

// AddObject appends an object as JSON.
func (w *fieldWriter) AddObject(key string, v zapcore.ObjectMarshaler) error {
	m := zapcore.NewMapObjectEncoder()
	if err := v.MarshalLogObject(m); err != nil {
		return fmt.Errorf("log field %s: %w", key, err)
	}
	return w.AddReflected(key, m.Fields)
}
