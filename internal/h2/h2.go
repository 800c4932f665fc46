// Package h2 is what every user of HTTP/2 here needs of its wire format: frame
// headers, header fields that enter no table, and rates at which a peer may
// cost us something.
package h2

import (
	"encoding/binary"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// HeadSize is the size of a frame header, in bytes. Source: RFC 9113, section 4.1.
const HeadSize = 9

// FrameHead is the head of a frame.
type FrameHead struct {
	Length int
	Kind   http2.FrameType
	Flags  http2.Flags
	Stream uint32
}

// ParseHead reads the first nine bytes of p.
func ParseHead(p []byte) FrameHead {
	_ = p[HeadSize-1]
	return FrameHead{
		Length: int(p[0])<<16 | int(p[1])<<8 | int(p[2]),
		Kind:   http2.FrameType(p[3]),
		Flags:  http2.Flags(p[4]),
		Stream: binary.BigEndian.Uint32(p[5:]) &^ (1 << 31),
	}
}

// AppendHead appends the nine bytes of h.
func AppendHead(p []byte, h FrameHead) []byte {
	p = append(p, byte(h.Length>>16), byte(h.Length>>8), byte(h.Length), byte(h.Kind), byte(h.Flags))
	return binary.BigEndian.AppendUint32(p, h.Stream)
}

// Indices of the static table whose names we use. Source: RFC 7541, appendix A.
const (
	StaticAuthority = 1
	StaticMethod    = 2
	StaticPath      = 4
	StaticScheme    = 6
	StaticStatus    = 8
)

// AppendStatus encodes a :status.
func AppendStatus(p []byte, status int) []byte {
	if status == 200 {
		return append(p, 0x80|StaticStatus) // an indexed field: name and value
	}
	return AppendIndexed(p, StaticStatus, string([]byte{'0' + byte(status/100%10), '0' + byte(status/10%10), '0' + byte(status%10)}))
}

// AppendIndexed encodes a field whose name is in the static table below 15.
// Fields are literals that do not enter the peer's dynamic table, so that any
// goroutine can encode and the order on the wire does not matter. Source: RFC
// 7541, section 6.2.2.
func AppendIndexed(p []byte, index byte, value string) []byte {
	return AppendString(append(p, index), value)
}

// AppendField encodes a field with its name.
func AppendField(p []byte, name, value string) []byte {
	return AppendString(AppendString(append(p, 0), name), value)
}

// AppendString encodes s without Huffman coding.
func AppendString(p []byte, s string) []byte {
	n := len(s)
	if n < 127 {
		return append(append(p, byte(n)), s...)
	}
	p = append(p, 127)
	for n -= 127; n >= 128; n >>= 7 {
		p = append(p, byte(n)|0x80)
	}
	return append(append(p, byte(n)), s...)
}

// ValidField reports whether the name is in lower case and neither name nor
// value holds control characters. Source: RFC 9113, section 8.2.1.
func ValidField(f hpack.HeaderField) bool {
	if f.Name == "" {
		return false
	}
	for _, b := range []byte(f.Name) {
		if b <= ' ' || b >= 0x7f || b >= 'A' && b <= 'Z' || b == ':' {
			return false
		}
	}
	return !strings.ContainsAny(f.Value, "\x00\r\n")
}

// Rate is how often something may happen: Burst at once, then PerSecond.
type Rate struct{ Burst, PerSecond int }

// Bucket counts against a Rate. Its zero value is full.
type Bucket struct {
	spent float64 // tokens not yet earned back
	last  time.Time
}

// Take spends n tokens and reports whether they were there.
func (b *Bucket) Take(r Rate, n int, now time.Time) bool {
	if !b.last.IsZero() {
		b.spent = max(0, b.spent-now.Sub(b.last).Seconds()*float64(r.PerSecond))
	}
	b.last = now
	b.spent += float64(n)
	return b.spent <= float64(r.Burst)
}
