package message

import (
	"iter"
	"slices"
	"strings"
)

// Field is one header or trailer field.
type Field struct{ Name, Value string }

// Fields are the header or trailer of a message, in the order in which they
// came. A name may stand more than once. The zero Fields are empty.
type Fields []Field

// Get returns the first value of a name, or "".
func (f Fields) Get(name string) string {
	for i := range f {
		if EqualName(f[i].Name, name) {
			return f[i].Value
		}
	}
	return ""
}

// Has reports whether a name is there.
func (f Fields) Has(name string) bool {
	return slices.ContainsFunc(f, func(x Field) bool { return EqualName(x.Name, name) })
}

// Values are all values of a name.
func (f Fields) Values(name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range f {
			if EqualName(f[i].Name, name) && !yield(f[i].Value) {
				return
			}
		}
	}
}

// Add appends a field.
func (f *Fields) Add(name, value string) { *f = append(*f, Field{name, value}) }

// Set leaves one field of the name, in the place of the first.
func (f *Fields) Set(name, value string) {
	at := slices.IndexFunc(*f, func(x Field) bool { return EqualName(x.Name, name) })
	if at < 0 {
		f.Add(name, value)
		return
	}
	(*f)[at].Value = value
	kept := (*f)[:at+1]
	for _, x := range (*f)[at+1:] {
		if !EqualName(x.Name, name) {
			kept = append(kept, x)
		}
	}
	*f = kept
}

// Del removes all fields of a name.
func (f *Fields) Del(name string) {
	*f = slices.DeleteFunc(*f, func(x Field) bool { return EqualName(x.Name, name) })
}

// EqualName compares names of fields, in which case does not count.
func EqualName(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if x, y := a[i], b[i]; x != y && lower(x) != lower(y) {
			return false
		}
	}
	return true
}

// lower is c in lower case if it is an ASCII letter.
func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c | 0x20
	}
	return c
}

// ValidName reports whether name is a token. Source: RFC 9110, section 5.6.2.
func ValidName(name string) bool {
	for i := range len(name) {
		if !IsToken(name[i]) {
			return false
		}
	}
	return name != ""
}

// ValidValue reports whether value has no control character but a tab, and no
// space around it. Source: RFC 9110, section 5.5.
func ValidValue(value string) bool {
	for i := range len(value) {
		if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	n := len(value)
	return n == 0 || !isBlank(value[0]) && !isBlank(value[n-1])
}

// isBlank reports whether c is a space or a tab.
func isBlank(c byte) bool { return c == ' ' || c == '\t' }

// TrimBlank removes spaces and tabs around s.
func TrimBlank(s string) string {
	for len(s) > 0 && isBlank(s[0]) {
		s = s[1:]
	}
	for len(s) > 0 && isBlank(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	return s
}

// IsToken reports whether c may stand in a token. Source: RFC 9110, section
// 5.6.2.
func IsToken(c byte) bool { return tokens[c] }

// tokens are the characters of a token.
var tokens = func() (t [256]bool) {
	for c := '0'; c <= '9'; c++ {
		t[c] = true
	}
	for c := 'a'; c <= 'z'; c++ {
		t[c], t[c-'a'+'A'] = true, true
	}
	for _, c := range "!#$%&'*+-.^_`|~" {
		t[c] = true
	}
	return t
}()

// List are the elements of a comma separated list, without those that are empty.
func List(value string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for part := range strings.SplitSeq(value, ",") {
			if part = TrimBlank(part); part != "" && !yield(part) {
				return
			}
		}
	}
}

// hopByHop are fields that are about one connection. Source: RFC 9110, section
// 7.6.1; Proxy-Connection is what some clients say instead.
var hopByHop = []string{"connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade", "http2-settings"}

// HopByHop reports whether a field is about one connection and is never sent on.
func HopByHop(name string) bool {
	switch len(name) {
	case 2, 7, 10, 14, 16, 17: // of hopByHop
		return slices.ContainsFunc(hopByHop, func(h string) bool { return EqualName(h, name) })
	}
	return false
}

// forbiddenTrailers are fields that would change how a message is read or who
// sent it. Source: RFC 9110, section 6.5.1.
var forbiddenTrailers = []string{
	"content-length", "host", "content-encoding", "content-type", "content-range", "authorization", "set-cookie", "cookie",
	"cache-control", "expect", "max-forwards", "pragma", "range", "x-forwarded-for", "x-forwarded-client-cert",
}

// AllowedTrailer reports whether a field may stand behind a body.
func AllowedTrailer(name string) bool {
	return !HopByHop(name) && !slices.ContainsFunc(forbiddenTrailers, func(h string) bool { return EqualName(h, name) })
}

// unnameable are fields that a Connection field must not name: removing them
// changes what others decide about a request.
var unnameable = []string{
	"host", "content-length", "transfer-encoding", "authorization", "cookie", "content-type", "expect",
	"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-client-cert", "x-real-ip", "forwarded",
}

// MayName reports whether a Connection field may name a field, which is then
// not sent on.
func MayName(name string) bool {
	return !slices.ContainsFunc(unnameable, func(h string) bool { return EqualName(h, name) })
}
