package match

import (
	"slices"
	"strings"
)

// Exact is the only value that the comparison holds for, in lower case when case
// does not count; ok is false when there are others.
func (t *Text) Exact() (value string, ok bool) {
	return t.want, t.kind == exact && !t.invert
}

// IgnoresCase reports whether case does not count.
func (t *Text) IgnoresCase() bool { return t.fold }

// Literal is what every path that the pattern matches begins with, or all of it
// when whole is true. It is "" when that is not known.
func (p *Pattern) Literal() (text string, whole bool) {
	if p.segments == nil {
		switch {
		case p.text.fold || p.text.invert:
		case p.text.kind == exact:
			return p.text.want, true
		case p.text.kind == prefix:
			return p.text.want, false
		}
		return "", false
	}
	n := slices.IndexFunc(p.segments, func(s string) bool { return s == "*" || s == "**" })
	if n < 0 {
		return "/" + strings.Join(p.segments, "/"), true
	}
	// Two stars may stand for nothing, not even the slash before them.
	return strings.TrimSuffix("/"+strings.Join(p.segments[:n], "/"), "/"), false
}
