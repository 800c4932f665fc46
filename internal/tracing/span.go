package tracing

import (
	"math"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// Kind says which side of an exchange a span is.
type Kind uint8

// The kinds. Source: opentelemetry/proto/trace/v1/trace.proto, Span.SpanKind.
const (
	Internal Kind = 1
	Server   Kind = 2
	Client   Kind = 3
)

// Link is the place of a span in its trace. The zero Link is in none.
type Link struct {
	Context         // of the span itself
	Parent  [8]byte // zero: it is the first of its trace
}

// Attr is one fact of a span. Empty Text with zero Number is left out.
type Attr struct {
	Key    string
	Text   string
	Number int64
}

// Span is one thing that happened and is over.
type Span struct {
	Link
	Name       string
	Kind       Kind
	Start, End time.Time
	Attrs      []Attr
	// Also is another trace that it has to do with; zero: none.
	Also Context
	// Error is why it failed; empty when it did not.
	Error string
}

// Numbers of the fields. Source: opentelemetry/proto/trace/v1/trace.proto,
// common/v1/common.proto and resource/v1/resource.proto.
const (
	fieldResourceSpans protowire.Number = 1 // of ExportTraceServiceRequest

	fieldResource   protowire.Number = 1 // of ResourceSpans
	fieldScopeSpans protowire.Number = 2

	fieldResourceAttr protowire.Number = 1 // of Resource

	fieldScope     protowire.Number = 1 // of ScopeSpans
	fieldSpans     protowire.Number = 2
	fieldScopeName protowire.Number = 1 // of InstrumentationScope

	fieldTraceID protowire.Number = 1 // of Span
	fieldSpanID  protowire.Number = 2
	fieldParent  protowire.Number = 4
	fieldName    protowire.Number = 5
	fieldKind    protowire.Number = 6
	fieldStart   protowire.Number = 7
	fieldEnd     protowire.Number = 8
	fieldAttr    protowire.Number = 9
	fieldLink    protowire.Number = 13
	fieldStatus  protowire.Number = 15
	fieldFlags   protowire.Number = 16

	fieldStatusMessage protowire.Number = 2 // of Status
	fieldStatusCode    protowire.Number = 3

	fieldKey   protowire.Number = 1 // of KeyValue
	fieldValue protowire.Number = 2

	fieldText   protowire.Number = 1 // of AnyValue
	fieldNumber protowire.Number = 3

	statusError = 2
)

// scope is what we call ourselves as a source of spans.
const scope = "ambit"

// appendBatch writes an ExportTraceServiceRequest.
func appendBatch(b []byte, resource []Attr, spans []Span) []byte {
	return appendMessage(b, fieldResourceSpans, func(b []byte) []byte {
		b = appendMessage(b, fieldResource, func(b []byte) []byte { return appendAttrs(b, fieldResourceAttr, resource) })
		return appendMessage(b, fieldScopeSpans, func(b []byte) []byte {
			b = appendMessage(b, fieldScope, func(b []byte) []byte { return appendText(b, fieldScopeName, scope) })
			for i := range spans {
				b = appendMessage(b, fieldSpans, spans[i].append)
			}
			return b
		})
	})
}

// append writes a Span.
func (s *Span) append(b []byte) []byte {
	b = appendBytes(b, fieldTraceID, s.Trace[:])
	b = appendBytes(b, fieldSpanID, s.Context.Span[:])
	if s.Parent != ([8]byte{}) {
		b = appendBytes(b, fieldParent, s.Parent[:])
	}
	b = appendText(b, fieldName, s.Name)
	b = protowire.AppendTag(b, fieldKind, protowire.VarintType)
	b = protowire.AppendVarint(b, uint64(s.Kind))
	b = protowire.AppendTag(b, fieldStart, protowire.Fixed64Type)
	b = protowire.AppendFixed64(b, uint64(s.Start.UnixNano()))
	b = protowire.AppendTag(b, fieldEnd, protowire.Fixed64Type)
	b = protowire.AppendFixed64(b, uint64(s.End.UnixNano()))
	b = appendAttrs(b, fieldAttr, s.Attrs)
	if !s.Also.IsZero() {
		b = appendMessage(b, fieldLink, func(b []byte) []byte {
			return appendBytes(appendBytes(b, fieldTraceID, s.Also.Trace[:]), fieldSpanID, s.Also.Span[:])
		})
	}
	if s.Error != "" {
		b = appendMessage(b, fieldStatus, func(b []byte) []byte {
			b = appendText(b, fieldStatusMessage, s.Error)
			return protowire.AppendVarint(protowire.AppendTag(b, fieldStatusCode, protowire.VarintType), statusError)
		})
	}
	b = protowire.AppendTag(b, fieldFlags, protowire.Fixed32Type)
	return protowire.AppendFixed32(b, uint32(s.Flags))
}

// appendAttrs writes KeyValues.
func appendAttrs(b []byte, field protowire.Number, attrs []Attr) []byte {
	for _, a := range attrs {
		if a.Text == "" && a.Number == 0 {
			continue
		}
		b = appendMessage(b, field, func(b []byte) []byte {
			b = appendText(b, fieldKey, a.Key)
			return appendMessage(b, fieldValue, func(b []byte) []byte {
				if a.Text != "" {
					return appendText(b, fieldText, a.Text)
				}
				return protowire.AppendVarint(protowire.AppendTag(b, fieldNumber, protowire.VarintType), uint64(a.Number))
			})
		})
	}
	return b
}

// appendMessage writes a message inside another: what body writes, with its length
// before it, for which room of a fixed size is left.
func appendMessage(b []byte, field protowire.Number, body func([]byte) []byte) []byte {
	const room = 5 // a length below 2^35
	b = protowire.AppendTag(b, field, protowire.BytesType)
	at := len(b)
	b = body(append(b, make([]byte, room)...))
	length := uint64(min(len(b)-at-room, math.MaxInt32))
	for i := range room {
		b[at+i] = byte(length>>(7*i))&0x7f | 0x80
	}
	b[at+room-1] &= 0x7f
	return b
}

// appendText writes a string. What is not UTF-8 is not taken by the collector, with
// all of the batch.
func appendText(b []byte, field protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), valid(s))
}

// appendBytes writes bytes.
func appendBytes(b []byte, field protowire.Number, p []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), p)
}
