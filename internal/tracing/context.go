package tracing

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
)

// Header is the name of the header in which a [Context] travels.
// Source: W3C Trace Context, section 3.2.
const Header = "traceparent"

// sampled is the flag that says that the trace is recorded.
// Source: W3C Trace Context, section 3.2.2.5.1.
const sampled = 1

// Context names a trace and the span that is the parent of what follows. The
// zero Context means "none". It is comparable.
type Context struct {
	Trace [16]byte
	Span  [8]byte
	Flags byte
}

// IsZero reports whether there is none.
func (c Context) IsZero() bool { return c == Context{} }

// Sampled reports whether the trace is recorded.
func (c Context) Sampled() bool { return c.Flags&sampled != 0 }

// String is the header value. Source: W3C Trace Context, section 3.2.
func (c Context) String() string {
	const size = len("00-0123456789abcdef0123456789abcdef-0123456789abcdef-00")
	out := append(make([]byte, 0, size), "00-"...)
	out = append(hex.AppendEncode(out, c.Trace[:]), '-')
	out = append(hex.AppendEncode(out, c.Span[:]), '-')
	return string(hex.AppendEncode(out, []byte{c.Flags}))
}

// TraceID is the trace's id as logs show it.
func (c Context) TraceID() string { return hex.EncodeToString(c.Trace[:]) }

// NewContext makes a random one, not sampled. It is no secret, so the fast
// random source will do; the lowest bit is set because zero is not an id.
func NewContext() (c Context) {
	binary.BigEndian.PutUint64(c.Trace[:8], rand.Uint64())
	binary.BigEndian.PutUint64(c.Trace[8:], rand.Uint64()|1)
	c.Span = newSpan()
	return c
}

// newSpan makes a span's id.
func newSpan() (id [8]byte) {
	binary.BigEndian.PutUint64(id[:], rand.Uint64()|1)
	return id
}

// ParseContext reads a header value. A version above 00 may have more at its
// end; version ff and ids of zeros are invalid.
func ParseContext(s string) (Context, error) {
	const size = len("00-0123456789abcdef0123456789abcdef-0123456789abcdef-00")
	bad := func(why string) (Context, error) {
		return Context{}, fmt.Errorf("traceparent: %s", why)
	}
	switch {
	case len(s) < size:
		return bad("too short")
	case strings.ContainsAny(s[:size], "ABCDEF"):
		return bad("hex digits are not lower case")
	case s[2] != '-' || s[35] != '-' || s[52] != '-':
		return bad("want version-trace-span-flags")
	case s[:2] == "ff":
		return bad("version ff is invalid")
	case s[:2] == "00" && len(s) > size, len(s) > size && s[size] != '-':
		return bad("too long")
	}
	var c Context
	var small [1]byte
	for _, part := range []struct {
		text string
		into []byte
	}{{s[:2], small[:]}, {s[3:35], c.Trace[:]}, {s[36:52], c.Span[:]}, {s[53:55], small[:]}} {
		if _, err := hex.Decode(part.into, []byte(part.text)); err != nil {
			return bad(err.Error())
		}
	}
	c.Flags = small[0]
	if c.Trace == ([16]byte{}) || c.Span == ([8]byte{}) {
		return bad("an id is all zeros")
	}
	return c, nil
}
